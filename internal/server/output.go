package server

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/inferno-serve/inferno/internal/auth"
	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// output is the continuations of one live request on their way to the client. It belongs to the call's goroutine.
type output struct {
	*generation
	ctx           context.Context
	live          *liveRequests
	caller        auth.Caller
	continuations []*continuation // by index
	limit         *time.Timer     // of time_limit; nil: none
	started       bool            // next has returned tokens, or the end
	computed      int             // tokens of the prompt that the client was told of; −1: it was told nothing
	charged       int             // tokens of the output that the caller's minute has been charged
	deltas        []*infernov1.Delta
}

// run gives the request to the engine.
func (o *output) run() error {
	streams, err := o.model.Engine.Submit(o.ctx, o.request)
	if err != nil {
		return o.why(err)
	}
	o.caller.Charge(len(o.request.Prompt))
	for i, stream := range streams {
		o.continuations = append(o.continuations, newContinuation(o.generation, i, stream, streams[0]))
	}
	if o.timeLimit > 0 {
		o.limit = time.AfterFunc(time.Until(o.request.Arrived.Add(o.timeLimit)), func() {
			for _, stream := range streams {
				stream.Finish(engine.TimeLimit)
			}
		})
	}
	return nil
}

// close ends the request's work, whatever state it is in.
func (o *output) close() {
	if o.limit != nil {
		o.limit.Stop()
	}
	o.live.end(o.request.ID)
	for _, c := range o.continuations {
		if c.finish != nil {
			note(o.ctx, slog.String("finish", c.reason().String()))
		}
	}
	note(o.ctx, slog.Int("completion_tokens", o.tokens()))
	o.tracePhases()
}

// tokens counts those of all continuations.
func (o *output) tokens() (n int) {
	for _, c := range o.continuations {
		n += c.tokens
	}
	return n
}

// charge counts the tokens that are new against the caller's minute.
func (o *output) charge() {
	n := o.tokens()
	o.caller.Charge(n - o.charged)
	o.charged = n
}

// next waits until there is something to send, and returns it: a delta for each continuation that has one, by index. `done` says that all
// have ended, after these. They are valid until it is called again. Half a character for a client that wants no ids is nothing to send, but for the first token of all.
// Until the first it returns none where there is progress to tell of.
func (o *output) next() (deltas []*infernov1.Delta, done bool, err error) {
	for {
		now := time.Now()
		deltas, ready, done, err := o.look(now)
		if ready || err != nil {
			return deltas, done, err
		}
		if o.progressed() {
			return nil, false, nil
		}
		if err := o.wait(now); err != nil {
			return nil, false, o.why(err)
		}
	}
}

// look is next without waiting: `ready` says that there is something to send.
func (o *output) look(now time.Time) (deltas []*infernov1.Delta, ready, done bool, err error) {
	done = true
	for _, c := range o.continuations {
		if err := c.poll(now); err != nil {
			return nil, false, false, o.why(err)
		}
		done = done && c.finish != nil
	}
	o.charge()
	deltas = o.deltas[:0]
	flushed := false
	for _, c := range o.continuations {
		if c.due(now) && o.knowsPrompt() {
			flushed = flushed || len(c.ids) > 0
			deltas = c.appendDelta(deltas)
		}
	}
	o.deltas = deltas
	ready = len(deltas) > 0 || done || flushed && !o.started
	o.started = o.started || ready
	return deltas, ready, done, nil
}

// progressed says whether the prompt is further than the client, who asked for it, was told; a prompt that waits is at its first token. What it does
// not get to before the next message is told with that, so that there is never more than one to send.
func (o *output) progressed() bool {
	if !o.request.Progress || o.started || o.tokens() > 0 {
		return false
	}
	before := o.computed
	o.computed = max(o.computed, 0)
	for _, c := range o.continuations { // any of them may be the one that computes it
		o.computed = max(o.computed, c.stream.Computed())
	}
	return o.computed > before
}

