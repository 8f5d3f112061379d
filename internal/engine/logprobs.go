package engine

import (
	"fmt"

	"github.com/inferno-serve/inferno/internal/device"
)

// Logprobs says which log-probabilities a request wants: natural logarithms of the model's own distribution, before anything that sampling
// does to it.
type Logprobs struct {
	Output bool    // of the tokens generated
	Prompt bool    // of the prompt's own tokens, from position Start on
	Start  int     // below the prompt's length
	Top    int     // how many of the likeliest tokens to tell beside each
	IDs    []int32 // tokens to tell of beside each
}

// TokenLogprob is the log-probability of a token in its place.
type TokenLogprob struct {
	ID           int32
	Logprob      float32
	Rank         int           // 1: the likeliest; 0: nothing precedes the token, and so it has no log-probability
	Alternatives []Alternative // the likeliest, then those of IDs
}

// Alternative is a token that could have been there.
type Alternative struct {
	ID      int32
	Logprob float32
}

// Pooling says how the hidden states of a prompt become one vector. They are those behind the last norm.
type Pooling uint8

// The poolings.
const (
	NoPooling Pooling = iota
	MeanPooling
	LastTokenPooling
)

// Bounds of Logprobs.
const (
	MaxTopLogprobs = device.MaxTopLogProbs
	MaxLogprobIDs  = 128
)

// promptRows is how many rows of logits a step has beside one for each sequence, most of them for prompts; and how many prompts it pools.
const promptRows = 64

// LogitRows is how many rows of logits an engine has use for, that runs so many sequences and computes so many tokens in a step: what a
// model is best loaded for.
func LogitRows(maxBatch, maxTokens int) int { return min(maxBatch+promptRows, maxTokens) }

func (l *Logprobs) validate(prompt, vocabulary int) error {
	if l.Top < 0 || l.Top > MaxTopLogprobs {
		return &LimitError{"logprobs", l.Top, fmt.Sprintf("0 to %d", MaxTopLogprobs), ErrInvalid}
	}
	if n := len(l.IDs); n > MaxLogprobIDs {
		return &LimitError{"logprob_token_ids", fmt.Sprintf("%d ids", n), fmt.Sprintf("at most %d", MaxLogprobIDs), ErrInvalid}
	}
	if l.Prompt && (l.Start < 0 || l.Start >= prompt) {
		return &LimitError{"prompt_logprobs_start", l.Start, fmt.Sprintf("0 to %d, the prompt's last position", prompt-1), ErrInvalid}
	}
	return validateIDs("logprob_token_ids", l.IDs, vocabulary)
}

// asked is what a sequence wants to know of its prompt. A row of logits says how likely the token after it is, so that the rows of a
// prompt's log-probabilities are those of the positions before its tokens. None is computed twice, not even after a preemption.
type asked struct {
	nextRow, endRow int // positions whose logits are still wanted; none where they are equal
	nextPooled      int // first position whose hidden state is not in the sum
	pooling         Pooling
	goal            int  // of a request that generates nothing: tokens to compute; 0: it generates
	whole           bool // the first token is told too, though nothing can be told of it
}

func newAsked(r *Request) (a asked) {
	a.pooling = r.Pooling
	if r.Logprobs.Prompt {
		a.nextRow, a.endRow, a.whole = max(r.Logprobs.Start-1, 0), len(r.Prompt)-1, r.Logprobs.Start == 0
	}
	switch {
	case !r.PromptOnly:
	case a.pooling != NoPooling:
		a.goal = len(r.Prompt)
	default:
		a.goal = max(len(r.Prompt)-1, 1) // nobody asks what comes after the last one
	}
	return a
}

// rowsOf is how many logit rows a chunk of count tokens has for the prompt, and the position of the first.
func (a *asked) rowsOf(start, count int) (first, rows int) {
	first = max(start, a.nextRow)
	return first, max(min(start+count, a.endRow)-first, 0)
}

// rowBudget is what a step has left beside a row of logits for each token that is sampled: more rows, and vectors.
type rowBudget struct{ rows, pooled int }

// most is how many of count tokens of seq the budget allows in the step.
func (b *rowBudget) most(seq *sequence, count int) int {
	if !seq.curious {
		return count
	}
	a := &seq.asked
	if a.pooling != NoPooling && b.pooled == 0 {
		return 0
	}
	if first, rows := a.rowsOf(seq.computed, count); rows > b.rows {
		return max(first+b.rows-seq.computed, 0)
	} else if rows+seq.rawRows(count) > b.rows {
		return count - 1
	}
	return count
}

// take counts what a chunk of count tokens uses.
func (b *rowBudget) take(seq *sequence, count int) {
	if !seq.curious {
		return
	}
	_, rows := seq.asked.rowsOf(seq.computed, count)
	b.rows -= rows + seq.rawRows(count)
	if seq.asked.pooling != NoPooling && count > 0 {
		b.pooled--
	}
}

// rawRows is 1 where a chunk of count tokens samples one whose log-probability is asked for, from logits that are changed in place before:
// then they are computed twice. Where more sequences want that than there are rows, the younger ones miss a step.
func (s *sequence) rawRows(count int) int {
	if s.adjusted && s.request.Logprobs.Output && count > 0 && count == s.remaining() {
		return 1
	}
	return 0
}

// question is what a batch item asks of the step beside a token.
type question struct {
	position, rows int  // logit rows of the prompt: position of the first, and how many
	row            int  // of those that come behind the sampled ones; the first of them
	raw            int  // the one of the logits that the token is sampled from, before they are changed; −1: they are not
	query          int  // of the step, the first of this item's: that of its token, if it wants one, then those of the prompt
	output         bool // the token's own log-probability is wanted
	vector         int  // which of the step's vectors is this item's; −1: none
	from, to       int  // rows of the item's chunk that it is the sum of
	last           bool // a request that generates nothing is done with this
	broken         bool // set by the runner: an answer was not finite
}

// noQuestion is that of an item which is asked for a token at most.
func noQuestion() question { return question{raw: -1, vector: -1} }

// ask notes what a chunk of seq, which is being added to b, is asked for.
func (b *batch) ask(item *batchItem) *question {
	seq := item.seq
	if !seq.curious {
		return &b.nothing
	}
	a := &seq.asked
	b.questions = append(b.questions, question{raw: -1, query: b.queries, vector: -1})
	q := &b.questions[len(b.questions)-1]
	q.last = a.goal > 0 && item.start+item.count == a.goal
	l := &seq.request.Logprobs
	if q.output = l.Output && item.row >= 0; q.output {
		b.queries++
		if seq.adjusted {
			q.raw = b.promptRows
			b.promptRows++
		}
	}
	if q.position, q.rows = a.rowsOf(item.start, item.count); q.rows > 0 {
		q.row = b.promptRows
		b.promptRows += q.rows
		b.queries += q.rows
		a.nextRow = q.position + q.rows
	}
	if q.output || q.rows > 0 {
		b.top, b.ids = max(b.top, l.Top), max(b.ids, len(l.IDs))
	}
	q.from, q.to = max(item.start, a.nextPooled)-item.start, item.count
	if a.pooling == LastTokenPooling && !q.last {
		q.from = q.to
	} else if a.pooling == LastTokenPooling {
		q.from = q.to - 1
	}
	if a.pooling != NoPooling && q.from < q.to {
		q.vector = b.vectors
		b.vectors++
		a.nextPooled = item.start + item.count
	}
	return q
}

// answered says whether the step told something of the item's prompt, and it was sound.
func (q *question) answered() bool { return (q.rows > 0 || q.vector >= 0) && !q.broken }
