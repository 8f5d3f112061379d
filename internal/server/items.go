package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Score and Embed take several inputs in a call. Each becomes a request of the engine that generates nothing; faults of one are told in its
// result and leave the others alone, while what would end them all ends the call.

// item is one input. It belongs to the call's goroutine.
type item struct {
	prompt  []int32
	context int   // of score: tokens that are not scored
	fault   error // why it has no result
	stream  Stream
	finish  *engine.Finish
}

// itemsCall is what the two have in common.
type itemsCall struct {
	*Server
	ctx       context.Context
	requestID string
	tenant    string
	model     *Model
	items     []*item
}

// beginItems names the call, looks its model up and registers it. The caller ends it by the function that it gets.
func (s *Server) beginItems(ctx context.Context, f *faults, requestID *string, modelName string, inputs int) (*itemsCall, func(), error) {
	if *requestID == "" {
		*requestID = uuid.NewString()
	}
	nameRequest(ctx, *requestID)
	note(ctx, slog.String("model", clip(modelName)), slog.Int("inputs", inputs))
	if s.live.isClosed() {
		return nil, nil, errStopping
	}
	f.requestID(*requestID)
	tenant := f.tenant(ctx)
	model, err := s.modelOf(f, modelName)
	if err != nil {
		return nil, nil, err
	}
	c := &itemsCall{Server: s, requestID: *requestID, tenant: tenant, model: model, items: make([]*item, inputs)}
	if c.ctx, err = s.live.begin(ctx, *requestID); err != nil {
		return nil, nil, err
	}
	return c, func() {
		charge(ctx, c.tokens())
		s.live.end(*requestID)
	}, nil
}

// inputs checks how many there are.
func (f *faults) inputs(n, most int) {
	if n < 1 || n > most {
		f.add("inputs", "has %d, want 1 to %d", n, most)
	}
}

// noTruncation refuses what would change an input behind the client's back.
func (f *faults) noTruncation(o *infernov1.PromptOptions) {
	if o != nil && o.TruncateTo != nil {
		f.add("prompt_options.truncate_to", "is %d, want unset: inputs are not cut", o.GetTruncateTo())
	}
	if side := o.GetTruncationSide(); side != infernov1.TruncationSide_TRUNCATION_SIDE_UNSPECIFIED {
		f.add("prompt_options.truncation_side", "is %v, want unset: inputs are not cut", side)
	}
}

// run has the engine compute all items without a fault, as many at a time as it may run: request makes what the engine is asked for. The
// error is what ends them all.
func (c *itemsCall) run(request func(*item) *engine.Request) error {
	window := max(c.model.Info.MaxBatch, 1)
	var underWay []*item
	arrived := time.Now()
	for i, it := range c.items {
		if it.fault != nil {
			continue
		}
		for len(underWay) >= window {
			if err := c.await(&underWay); err != nil {
				return err
			}
		}
		r := request(it)
		r.ID, r.N, r.Prompt, r.PromptOnly, r.Arrived = fmt.Sprintf("%s#%d", c.requestID, i), 1, it.prompt, true, arrived
		r.Tenant = c.tenant
		if err := c.submit(it, r, &underWay); err != nil {
			return err
		}
		if it.fault == nil {
			underWay = append(underWay, it)
		}
	}
	for len(underWay) > 0 {
		if err := c.await(&underWay); err != nil {
			return err
		}
	}
	return nil
}

// submit waits for a place in the queue as long as an item of this call is going to give it one.
func (c *itemsCall) submit(it *item, r *engine.Request, underWay *[]*item) error {
	for {
		streams, err := c.model.Engine.Submit(c.ctx, r)
		var limit *engine.LimitError
		switch {
		case err == nil:
			it.stream = streams[0]
			return nil
		case errors.As(err, &limit):
			it.fault = err
			return nil
		case !errors.Is(err, engine.ErrQueueFull) || len(*underWay) == 0:
			return c.why(err)
		}
		if err := c.await(underWay); err != nil {
			return err
		}
	}
}

// await waits for the end of the item that has been under way longest.
func (c *itemsCall) await(underWay *[]*item) error {
	it := (*underWay)[0]
	*underWay = (*underWay)[1:]
	for it.finish == nil && it.fault == nil {
		_, finish, err := it.stream.Poll()
		if err == nil && finish == nil {
			err = it.stream.Wait(c.ctx)
		}
		switch {
		case errors.Is(err, engine.ErrNotFinite):
			it.fault = err
		case err != nil:
			return c.why(err)
		}
		it.finish = finish
	}
	return nil
}

// why tells apart the ways in which a call ends from outside.
func (c *itemsCall) why(err error) error { return c.live.why(c.ctx, c.model, err) }

// tokens are those of the inputs that were computed.
func (c *itemsCall) tokens() (n int) {
	for _, it := range c.items {
		if it != nil && it.finish != nil {
			n += it.finish.Usage.PromptTokens
		}
	}
	return n
}

// usage is what all items cost together.
func (c *itemsCall) usage() *infernov1.Usage {
	u := &infernov1.Usage{}
	for _, it := range c.items {
		if it.finish != nil {
			u.PromptTokens += uint32(it.finish.Usage.PromptTokens)
			u.CachedPromptTokens += uint32(it.finish.Usage.CachedTokens)
			u.Preemptions += uint32(it.finish.Timings.Preemptions)
		}
	}
	note(c.ctx, slog.Int("prompt_tokens", int(u.GetPromptTokens())))
	return u
}

// itemError is what a client is told of an input without a result.
func itemError(err error) *infernov1.ItemError {
	f := failureOf(err)
	e := &infernov1.ItemError{Code: int32(f.code), Reason: f.reason, Message: f.text}
	var invalid *invalidError
	if errors.As(err, &invalid) {
		e.Field = invalid.violations[0].field
	}
	return e
}

// encodeWhole tokenizes a text of which nothing is generated, so that it may fill the model's context.
func (s *Server) encodeWhole(ctx context.Context, f *faults, field, text string, o *infernov1.PromptOptions, model *Model) ([]int32, error) {
	if model.Tokenizer != nil {
		if least := model.Tokenizer.MinTokens(text); least > model.Info.MaxContext {
			f.add(field, "has %d bytes, and so at least %d tokens, want at most %d, the context", len(text), least, model.Info.MaxContext)
			return nil, nil
		}
	}
	return s.encode(ctx, f, field, text, o, model, model.Info.MaxContext)
}

// wholeIDs checks the ids of an input of which nothing is generated.
func (f *faults) wholeIDs(field string, ids []uint32, model *Model) []int32 {
	f.ids(field, ids, model.Info.VocabularySize)
	if n := len(ids); n == 0 {
		f.add(field, "is empty, want at least 1 token id")
	} else if n > model.Info.MaxContext {
		f.add(field, "has %d tokens, want at most %d, the context", n, model.Info.MaxContext)
	}
	if len(f.found) > 0 {
		return nil
	}
	return toInt32(ids)
}
