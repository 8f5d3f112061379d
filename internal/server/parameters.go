package server

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/tokenizer"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// generation is a checked request: what the engine is asked for, and what the client gets to see of it.
type generation struct {
	model       *Model
	request     *engine.Request
	effective   *infernov1.EffectiveParameters
	text, ids   bool // which of them the client wants
	skipSpecial bool

	echo       bool
	logprobs   bool // of the output, and of an echo; beside each `top` of the likeliest tokens
	top        int
	prompt     bool // log-probabilities of the prompt from promptFrom on, beside each promptTop of the likeliest
	promptTop  int
	promptFrom int

	stopStrings   []string
	includeStop   bool
	timeLimit     time.Duration // from the request's arrival; 0: none
	flushTokens   int           // that a delta waits for
	flushInterval time.Duration // that it waits for them; 0: as long as it takes
}

// ends says whether a token ends an output.
func (g *generation) ends(id int32) bool {
	stop := &g.request.Stop
	return slices.Contains(stop.StopTokens, id) || !stop.IgnoreEOS && slices.Contains(stop.EndTokens, id)
}

// prepare checks every field of req and turns it into plain Go. The error is an *invalidError with all faults, says why there is no such
// model, or is that of ctx.
func (s *Server) prepare(ctx context.Context, req *infernov1.GenerateRequest, arrived time.Time) (*generation, error) {
	var f faults
	f.generate(req)
	tenant := f.tenant(ctx)
	model, err := s.lookup(req.GetModel())
	if err != nil {
		if invalid := f.err(); invalid != nil {
			return nil, invalid
		}
		return nil, err
	}
	f.ofModel(req, model)
	if len(f.found) == 0 && !req.GetDryRun() { // before the work of tokenizing
		if err := model.Engine.Full(tenant, continuationsOf(req.GetSampling()), 1); err != nil {
			return nil, err
		}
	}
	form, err := s.bound(ctx, &f, req.GetConstraint(), model)
	if err != nil {
		return nil, err
	}
	prompt, err := s.prompt(ctx, &f, req, model)
	if err != nil {
		return nil, err
	}
	f.promptLogprobs(req, len(prompt))
	if err := f.err(); err != nil {
		return nil, err
	}
	g := newGeneration(req, model, prompt, arrived)
	g.request.Tenant = tenant
	g.request.Mask = g.masks(form, req.GetSampling().GetBannedStrings())
	return g, nil
}

// newGeneration fills in what the request leaves open.
func newGeneration(req *infernov1.GenerateRequest, model *Model, prompt []int32, arrived time.Time) *generation {
	output := req.GetOutput()
	if output == nil {
		output = &infernov1.OutputOptions{}
	}
	g := &generation{
		model:       model,
		text:        orElse(output.Text, model.Tokenizer != nil),
		ids:         orElse(output.TokenIds, true),
		skipSpecial: orElse(output.SkipSpecialTokens, true),
		request: &engine.Request{
			ID: req.GetRequestId(), Prompt: prompt, Arrived: arrived,
			N:        continuationsOf(req.GetSampling()),
			Sampling: samplingOf(req.GetSampling(), model.Defaults),
			Stop:     stoppingOf(req.GetStopping(), model.EndTokens),
			Cache:    cacheOf(req.GetCache()), Priority: int(req.GetPriority()),
			Speculation: speculationOf(req.GetSpeculation().GetNgram()), Progress: output.GetPromptProgress(),
		},
		stopStrings:   req.GetStopping().GetStopStrings(),
		includeStop:   req.GetStopping().GetIncludeStop(),
		timeLimit:     req.GetStopping().GetTimeLimit().AsDuration(),
		flushTokens:   int(orElse(output.FlushTokens, 1)),
		flushInterval: output.GetFlushInterval().AsDuration(),
	}
	g.askFor(output)
	g.effective = effectiveOf(req, g.request, model.Info.MaxContext)
	return g
}

