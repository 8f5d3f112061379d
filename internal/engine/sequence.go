package engine

import (
	"fmt"
	"slices"
	"time"
	"unsafe"

	"github.com/inferno-serve/inferno/internal/device"
)

// sequence is a request on its way through the engine. The loop owns it from the moment that it drained the intake.
//
// A sequence waits, runs or has ended. While it runs, the first `computed` tokens have their keys and values in the blocks of its
// table, or get them by a step under way; it holds just the blocks for those.
type sequence struct {
	// What each step touches comes first, in as few cache lines as it takes: stepBytes.
	tokens    []int32 // prompt, then what was generated
	prompt    int     // tokens of the prompt
	maxNew    int     // tokens that may be generated
	pending   int     // tokens that steps under way sample
	computed  int     // tokens whose keys and values are in the cache once the steps under way have ended
	scheduled int     // tokens in the step being planned
	drafts    int     // those of them that are guesses

	table    []int32 // blocks, in the order of the tokens; its capacity is the context's
	underWay int     // steps that name its blocks and are not committed
	// The runner's: where the device has what of s.
	place   int // row of its block table; nowhere: none
	placed  int // blocks of the table that are there
	sampled int // row of its latest sampled id

	held      bool // out of the step being planned: its tokens so far have to be seen first
	hostBound bool // it needs the host between its tokens: it has a masker, or drafts at this time
	penalized bool // the device has to know its tokens
	adjusted  bool // its rows of logits have an adjustment
	curious   bool // it may ask a step for more than a token
	proved    bool // a token was sampled since it started, for the first time or again
	watched   bool // each of its tokens is shown to a masker or a loop detector
	state     sequenceState
	finish    FinishReason
	drafter   *drafter // nil: it never drafts
	probe     bool     // made by Probe or Warmup: not counted, and nobody reads

	minNew int                 // tokens before any of ends and stops
	params device.SampleParams // of the request, the same for each token
	stream *Stream             // nil in tests of the scheduler
	ends   []int32             // the model's, unless they are ignored
	stops  []int32             // the request's
	last   time.Duration       // from the engine's birth to its latest token

	err      error         // why it ended, where that is no finish
	first    time.Duration // from the engine's birth to its first token
	started  time.Time     // of its first step
	asked    asked
	pooled   []float64 // [d] sum of hidden states so far
	mask     []uint32  // tokens that may be chosen, which does not change; nil: all
	masker   *guarded  // and which does; nil: none. s is not planned ahead of its tokens then
	loop     loopDetector
	request  *Request
	arrived  time.Time
	deadline time.Time // zero: none
	left     time.Time // when it was told to leave early; zero: it was not
	group    *group    // the continuations of its request; nil: it is alone
	prefix   prefix

	// The queue's.
	tenant      *tenant
	rank        time.Duration // where it stands among those that wait, then among those that run; rank() says how
	order       uint64        // among those of its rank
	spot        int           // in its tenant's heap
	charged     int           // tokens generated that its tenant has been charged with
	preemptions int
	prev, next  *sequence // of those that were preempted
}

// stepBytes is what a step touches of a sequence itself.
const stepBytes = unsafe.Offsetof(sequence{}.err)

type sequenceState uint8

const (
	waiting sequenceState = iota // queued, for the first time or after a preemption
	running
	ended
)

// nowhere is no row of the device's block tables.
const nowhere = -1

func newSequence(r *Request, context int) *sequence {
	s := &sequence{
		request: r, prompt: len(r.Prompt), place: nowhere, maxNew: r.Stop.maxNew(len(r.Prompt), context),
		params: r.Sampling.params(), minNew: r.Stop.MinTokens, stops: r.Stop.StopTokens, asked: newAsked(r),
	}
	if r.Stop.Loop.MaxPeriod > 0 {
		s.loop, s.watched = newLoopDetector(r.Stop.Loop), true
	}
	s.penalized = r.Sampling.penalizes()
	s.adjusted = s.penalized || len(r.Sampling.LogitBias) > 0
	if !r.Stop.IgnoreEOS {
		s.ends = r.Stop.EndTokens
	}
	if r.PromptOnly {
		s.maxNew = 0
	}
	s.curious = r.PromptOnly || r.Logprobs.Output || r.Logprobs.Prompt
	s.tokens = append(make([]int32, 0, len(r.Prompt)+min(s.maxNew, 64)), r.Prompt...)
	return s
}

func (s *sequence) generated() int { return len(s.tokens) - s.prompt }

// expected counts the tokens that steps under way sample as generated.
func (s *sequence) expected() int { return s.generated() + s.pending }

// remaining is the tokens that have to be computed before the next one can be sampled, or where none will be: 1 while decoding, 0 when all
// that may be generated is under way, or when s is held.
func (s *sequence) remaining() int {
	if s.curious && s.asked.goal > 0 {
		return s.asked.goal - s.computed
	}
	if s.expected() >= s.maxNew || s.held {
		return 0
	}
	return len(s.tokens) + s.pending - s.computed
}

// decoding says whether the next step of s is a single token that samples one.
func (s *sequence) decoding() bool { return s.remaining() == 1 && s.expected() > 0 }

// Phase is where a request was when it left: counted by Stats.Cancelled.
type Phase uint8

// The phases of a request. One that was preempted is queued again.
const (
	Queued Phase = iota
	Prefilling
	Decoding

	NumPhases = int(Decoding) + 1
)

var phaseNames = [NumPhases]string{"queued", "prefill", "decode"}

// String is the name that logs and metrics use.
func (p Phase) String() string {
	if int(p) >= NumPhases {
		return fmt.Sprintf("Phase(%d)", uint8(p))
	}
	return phaseNames[p]
}

func (s *sequence) phase() Phase {
	switch {
	case s.state == waiting:
		return Queued
	case s.generated() == 0:
		return Prefilling
	}
	return Decoding
}

// late says whether the mask of the next token is still being made.
func (s *sequence) late() bool { return s.masker != nil && s.masker.late }

// take appends what was sampled from the rows of item, up to the first wrong guess, or to the end of the output.
func (s *sequence) take(item *batchItem, ids []int32) {
	for i := range int(item.drafts) + 1 {
		id := ids[item.row+i]
		if id < 0 {
			s.err = ErrNotFinite
			return
		}
		s.finish = s.accept(id)
		item.accepted++
		if s.finish != 0 || s.err != nil || i < int(item.drafts) && id != s.drafter.tokens[i] {
			return
		}
	}
}

// accept appends a sampled token and says whether the output ends with it.
func (s *sequence) accept(id int32) FinishReason {
	s.tokens = append(s.tokens, id)
	if s.watched && s.masker != nil {
		s.masker.Accept(id)
	}
	switch {
	case slices.Contains(s.ends, id):
		return EndToken
	case slices.Contains(s.stops, id):
		return StopToken
	case s.watched && len(s.loop.run) > 0 && s.loop.accept(s.tokens[s.prompt:]):
		return Loop
	case s.watched && s.generated() < s.maxNew && s.masker != nil && !s.masker.late && s.masked() && s.deadEnd():
		if s.err = s.masker.incomplete(); s.err != nil {
			return 0
		}
		return MaskDone
	case s.generated() < s.maxNew:
		return 0
	case s.request.Stop.MaxTokens > 0:
		return MaxTokens
	}
	return ContextFull
}
