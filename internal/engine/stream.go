package engine

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// FinishReason says what ended an output.
type FinishReason uint8

// The reasons; the zero value is none.
const (
	EndToken    FinishReason = iota + 1 // one of the model's end tokens
	StopToken                           // one of the request's stop tokens
	MaxTokens                           // the request's bound
	ContextFull                         // the context's bound, where the request set none
	StopString                          // the reader found one of the request's stop strings
	TimeLimit                           // the request's, which the reader keeps
	Loop                                // the tail repeats itself
	MaskDone                            // the request's mask leaves no token to go on with
	PromptDone                          // the request wanted no more than its prompt computed

	numFinishReasons = int(PromptDone) + 1
)

var finishNames = [numFinishReasons]string{
	"none", "end_token", "stop_token", "max_tokens", "context_full", "stop_string", "time_limit", "loop", "constraint_done", "prompt_done",
}

// FinishReasons are all of them.
func FinishReasons() []FinishReason {
	reasons := make([]FinishReason, 0, numFinishReasons-1)
	for r := FinishReason(1); int(r) < numFinishReasons; r++ {
		reasons = append(reasons, r)
	}
	return reasons
}

// String is the name that logs and metrics use.
func (r FinishReason) String() string {
	if int(r) >= numFinishReasons {
		return fmt.Sprintf("FinishReason(%d)", uint8(r))
	}
	return finishNames[r]
}

// Start is what is known when the first token is there.
type Start struct {
	PromptTokens int
	CachedTokens int           // of the prompt, from the prefix cache
	Queued       time.Duration // from arrival to the first step
}

// Finish is how an output ended.
type Finish struct {
	Reason  FinishReason
	Token   int32 // the last one; −1 where there is none
	Usage   Usage
	Timings Timings
	Vector  []float32 // [d] the pooled hidden state; nil: none was asked for
}

const noToken = -1

// Usage is counted in tokens.
type Usage struct {
	PromptTokens     int
	CachedTokens     int // of the prompt, from the prefix cache
	CompletionTokens int
	DraftTokens      int // guesses that were computed
	AcceptedTokens   int // those of them that were right
}

// Timings of a request. Queued + Prefill + Decode = Total, but for the time between the last token and the end.
type Timings struct {
	Queued      time.Duration // arrival to first step
	Prefill     time.Duration // first step to first token
	Decode      time.Duration // first token to last token
	Total       time.Duration // arrival to end
	Preemptions int           // how often its blocks were taken and it was computed again
}

// Stream carries the tokens of one continuation from the loop to one consumer.
//
// The loop only appends; the waker publishes, and leaves a wake in a slot of one: neither takes a lock or waits. A reader that is behind gets
// several tokens at once. The buffer is bounded by what the request may generate.
type Stream struct {
	// The loop's, a cache line apart from what readers touch.
	writing []int32 // the buffer
	written int     // tokens in it
	_       [cacheLine - 32]byte

	buffer    atomic.Pointer[[]int32]        // replaced by a larger copy when full; what was published never changes
	logprobs  atomic.Pointer[[]TokenLogprob] // of the same tokens, where they are asked for
	published atomic.Int64                   // tokens of buffer that the reader may see
	computed  atomic.Int64                   // tokens of the prompt; kept where Request.Progress asks for it
	end       atomic.Pointer[streamEnd]
	wake      chan struct{} // one slot, the same for all continuations of a request
	announce  atomic.Pointer[func()]

	engine *Engine
	seq    *sequence
	start  Start          // written before the first token is published
	prompt []TokenLogprob // as start is
	read   int            // tokens that Poll has returned; the reader's
	done   bool           // the reader has seen the end; the reader's
}

const cacheLine = 64

// streamEnd is set once.
type streamEnd struct {
	tokens int // in the buffer: it publishes the last one too, so that a reader gets that together with the finish
	finish *Finish
	err    error
}

const firstBuffer = 16 // tokens

func newStream(e *Engine, seq *sequence, wake chan struct{}) *Stream {
	s := &Stream{engine: e, seq: seq, wake: wake}
	s.grow(min(firstBuffer, seq.maxNew))
	return s
}

// grow makes the buffer that large.
func (s *Stream) grow(tokens int) {
	larger := make([]int32, tokens)
	copy(larger, s.writing)
	s.writing = larger
	s.buffer.Store(&larger)
	if s.seq.request.Logprobs.Output {
		logprobs := make([]TokenLogprob, tokens)
		if before := s.logprobs.Load(); before != nil {
			copy(logprobs, *before)
		}
		s.logprobs.Store(&logprobs)
	}
}

