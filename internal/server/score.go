package server

import (
	"context"
	"fmt"
	"strings"
	"unicode"

	"google.golang.org/protobuf/proto"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

const maxScoreInputs = 1024

// Score says how likely the inputs are.
func (s inferenceService) Score(ctx context.Context, req *infernov1.ScoreRequest) (*infernov1.ScoreResponse, error) {
	var f faults
	f.unsupported("", req.ProtoReflect())
	f.inputs(len(req.GetInputs()), maxScoreInputs)
	f.noTruncation(req.GetPromptOptions())
	f.top("top_logprobs", req.TopLogprobs)
	tokens := orElse(req.Tokens, true)
	if !tokens && (req.TopLogprobs != nil || len(req.GetLogprobTokenIds()) > 0) {
		f.add("tokens", "is false, want true where top_logprobs or logprob_token_ids is set")
	}
	c, end, err := s.beginItems(ctx, &f, &req.RequestId, req.GetModel(), len(req.GetInputs()))
	if err != nil {
		return nil, err
	}
	defer end()
	f.logprobIDs("logprob_token_ids", req.GetLogprobTokenIds(), c.model)
	if err := f.err(); err != nil {
		return nil, err
	}
	for i, in := range req.GetInputs() {
		if c.items[i], err = c.scoreItem(fmt.Sprintf("inputs[%d].", i), in, req.GetPromptOptions()); err != nil {
			return nil, err
		}
	}
	asked := engine.Logprobs{Prompt: true, Top: int(req.GetTopLogprobs()), IDs: toInt32(req.GetLogprobTokenIds())}
	if tokens {
		if err := c.checkAnswer(asked); err != nil {
			return nil, err
		}
	}
	if err := c.run(func(it *item) *engine.Request {
		l := asked
		l.Start = it.context
		return &engine.Request{Logprobs: l}
	}); err != nil {
		return nil, err
	}
	answer := &infernov1.ScoreResponse{RequestId: c.requestID, Model: c.model.Info.Name, ModelRevision: c.model.Info.Revision, Usage: c.usage()}
	for _, it := range c.items {
		answer.Results = append(answer.Results, it.score(asked, tokens))
	}
	return answer, nil
}

// checkAnswer refuses to compute what would not fit a message.
func (c *itemsCall) checkAnswer(asked engine.Logprobs) error {
	tokens := 0
	for _, it := range c.items {
		tokens += len(it.prompt) - it.context
	}
	var f faults
	f.logprobRoom("inputs", logprobSize(tokens, asked.Top+len(asked.IDs)))
	return f.err()
}

// score is the result of an input.
func (it *item) score(asked engine.Logprobs, tokens bool) *infernov1.ScoreResult {
	if it.fault != nil {
		return &infernov1.ScoreResult{Error: itemError(it.fault)}
	}
	r := &infernov1.ScoreResult{PromptTokens: uint32(len(it.prompt)), Greedy: true}
	for _, l := range it.stream.PromptLogprobs() {
		if l.Rank == 0 {
			continue // nothing precedes it
		}
		r.ScoredTokens++
		r.Logprob += float64(l.Logprob)
		r.Greedy = r.Greedy && l.Rank == 1
		if tokens {
			r.Tokens = append(r.Tokens, tokenLogprob(l, asked.Top, len(asked.IDs)))
		}
	}
	return r
}

// scoreItem turns an input into tokens, as inference.proto says. The error is that of ctx; faults of the input are kept with the item.
func (c *itemsCall) scoreItem(path string, in *infernov1.ScoreInput, o *infernov1.PromptOptions) (*item, error) {
	var f faults
	var before, after []int32
	var err error
	contextText, text := in.GetContextText(), in.GetText()
	_, isText := in.GetContinuation().(*infernov1.ScoreInput_Text)
	switch {
	case in.GetContinuation() == nil:
		f.add(path+"continuation", "none is set, want exactly one of text and token_ids")
	case isText && text == "":
		f.add(path+"text", "is empty, want at least 1 character")
	case isText && len(in.GetContextIds().GetIds()) == 0:
		return c.scoreText(path, contextText, text, o)
	default:
		if before, err = c.scoreContext(&f, path, in, o); err != nil {
			return nil, err
		}
		if isText {
			after, err = c.encodeWhole(c.ctx, &f, path+"text", text, bare(o), c.model)
		} else {
			after = f.wholeIDs(path+"token_ids.ids", in.GetTokenIds().GetIds(), c.model)
		}
	}
	if n := len(before) + len(after); n > c.model.Info.MaxContext {
		f.add(strings.TrimSuffix(path, "."), "has %d tokens, want at most %d, the context", n, c.model.Info.MaxContext)
	}
	return &item{prompt: append(before, after...), context: len(before), fault: f.err()}, err
}

// scoreContext is the tokens in front of some that are tokenized without them.
func (c *itemsCall) scoreContext(f *faults, path string, in *infernov1.ScoreInput, o *infernov1.PromptOptions) ([]int32, error) {
	if ids := in.GetContextIds().GetIds(); len(ids) > 0 {
		return f.wholeIDs(path+"context_ids.ids", ids, c.model), nil
	}
	if in.GetContextText() == "" {
		return nil, nil
	}
	return c.opening(f, path, in.GetContextText(), o)
}

// opening is the tokens of a context, without those that the tokenizer adds behind a text: it does not end there.
func (c *itemsCall) opening(f *faults, path, text string, o *infernov1.PromptOptions) ([]int32, error) {
	ids, err := c.encodeWhole(c.ctx, f, path+"context_text", text, o, c.model)
	if added := o == nil || orElse(o.AddSpecialTokens, true); added && err == nil && len(f.found) == 0 {
		_, behind := c.model.Tokenizer.NumAdded()
		ids = ids[:len(ids)-behind]
	}
	return ids, err
}

// scoreText tokenizes a text together with its context.
func (c *itemsCall) scoreText(path, contextText, text string, o *infernov1.PromptOptions) (*item, error) {
	var f faults
	trimmed := strings.TrimRightFunc(contextText, unicode.IsSpace)
	whole, err := c.encodeWhole(c.ctx, &f, path+"text", contextText+text, o, c.model)
	if err != nil || len(f.found) > 0 || trimmed == "" {
		return &item{prompt: whole, fault: f.err()}, err
	}
	before, err := c.opening(&f, path, trimmed, o)
	if len(f.found) == 0 && len(before) >= len(whole) {
		f.add(path+"text", "has no tokens of its own: those of its context, %d, hold it", len(before))
	}
	return &item{prompt: whole, context: len(before), fault: f.err()}, err
}

// bare is o without special tokens added.
func bare(o *infernov1.PromptOptions) *infernov1.PromptOptions {
	without := &infernov1.PromptOptions{}
	if o != nil {
		without = proto.CloneOf(o)
	}
	without.AddSpecialTokens = new(false)
	return without
}
