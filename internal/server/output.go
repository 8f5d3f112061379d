package server

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// output is the continuations of one live request on their way to the client. It belongs to the call's goroutine.
type output struct {
	*generation
	ctx           context.Context
	cancel        context.CancelCauseFunc
	live          *liveRequests
	continuations []*continuation // by index
	limit         *time.Timer     // of time_limit; nil: none
	started       bool            // next has returned
}

// run gives the request to the engine.
func (o *output) run() error {
	streams, err := o.model.Engine.Submit(o.ctx, o.request)
	if err != nil {
		return o.why(err)
	}
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
}

// tokens counts those of all continuations.
func (o *output) tokens() (n int) {
	for _, c := range o.continuations {
		n += c.tokens
	}
	return n
}

// next waits until there is something to send, and returns it: a delta for each continuation that has one, by index. `done` says that all
// have ended, after these. Half a character for a client that wants no ids is nothing to send, but for the first token of all.
func (o *output) next() (deltas []*infernov1.Delta, done bool, err error) {
	for {
		done, flushed := true, false
		for _, c := range o.continuations {
			if err := c.poll(); err != nil {
				return nil, false, o.why(err)
			}
			done = done && c.finish != nil
		}
		now := time.Now()
		for _, c := range o.continuations {
			if c.due(now) && o.knowsPrompt() {
				flushed = flushed || len(c.ids) > 0
				deltas = c.appendDelta(deltas)
			}
		}
		if len(deltas) > 0 || done || flushed && !o.started {
			o.started = true
			return deltas, done, nil
		}
		if err := o.wait(now); err != nil {
			return nil, false, o.why(err)
		}
	}
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
func (o *output) why(err error) error { return o.live.why(o.ctx, err) }

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

// continuation is one of the outputs of a request. Tokens come from its stream, become text, are looked through for what stops them, and
// are held until enough are there.
type continuation struct {
	*generation
	index  int
	stream Stream
	first  Stream         // of the request, which tells of the prompt
	text   *outputText    // nil where nobody needs text
	tokens int            // that belong to the output so far
	finish *engine.Finish // the engine's; nil: it goes on
	stop   string         // the stop string that ended it; "": none did

	ids      []int32                   // held back
	logprobs []*infernov1.TokenLogprob // of the same
	words    []byte                    // text held back
	offset   int                       // position of the first of ids
	since    time.Time
}

func newContinuation(g *generation, index int, stream, first Stream) *continuation {
	c := &continuation{generation: g, index: index, stream: stream, first: first}
	if g.text || len(g.stopStrings) > 0 {
		decoder := g.model.Tokenizer.NewContinuation(g.skipSpecial)
		if g.echo {
			decoder = g.model.Tokenizer.NewDecoder(g.skipSpecial) // which sees the prompt too
		}
		c.text = newOutputText(decoder, g.stopStrings)
	}
	return c
}

// poll takes what the engine has made since it was last asked.
func (c *continuation) poll() error {
	if c.finish != nil {
		return nil
	}
	ids, finish, err := c.stream.Poll()
	if err != nil {
		return err
	}
	if c.echo && !c.begun() && (len(ids) > 0 || finish != nil) {
		c.takePrompt()
	}
	logprobs := c.stream.Logprobs(len(ids))
	for i, id := range ids {
		if c.stop != "" {
			break // the engine made it before it heard that the output has ended
		}
		c.take(id, finish != nil && i == len(ids)-1)
		if c.generation.logprobs {
			c.logprobs = append(c.logprobs, c.tell(logprobs[i:i+1], c.top)...)
		}
		if c.stop != "" && finish == nil {
			c.stream.Finish(engine.StopString)
		}
	}
	if finish != nil && c.text != nil && c.stop == "" {
		c.hold(c.text.flush(c.tokens >= c.request.Stop.MinTokens))
	}
	c.finish = finish
	return nil
}

// begun says whether the engine has told of its first token, or its end.
func (c *continuation) begun() bool { return c.tokens > 0 || c.finish != nil }

// takePrompt puts the prompt in front of the output.
func (c *continuation) takePrompt() {
	c.since = time.Now()
	c.ids = append(c.ids, c.request.Prompt...)
	if c.text != nil {
		for _, id := range c.request.Prompt {
			c.words = append(c.words, c.text.decoder.Write(id)...)
		}
	}
}

// take adds a token to the output.
func (c *continuation) take(id int32, last bool) {
	if len(c.ids) == 0 && len(c.words) == 0 {
		c.since = time.Now()
	}
	c.ids = append(c.ids, id)
	c.tokens++
	if c.text != nil && !(last && c.ends(id) && !c.includeStop) {
		c.hold(c.text.write(id, c.tokens >= c.request.Stop.MinTokens))
	}
}

// hold keeps text that became certain, and notes what ended it.
func (c *continuation) hold(text string, match *stopMatch) {
	c.words = append(c.words, text...)
	if match != nil {
		c.stop = match.text
		if c.includeStop {
			c.words = append(c.words, match.text...)
		}
	}
}

// ended says that nothing more will be added.
func (c *continuation) ended() bool { return c.finish != nil || c.stop != "" }

// heldUntil is when what is held has to be sent; zero: there is nothing, or no such time.
func (c *continuation) heldUntil() time.Time {
	if len(c.ids) == 0 && len(c.words) == 0 || c.flushInterval == 0 {
		return time.Time{}
	}
	return c.since.Add(c.flushInterval)
}

// due says whether what is held is to be sent.
func (c *continuation) due(now time.Time) bool {
	if len(c.ids) >= c.flushTokens || c.ended() {
		return true
	}
	at := c.heldUntil()
	return !at.IsZero() && !now.Before(at)
}

// appendDelta hands over what is held, where the client wants any of it.
func (c *continuation) appendDelta(deltas []*infernov1.Delta) []*infernov1.Delta {
	d := &infernov1.Delta{Index: uint32(c.index), Offset: uint32(c.offset)}
	if c.generation.ids {
		d.TokenIds = toUint32(c.ids)
	}
	if c.generation.text {
		d.Text = string(c.words)
	}
	d.Logprobs = c.logprobs
	if c.echo && c.generation.logprobs && c.offset == 0 {
		d.Logprobs = append(c.tell(c.first.PromptLogprobs(), c.top), c.logprobs...)
	}
	c.offset += len(c.ids)
	c.ids, c.logprobs, c.words = c.ids[:0], nil, c.words[:0]
	if len(d.TokenIds) == 0 && d.Text == "" && len(d.Logprobs) == 0 {
		return deltas
	}
	return append(deltas, d)
}

// reason is why it ended, once it has.
func (c *continuation) reason() engine.FinishReason {
	if c.stop != "" {
		return engine.StopString
	}
	return c.finish.Reason
}

var finishReasons = map[engine.FinishReason]infernov1.FinishReason{
	engine.EndToken:    infernov1.FinishReason_FINISH_REASON_END_TOKEN,
	engine.StopToken:   infernov1.FinishReason_FINISH_REASON_STOP_TOKEN,
	engine.StopString:  infernov1.FinishReason_FINISH_REASON_STOP_STRING,
	engine.MaxTokens:   infernov1.FinishReason_FINISH_REASON_MAX_TOKENS,
	engine.ContextFull: infernov1.FinishReason_FINISH_REASON_CONTEXT_FULL,
	engine.TimeLimit:   infernov1.FinishReason_FINISH_REASON_TIME_LIMIT,
	engine.Loop:        infernov1.FinishReason_FINISH_REASON_LOOP,
	engine.MaskDone:    infernov1.FinishReason_FINISH_REASON_CONSTRAINT_DONE,
}

// ending says what ended it, once it has.
func (c *continuation) ending() *infernov1.Finish {
	reason := c.reason()
	out := &infernov1.Finish{Index: uint32(c.index), Reason: finishReasons[reason]}
	switch reason {
	case engine.StopString:
		out.Match = &infernov1.Finish_StopString{StopString: c.stop}
	case engine.EndToken, engine.StopToken:
		out.Match = &infernov1.Finish_TokenId{TokenId: uint32(c.finish.Token)}
	default: // nothing matched
	}
	return out
}
