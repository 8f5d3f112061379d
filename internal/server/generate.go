package server

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/tokenizer"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// inferenceService is InferenceService. A call's goroutine does all of its work but the engine's: it checks, tokenizes, waits, decodes
// and sends; the engine never waits for it.
type inferenceService struct {
	infernov1.UnimplementedInferenceServiceServer
	*Server
}

// Generate collects the whole output.
func (s inferenceService) Generate(ctx context.Context, req *infernov1.GenerateRequest) (*infernov1.GenerateResponse, error) {
	out, err := s.open(ctx, req)
	if err != nil {
		return nil, err
	}
	defer out.close()
	completion := &infernov1.Completion{}
	var text strings.Builder
	for {
		delta, finish, err := out.next()
		if err != nil {
			return nil, err
		}
		text.WriteString(delta.GetText())
		completion.TokenIds = append(completion.TokenIds, delta.GetTokenIds()...)
		if finish == nil {
			continue
		}
		completion.Text = text.String()
		completion.Finish = out.finish(finish)
		return &infernov1.GenerateResponse{
			Start:       out.start(),
			Completions: []*infernov1.Completion{completion},
			Usage:       usageOf(finish),
			Timings:     timingsOf(finish),
		}, nil
	}
}

// GenerateStream sends tokens as they come. The first message waits for the first token, and with it the headers: until then the
// client's gRPC library may try another instance.
func (s inferenceService) GenerateStream(
	req *infernov1.GenerateRequest, stream infernov1.InferenceService_GenerateStreamServer,
) error {
	out, err := s.open(stream.Context(), req)
	if err != nil {
		return err
	}
	defer out.close()
	// Send itself ends only when the client reads on or its connection ends; the request's place on the device is free before.
	stalled := time.AfterFunc(s.sendTimeout, func() { out.cancel(errSlowReader) })
	stalled.Stop()
	send := func(m *infernov1.GenerateStreamResponse) error {
		stalled.Reset(s.sendTimeout)
		defer stalled.Stop()
		return stream.Send(m)
	}
	for first := true; ; {
		delta, finish, err := out.next()
		if err != nil {
			return err
		}
		m := &infernov1.GenerateStreamResponse{}
		if first {
			m.Start = out.start()
		}
		if delta != nil {
			m.Deltas = []*infernov1.Delta{delta}
		}
		if finish != nil {
			m.Finish = &infernov1.GenerationFinish{
				Finishes: []*infernov1.Finish{out.finish(finish)}, Usage: usageOf(finish), Timings: timingsOf(finish),
			}
		}
		if !first && delta == nil && finish == nil {
			continue // half a character, and no ids wanted
		}
		if err := send(m); err != nil {
			return out.why(err)
		}
		if finish != nil {
			return nil
		}
		first = false
	}
}

// output is the tokens of one live request on their way to the client. It belongs to the call's goroutine.
type output struct {
	*generation
	ctx     context.Context
	cancel  context.CancelCauseFunc
	live    *liveRequests
	stream  Stream
	decoder *tokenizer.Decoder // nil where no text is wanted
	sent    int                // tokens so far
}

// open checks req and gives it to the engine. The caller closes the output.
func (s *Server) open(ctx context.Context, req *infernov1.GenerateRequest) (*output, error) {
	if req.GetRequestId() == "" { // now, so that the log names refused requests too
		req.RequestId = uuid.NewString()
	}
	nameRequest(ctx, req.GetRequestId())
	note(ctx, slog.String("model", clip(req.GetModel())))
	if s.live.isClosed() { // before the work of tokenizing
		return nil, errStopping
	}
	g, err := s.prepare(ctx, req, time.Now())
	if err != nil {
		return nil, err
	}
	note(ctx, slog.Int("prompt_tokens", len(g.request.Prompt)))
	out := &output{generation: g, live: &s.live}
	if out.ctx, out.cancel, err = s.live.begin(ctx, g.request.ID); err != nil {
		return nil, err
	}
	defer func() {
		if out.stream == nil { // refused, or a panic on its way
			out.close()
		}
	}()
	if g.text {
		out.decoder = g.model.Tokenizer.NewContinuation(g.skipSpecial)
	}
	stream, err := g.model.Engine.Submit(out.ctx, g.request)
	if err != nil {
		return nil, out.why(err)
	}
	out.stream = stream
	return out, nil
}

