package server

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"
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
	if req.GetDryRun() {
		start, dry, err := s.dryRun(ctx, req)
		return &infernov1.GenerateResponse{Start: start, DryRun: dry}, err
	}
	if err := onlyWhole(req.GetOutput()); err != nil {
		return nil, err
	}
	g, err := s.check(ctx, req)
	if err != nil {
		return nil, err
	}
	if err := g.checkWhole(g.request.Stop.MaxTokens); err != nil {
		return nil, err
	}
	out, err := s.open(ctx, g)
	if err != nil {
		return nil, err
	}
	defer out.close()
	completions := make([]*infernov1.Completion, len(out.continuations))
	texts := make([]strings.Builder, len(completions))
	for i := range completions {
		completions[i] = &infernov1.Completion{Index: uint32(i)}
	}
	for done := false; !done; {
		var deltas []*infernov1.Delta
		if deltas, done, err = out.next(); err != nil {
			return nil, err
		}
		if err := g.checkWhole(out.tokens() / g.request.N); err != nil { // nobody knew how many there would be
			return nil, err
		}
		for _, d := range deltas {
			texts[d.GetIndex()].WriteString(d.GetText())
			c := completions[d.GetIndex()]
			c.TokenIds, c.Logprobs = append(c.TokenIds, d.GetTokenIds()...), append(c.Logprobs, d.GetLogprobs()...)
		}
	}
	for i, finish := range out.finishes() {
		completions[i].Text, completions[i].Finish = texts[i].String(), finish
	}
	return &infernov1.GenerateResponse{Start: out.start(), Completions: completions, Usage: out.usage(), Timings: out.timings()}, nil
}

// GenerateStream sends tokens as they come. The first message waits for the first token, and with it the headers: until then the
// client's gRPC library may try another instance.
func (s inferenceService) GenerateStream(
	req *infernov1.GenerateRequest, stream infernov1.InferenceService_GenerateStreamServer,
) error {
	if req.GetDryRun() {
		start, dry, err := s.dryRun(stream.Context(), req)
		if err != nil {
			return err
		}
		return stream.Send(&infernov1.GenerateStreamResponse{Start: start, DryRun: dry})
	}
	g, err := s.check(stream.Context(), req)
	if err != nil {
		return err
	}
	out, err := s.open(stream.Context(), g)
	if err != nil {
		return err
	}
	defer out.close()
	flow, err := newOutflow(out, stream)
	if err != nil {
		return err
	}
	defer flow.close()
	for begun := false; ; {
		if err := flow.outbox.wait(out.ctx, s.sendTimeout); err != nil {
			return out.why(err)
		}
		deltas, done, err := flow.next()
		if err != nil {
			return err
		}
		var start *infernov1.GenerationStart
		flow.m.Progress = nil
		switch {
		case !out.started:
			flow.m.Progress = out.progress()
		case !begun:
			start, begun = out.start(), true
		}
		var finish *infernov1.GenerationFinish
		if done {
			finish = &infernov1.GenerationFinish{Finishes: out.finishes(), Usage: out.usage(), Timings: out.timings()}
		}
		if err := flow.send(deltas, start, finish); err != nil || done {
			return err
		}
		if !begun {
			continue
		}
		if err := flow.lend(); err != nil {
			return err
		}
	}
}

// check names the call and checks its request.
func (s *Server) check(ctx context.Context, req *infernov1.GenerateRequest) (*generation, error) {
	if req.GetRequestId() == "" { // now, so that the log names refused requests too
		req.RequestId = uuid.NewString()
	}
	nameRequest(ctx, req.GetRequestId())
	note(ctx, slog.String("model", clip(req.GetModel())))
	if s.live.isClosed() { // before the work of tokenizing
		return nil, errStopping
	}
	g, err := s.prepare(ctx, req, time.Now())
	if err == nil {
		note(ctx, slog.Int("prompt_tokens", len(g.request.Prompt)))
	}
	return g, err
}

// open gives a request to the engine. The caller closes the output.
func (s *Server) open(ctx context.Context, g *generation) (out *output, err error) {
	out = &output{generation: g, live: &s.live, computed: -1}
	out.caller, _ = callerOf(ctx)
	if out.ctx, err = s.live.begin(ctx, g.request.ID); err != nil {
		return nil, err
	}
	defer func() {
		if len(out.continuations) == 0 { // refused, or a panic on its way
			out.close()
		}
	}()
	return out, out.run()
}