// progress is what progressed found.
func (o *output) progress() *infernov1.PromptProgress {
	return &infernov1.PromptProgress{ComputedTokens: uint32(o.computed), PromptTokens: uint32(len(o.request.Prompt))}
}

// knowsPrompt says whether all is known of the prompt that the first message tells: the first continuation hears of it before its own tokens.
func (o *output) knowsPrompt() bool { return !o.request.Logprobs.Prompt || o.continuations[0].begun() }

// wait returns when there may be news, or when something that is held back has waited long enough.
func (o *output) wait(now time.Time) error {
	stream := o.continuations[0].stream
	var due time.Time // the first of them
	for _, c := range o.continuations {
		if at := c.heldUntil(); !at.IsZero() && (due.IsZero() || at.Before(due)) {
			due = at
		}
	}
	if due.IsZero() || !o.knowsPrompt() {
		return stream.Wait(o.ctx)
	}
	ctx, cancel := context.WithTimeout(o.ctx, due.Sub(now))
	defer cancel()
	if err := stream.Wait(ctx); err != nil && ctx.Err() == nil || o.ctx.Err() != nil {
		return cmp.Or(err, o.ctx.Err())
	}
	return nil
}

// why is why the call ended.
func (o *output) why(err error) error { return o.live.why(o.ctx, o.model, err) }

// start is valid once next has returned.
func (o *output) start() *infernov1.GenerationStart {
	var started engine.Start
	for _, c := range o.continuations {
		if c.tokens > 0 || c.finish != nil {
			started = c.stream.Started()
			break
		}
	}
	return &infernov1.GenerationStart{
		RequestId:          o.request.ID,
		Model:              o.model.Info.Name,
		ModelRevision:      o.model.Info.Revision,
		PromptTokens:       uint32(started.PromptTokens),
		CachedPromptTokens: uint32(started.CachedTokens),
		Queued:             durationpb.New(started.Queued),
		Effective:          o.effective,
		PromptLogprobs:     o.promptLogprobs(),
	}
}

// promptLogprobs are those that the client asked for; the engine may have been asked for more, and time_limit may have come before it had all.
func (o *output) promptLogprobs() []*infernov1.TokenLogprob {
	if !o.prompt {
		return nil
	}
	all := o.continuations[0].stream.PromptLogprobs()
	return o.tell(all[min(o.promptFrom-o.request.Logprobs.Start, len(all)):], o.promptTop)
}

// finishes, usage and timings are valid once all continuations have ended.
func (o *output) finishes() (all []*infernov1.Finish) {
	for _, c := range o.continuations {
		all = append(all, c.ending())
	}
	return all
}

func (o *output) usage() *infernov1.Usage {
	u := &infernov1.Usage{CompletionTokens: uint32(o.tokens())}
	for _, c := range o.continuations {
		u.PromptTokens = uint32(c.finish.Usage.PromptTokens) // the same for all
		u.CachedPromptTokens = uint32(o.continuations[0].finish.Usage.CachedTokens)
		u.DraftTokens += uint32(c.finish.Usage.DraftTokens)
		u.AcceptedDraftTokens += uint32(c.finish.Usage.AcceptedTokens)
		u.Preemptions += uint32(c.finish.Timings.Preemptions)
	}
	return u
}

// timings are those of the first step, the first token and the last token of all.
func (o *output) timings() *infernov1.Timings {
	first := o.continuations[0].finish.Timings
	queued, firstToken, lastToken, total := first.Queued, first.Queued+first.Prefill, time.Duration(0), time.Duration(0)
	for _, c := range o.continuations {
		t := c.finish.Timings
		queued = min(queued, t.Queued)
		firstToken = min(firstToken, t.Queued+t.Prefill)
		lastToken = max(lastToken, t.Queued+t.Prefill+t.Decode)
		total = max(total, t.Total)
	}
	return &infernov1.Timings{
		Queued:           durationpb.New(queued),
		Prefill:          durationpb.New(firstToken - queued),
		Decode:           durationpb.New(lastToken - firstToken),
		TimeToFirstToken: durationpb.New(firstToken),
		Total:            durationpb.New(total),
	}
}