// describe adds the log-probability of the token that was put last.
func (s *Stream) describe(l TokenLogprob) { (*s.logprobs.Load())[s.written-1] = l }

// put adds a token, which publish or close lets the reader see. Like close it is called by the loop alone.
func (s *Stream) put(token int32) {
	if s.written == len(s.writing) {
		s.grow(2 * len(s.writing))
	}
	s.writing[s.written] = token
	s.written++
}

func (s *Stream) publish(tokens int) {
	s.published.Store(int64(tokens))
	s.notify()
}

func (s *Stream) close(finish *Finish, err error) {
	s.end.Store(&streamEnd{tokens: s.written, finish: finish, err: err})
	s.notify()
}

func (s *Stream) notify() {
	select {
	case s.wake <- struct{}{}:
	default: // the reader has a wake waiting already
	}
	if announce := s.announce.Load(); announce != nil {
		(*announce)()
	}
}

// Announce has f called whenever Poll may have more, from now on: by the loop, the waker or who polls. It must not wait.
func (s *Stream) Announce(f func()) { s.announce.Store(&f) }

// maxPoll bounds the tokens of a Poll, and with them the message that a reader makes of those it is behind by.
const maxPoll = 256

// Poll returns the new tokens, if any, up to maxPoll of them, and the end: without waiting. The tokens are valid for good and must not be changed. A normal end
// comes once, with the last tokens; an error comes alone, after all tokens: the error of the context given to Submit, ErrAborted,
// ErrNotFinite or ErrDeviceLost. After the end the error is io.EOF. For one goroutine at a time.
func (s *Stream) Poll() ([]int32, *Finish, error) {
	if s.done {
		return nil, nil, io.EOF
	}
	from, to := s.read, int(s.published.Load())
	end := s.end.Load()
	if end != nil {
		to = end.tokens
	}
	if to > from+maxPoll {
		to, end = from+maxPoll, nil
		s.notify() // there is more to come, so that Wait would return at once
	} else if end != nil && end.finish == nil && to > from {
		s.notify() // the error comes alone, next
	}
	s.read = to
	var tokens []int32
	if to > from {
		tokens = (*s.buffer.Load())[from:to:to]
	}
	switch {
	case end != nil && end.finish != nil:
		s.done = true
		return tokens, end.finish, nil
	case end != nil && len(tokens) == 0:
		s.done = true
		return nil, nil, end.err
	}
	return tokens, nil, nil
}

// Wait returns when Poll of this stream, or of another continuation of the request, may have more, or with ctx's error. For one goroutine a
// request.
func (s *Stream) Wait(ctx context.Context) error {
	select {
	case <-s.wake:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Next waits until Poll has something to return. Of a request with several continuations, Poll all and Wait instead.
func (s *Stream) Next(ctx context.Context) ([]int32, *Finish, error) {
	for {
		tokens, finish, err := s.Poll()
		if len(tokens) > 0 || finish != nil || err != nil {
			return tokens, finish, err
		}
		if err := s.Wait(ctx); err != nil {
			return nil, nil, err
		}
	}
}

// Logprobs are those of the n tokens that Poll returned last, where they were asked for; valid for good.
func (s *Stream) Logprobs(n int) []TokenLogprob {
	l := s.logprobs.Load()
	if l == nil || n == 0 {
		return nil
	}
	return (*l)[s.read-n : s.read : s.read]
}

// PromptLogprobs are those of the prompt's tokens from Logprobs.Start on, where they were asked for. Valid when Started is.
func (s *Stream) PromptLogprobs() []TokenLogprob { return s.prompt }

// Computed is how many tokens of the prompt have been computed, or were found in the prefix cache, as far as Request.Progress asked for it: valid
// at any time, and never less than before, though a request that is preempted starts its prompt again. Wait returns when there is news.
func (s *Stream) Computed() int { return int(s.computed.Load()) }

// compute notes that so many tokens of the prompt are there; the loop's.
func (s *Stream) compute(tokens int) {
	if int64(tokens) > s.computed.Load() {
		s.computed.Store(int64(tokens))
	}
}

// Started is valid once Poll has returned tokens or a finish.
func (s *Stream) Started() Start { return s.start }

// Cancel leaves: the request, all its continuations, ends and its blocks are free within one step. Idempotent, and without effect after the
// end.
func (s *Stream) Cancel() { s.engine.leave(s.seq.group, context.Canceled) }

// Finish ends this continuation normally and within one step, for a reason that the reader has found. Without effect after the end; what it
// generated until then still comes.
func (s *Stream) Finish(reason FinishReason) { s.engine.finish(s.seq, reason) }