// prompt returns the prompt's token ids, unless there is a fault. The error is that of ctx.
func (s *Server) prompt(ctx context.Context, f *faults, req *infernov1.GenerateRequest, model *Model) ([]int32, error) {
	context, dry, options := model.Info.MaxContext, req.GetDryRun(), req.GetPromptOptions()
	if dry {
		context = math.MaxInt32 // what does not fit is told, not refused
	}
	most := context - 1
	if cuts(options) {
		most = 0
	}
	switch input := req.GetInput().(type) {
	case *infernov1.GenerateRequest_TokenIds:
		ids := input.TokenIds.GetIds()
		f.ids("token_ids.ids", ids, model.Info.VocabularySize)
		prompt := truncate(toInt32(ids), options, 0, 0)
		if len(prompt) > 0 {
			f.room("token_ids.ids", len(prompt), req.GetStopping(), context)
		}
		return prompt, nil
	case *infernov1.GenerateRequest_Text:
		if !dry && !cuts(options) {
			f.textRoom("text", input.Text, model)
		}
		if len(f.found) > 0 { // tokenizing would be work for nothing
			return nil, nil
		}
		ids, err := s.encode(ctx, f, "text", input.Text, options, model, most)
		if len(f.found) == 0 && err == nil {
			f.room("text", len(ids), req.GetStopping(), context)
		}
		return ids, err
	case *infernov1.GenerateRequest_Chat:
		ids, _, err := s.chatTokens(ctx, f, input.Chat, options, model, most)
		if len(f.found) == 0 && err == nil {
			f.room("chat", len(ids), req.GetStopping(), context)
		}
		return ids, err
	}
	return nil, nil
}

// longText is a text, in bytes, whose tokenizing takes more than a moment and some tens of its size in memory: only so many calls do
// that at once as there are cores, the others wait with their contexts.
const longText = 16 << 10

// encode tokenizes a text as the options say, of which no more than `most` tokens are wanted; 0 means any number. It stops working as
// soon as there are more. The error is that of ctx, which ended before a long text had its turn; all others are faults.
func (s *Server) encode(
	ctx context.Context, f *faults, field, text string, o *infernov1.PromptOptions, model *Model, most int,
) ([]int32, error) {
	if model.Tokenizer == nil {
		f.add(field, "is set, but model %s has no tokenizer: want token_ids", quote(model.Info.Name))
		return nil, nil
	}
	options := tokenizer.EncodeOptions{AddSpecial: true, ParseSpecial: true, MaxTokens: most}
	if o != nil {
		options.AddSpecial = orElse(o.AddSpecialTokens, true)
		options.ParseSpecial = orElse(o.ParseSpecial, true)
	}
	ids, err := s.encodeAs(ctx, f, field, text, options, model)
	return truncateText(ids, o, options.AddSpecial, model), err
}

// turn waits until a call may work on so many bytes of text; the caller calls done when it has. The error is that of ctx.
func (s *Server) turn(ctx context.Context, size int) (done func(), err error) {
	if size <= longText {
		return func() {}, nil
	}
	return slot(ctx, s.encoders)
}

// slot waits for a place in slots, which done gives back. The error is that of ctx.
func slot(ctx context.Context, slots chan struct{}) (done func(), err error) {
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// encodeAs is encode with all of the tokenizer's options.
func (s *Server) encodeAs(
	ctx context.Context, f *faults, field, text string, options tokenizer.EncodeOptions, model *Model,
) ([]int32, error) {
	done, err := s.turn(ctx, len(text))
	if err != nil {
		return nil, err
	}
	defer done()
	ids, err := model.Tokenizer.Encode(text, options)
	switch {
	case errors.Is(err, tokenizer.ErrTooManyTokens):
		f.add(field, "has more than %d tokens, want at most %d", options.MaxTokens, options.MaxTokens)
	case err != nil:
		f.add(field, "%v", err)
	case len(ids) == 0 && text != "":
		f.add(field, "has no tokens, want at least 1")
	}
	return ids, nil
}

func orElse[T any](v *T, otherwise T) T {
	if v != nil {
		return *v
	}
	return otherwise
}

// toInt32 is for ids that have been checked: they are below the vocabulary's size.
func toInt32(ids []uint32) []int32 {
	if len(ids) == 0 {
		return nil
	}
	out := make([]int32, len(ids))
	for i, id := range ids {
		out[i] = int32(id)
	}
	return out
}

func toUint32(ids []int32) []uint32 {
	out := make([]uint32, len(ids))
	for i, id := range ids {
		out[i] = uint32(id)
	}
	return out
}
