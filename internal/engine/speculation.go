package engine

import "fmt"

// Speculation: a sequence that decodes may have guesses of its next tokens computed behind its last one, in one step. Each of these rows is
// sampled with what the token at its position is always sampled with, so that a guess is right just where it is the token of the step that
// would have come without it: rows count up to the first wrong guess, and the output does not depend on guesses at all. Keys and values of
// wrong ones are overwritten when their positions come.
//
// A draft starts from the last token, so that its sequence is bound to the host: it is not planned ahead of its tokens. While the engine is
// busy, and while drafts fail, it makes none, and runs ahead like any other.

// Speculation says how a request's tokens are guessed.
type Speculation struct {
	MaxTokens int // of a draft; 0: there are none
	MinMatch  int // last tokens that have to have been there before; 0: DefaultMinMatch
}

// Bounds and defaults of Speculation.
const (
	MaxDraftTokens     = 15
	DefaultDraftTokens = 7 // with the last token 8 rows, which products on a card compute at a time
	DefaultMinMatch    = 3
	MaxMinMatch        = longMatch
)

func (o *Speculation) minMatch() int {
	if o.MinMatch == 0 {
		return DefaultMinMatch
	}
	return o.MinMatch
}

func (o *Speculation) validate() error {
	if o.MaxTokens < 0 || o.MaxTokens > MaxDraftTokens {
		return &LimitError{"speculation.ngram.max_draft_tokens", o.MaxTokens, fmt.Sprintf("0 to %d", MaxDraftTokens), ErrInvalid}
	}
	if o.MinMatch < 0 || o.MinMatch > MaxMinMatch {
		return &LimitError{"speculation.ngram.min_match", o.MinMatch, fmt.Sprintf("0 to %d", MaxMinMatch), ErrInvalid}
	}
	return nil
}

// setDrafter lets s, which is new and has its masks, have drafts. Rows whose logits are adjusted, and log-probabilities, are for one token a
// step: a sequence with such has none.
func (s *sequence) setDrafter() {
	if o := s.request.Speculation; o.MaxTokens > 0 && s.maxNew > 1 && !s.adjusted && !s.curious {
		s.drafter = newDrafter(o, s.tokens[:s.prompt], s.maxNew)
	}
}

// bind says whether seq, which has a drafter, needs the host before its next step. What a step under way drafts for stays bound until it
// has ended.
func (s *scheduler) bind(seq *sequence) {
	seq.held = false // until hold says otherwise
	if seq.hostBound && seq.pending > 0 {
		return
	}
	seq.hostBound = s.quiet() && len(seq.tokens)+seq.pending >= seq.drafter.resumes
}

// quiet says whether there is room for guesses: what they cost, all that run pay for.
func (s *scheduler) quiet() bool { return len(s.running) <= s.maxDrafting && s.waiting.len == 0 }

// draft adds guesses to what running sequences compute in the step being planned, which have got what they need. left is the budget that is
// left, before and after. Blocks are taken only where every sequence could still grow by one, so that guesses make nobody lose his.
func (s *scheduler) draft(left int) int {
	if s.maxDrafting == 0 || !s.quiet() {
		return left
	}
	for _, seq := range s.running {
		if seq.drafter == nil || !seq.hostBound || !seq.proved || seq.scheduled != 1 || !seq.decoding() {
			continue
		}
		most := min(left, s.budget.rows, seq.maxNew-seq.expected()-1)
		room := (len(seq.table)+max(s.blocks.numFree()-len(s.running), 0))*s.blocks.blockSize - seq.computed - 1
		n := seq.drafter.draft(seq.tokens, min(most, room))
		if n == 0 {
			continue
		}
		s.grow(seq, 1+n)
		seq.drafts = n
		s.budget.rows -= n
		left -= n
	}
	return left
}

// takeDraft ends a step with guesses for a sequence that goes on: those that were not right are taken back, with the blocks that were for
// them alone. No other step names these.
func (s *scheduler) takeDraft(seq *sequence, item *batchItem) {
	seq.drafter.judge(int(item.drafts), max(int(item.accepted)-1, 0), len(seq.tokens))
	if seq.err != nil || seq.finish != 0 {
		return // its blocks are on their way back
	}
	seq.computed = item.start + int(item.accepted)
	used := s.blocks.blocksFor(seq.computed)
	s.blocks.release(seq.table[used:])
	seq.table = seq.table[:used]
	seq.placed = min(seq.placed, used)
}