// close ends the request's work, whatever state it is in.
func (o *output) close() {
	o.live.end(o.request.ID)
	note(o.ctx, slog.Int("completion_tokens", o.sent))
}

// next waits for more. The delta is nil where there is nothing to tell of; the finish is there once, with the last delta.
func (o *output) next() (*infernov1.Delta, *engine.Finish, error) {
	ids, finish, err := o.stream.Next(o.ctx)
	if err != nil {
		return nil, nil, o.why(err)
	}
	delta := &infernov1.Delta{Offset: uint32(o.sent)}
	o.sent += len(ids)
	if o.ids {
		delta.TokenIds = toUint32(ids)
	}
	if o.decoder != nil {
		delta.Text = o.decode(ids, finish != nil)
	}
	if finish != nil {
		note(o.ctx, slog.String("finish", finish.Reason.String()))
	}
	if len(delta.TokenIds) == 0 && delta.Text == "" {
		delta = nil
	}
	return delta, finish, nil
}

// decode returns the text that became certain. What ended the output is left out, and nothing but the last token can be that.
func (o *output) decode(ids []int32, last bool) string {
	var text strings.Builder
	for _, id := range ids {
		if !o.ends(id) {
			text.WriteString(o.decoder.Write(id))
		}
	}
	if last {
		text.WriteString(o.decoder.Flush())
	}
	return text.String()
}

func (o *output) ends(id int32) bool {
	stop := &o.request.Stop
	return slices.Contains(stop.StopTokens, id) || !stop.IgnoreEOS && slices.Contains(stop.EndTokens, id)
}

// why is why the call ended.
func (o *output) why(err error) error { return o.live.why(o.ctx, err) }

func (o *output) start() *infernov1.GenerationStart {
	started := o.stream.Started()
	return &infernov1.GenerationStart{
		RequestId:          o.request.ID,
		Model:              o.model.Info.Name,
		ModelRevision:      o.model.Info.Revision,
		PromptTokens:       uint32(started.PromptTokens),
		CachedPromptTokens: uint32(started.CachedTokens),
		Queued:             durationpb.New(started.Queued),
		Effective:          o.effective,
	}
}

// finish says what ended the output.
func (o *output) finish(f *engine.Finish) *infernov1.Finish {
	out := &infernov1.Finish{}
	switch f.Reason {
	case engine.EndToken:
		out.Reason = infernov1.FinishReason_FINISH_REASON_END_TOKEN
		out.Match = &infernov1.Finish_TokenId{TokenId: uint32(f.Token)}
	case engine.StopToken:
		out.Reason = infernov1.FinishReason_FINISH_REASON_STOP_TOKEN
		out.Match = &infernov1.Finish_TokenId{TokenId: uint32(f.Token)}
	case engine.MaxTokens:
		out.Reason = infernov1.FinishReason_FINISH_REASON_MAX_TOKENS
	case engine.ContextFull:
		out.Reason = infernov1.FinishReason_FINISH_REASON_CONTEXT_FULL
	}
	return out
}

func usageOf(f *engine.Finish) *infernov1.Usage {
	return &infernov1.Usage{
		PromptTokens:       uint32(f.Usage.PromptTokens),
		CachedPromptTokens: uint32(f.Usage.CachedTokens),
		CompletionTokens:   uint32(f.Usage.CompletionTokens),
		Preemptions:        uint32(f.Timings.Preemptions),
	}
}

func timingsOf(f *engine.Finish) *infernov1.Timings {
	t := f.Timings
	return &infernov1.Timings{
		Queued:           durationpb.New(t.Queued),
		Prefill:          durationpb.New(t.Prefill),
		Decode:           durationpb.New(t.Decode),
		TimeToFirstToken: durationpb.New(t.Queued + t.Prefill),
		Total:            durationpb.New(t.Total),
	}
}
