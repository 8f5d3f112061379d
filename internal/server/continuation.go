package server

import (
	"time"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

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

	delta infernov1.Delta // that was handed over last
	sent  []uint32        // its ids
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

// poll takes what the engine has made since it was last asked; now is the time.
func (c *continuation) poll(now time.Time) error {
	if c.finish != nil {
		return nil
	}
	ids, finish, err := c.stream.Poll()
	if err != nil {
		return err
	}
	if c.echo && !c.begun() && (len(ids) > 0 || finish != nil) {
		c.takePrompt(now)
	}
	logprobs := c.stream.Logprobs(len(ids))
	for i, id := range ids {
		if c.stop != "" {
			break // the engine made it before it heard that the output has ended
		}
		c.take(id, finish != nil && i == len(ids)-1, now)
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
func (c *continuation) takePrompt(now time.Time) {
	c.since = now
	c.ids = append(c.ids, c.request.Prompt...)
	if c.text != nil {
		for _, id := range c.request.Prompt {
			c.words = append(c.words, c.text.decoder.Write(id)...)
		}
	}
}

// take adds a token to the output.
func (c *continuation) take(id int32, last bool, now time.Time) {
	if len(c.ids) == 0 && len(c.words) == 0 {
		c.since = now
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

// appendDelta hands over what is held, where the client wants any of it. The delta is valid until the next one.
func (c *continuation) appendDelta(deltas []*infernov1.Delta) []*infernov1.Delta {
	d := &c.delta
	d.Index, d.Offset, d.Text = uint32(c.index), uint32(c.offset), ""
	if c.generation.ids {
		c.sent = c.sent[:0]
		for _, id := range c.ids {
			c.sent = append(c.sent, uint32(id))
		}
		d.TokenIds = c.sent
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
