package engine

import (
	"errors"
	"slices"
	"testing"
)

// A guess is what followed the last tokens where they were before: at the place that agrees for longest, and of equals at the latest. No more are guessed
// than agree.
func TestGuesses(t *testing.T) {
	for name, c := range map[string]struct {
		tokens   []int32
		minMatch int
		want     []int32 // of up to four
	}{
		"nothing was there before":        {[]int32{1, 2, 3, 4, 5}, 2, nil},
		"less than the least agrees":      {[]int32{1, 2, 9, 3, 2}, 2, nil},
		"one token is enough if it may":   {[]int32{1, 2, 9, 3, 2}, 1, []int32{9}},
		"the start of the tokens":         {[]int32{1, 2, 3, 4, 5, 1, 2}, 2, []int32{3, 4}},
		"the latest of equals":            {[]int32{1, 2, 3, 7, 1, 2, 4, 8, 1, 2}, 2, []int32{4, 8}},
		"the longest before the latest":   {[]int32{6, 1, 2, 3, 7, 1, 2, 4, 6, 1, 2}, 2, []int32{3, 7, 1}},
		"what repeats itself goes on so":  {[]int32{5, 1, 2, 1, 2, 1, 2}, 2, []int32{1, 2, 1, 2}},
		"fewer tokens than have to agree": {[]int32{1}, 2, nil},
	} {
		d := newDrafter(Speculation{MaxTokens: 4, MinMatch: c.minMatch}, c.tokens[:len(c.tokens)/2], 100)
		if n := d.draft(c.tokens, 4); !slices.Equal(d.tokens[:n], c.want) {
			t.Errorf("%s: guessed %v after %v, want %v", name, d.tokens[:n], c.tokens, c.want)
		}
		if n := d.draft(c.tokens, 1); n != min(1, len(c.want)) {
			t.Errorf("%s: %d guesses, where one is wanted at most", name, n)
		}
	}
}

// Guesses that fail get fewer, and then a rest that doubles; one that is right ends that.
func TestGuessesThatFailAreGivenUpForAWhile(t *testing.T) {
	d := newDrafter(Speculation{MaxTokens: 15}, []int32{1}, 100)
	for i, want := range []int{0, 104, 108, 116, 132, 164, 164} {
		d.judge(4, 0, 100)
		if d.resumes != want || d.reach < 1 {
			t.Errorf("after miss %d: up to %d guesses from %d tokens on, want from %d on", i+1, d.reach, d.resumes, want)
		}
	}
	for i, want := range []int{2, 4, 8, 15, 15} {
		d.judge(d.reach, d.reach, 200)
		if d.reach != want {
			t.Errorf("after hit %d: up to %d guesses, want %d", i+1, d.reach, want)
		}
	}
	if d.judge(15, 3, 200); d.reach != 4 {
		t.Errorf("after 3 of 15: up to %d guesses, want 4", d.reach)
	}
	if d.judge(4, 0, 200); d.resumes > 200 {
		t.Error("the first miss costs a rest")
	}
}

// drafting is a world in which one sequence, of the tokens 0 to 2, twice, has just got 0 once more: it guesses 1, 2, 0, 1.
func drafting(t *testing.T, change func(r *Request)) (*world, *sequence) {
	t.Helper()
	w := newWorld(8, 4, 4, 32, 32, 32)
	w.s.maxDrafting = 1
	r := &Request{ID: "a", Prompt: []int32{0, 1, 2, 0, 1, 2}, Stop: Stopping{MaxTokens: 20}, Speculation: Speculation{MaxTokens: 15, MinMatch: 1}}
	change(r)
	seq := w.addRequest(r)
	seq.setDrafter()
	w.s.Commit(w.s.Next(), []int32{0})
	return w, seq
}

// Whatever ends an output ends it within a run of right guesses too, and what comes behind is nobody's.
func TestOutputsEndAmongGuesses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(r *Request)
		rows   int
		ids    []int32
		want   []int32 // generated
		finish FinishReason
		err    error
	}{
		"all right":          {func(*Request) {}, 5, []int32{1, 2, 0, 1, 7}, []int32{0, 1, 2, 0, 1, 7}, 0, nil},
		"two right":          {func(*Request) {}, 5, []int32{1, 2, 9, 1, 2}, []int32{0, 1, 2, 9}, 0, nil},
		"none right":         {func(*Request) {}, 5, []int32{3, 2, 0, 1, 2}, []int32{0, 3}, 0, nil},
		"max tokens":         {func(r *Request) { r.Stop.MaxTokens = 4 }, 3, []int32{1, 2, 0}, []int32{0, 1, 2, 0}, MaxTokens, nil},
		"end token":          {func(r *Request) { r.Stop.EndTokens = []int32{2} }, 5, []int32{1, 2, 0, 1, 2}, []int32{0, 1, 2}, EndToken, nil},
		"end token, wrong":   {func(r *Request) { r.Stop.EndTokens = []int32{2} }, 5, []int32{2, 2, 0, 1, 2}, []int32{0, 2}, EndToken, nil},
		"loop":               {func(r *Request) { r.Stop.Loop = LoopDetection{2, 3} }, 5, []int32{1, 0, 1, 0, 1}, []int32{0, 1, 0}, 0, nil},
		"not finite":         {func(*Request) {}, 5, []int32{1, 2, -1, 1, 2}, []int32{0, 1, 2}, 0, ErrNotFinite},
		"not finite, unread": {func(*Request) {}, 5, []int32{1, 9, -1, -1, -1}, []int32{0, 1, 9}, 0, nil},
		"not finite at once": {func(*Request) {}, 5, []int32{-1, 2, 0, 1, 2}, []int32{0}, 0, ErrNotFinite},
	} {
		t.Run(name, func(t *testing.T) {
			w, seq := drafting(t, c.change)
			b := w.s.Next()
			if b.rows != c.rows || b.tokens != c.rows || b.drafting != c.rows {
				t.Fatalf("a step of %d tokens and %d rows, %d of them with guesses, want %d", b.tokens, b.rows, b.drafting, c.rows)
			}
			w.s.Commit(b, c.ids)
			if got := seq.tokens[seq.prompt:]; !slices.Equal(got, c.want) || seq.finish != c.finish || !errors.Is(seq.err, c.err) {
				t.Errorf("got %v (%v, %v), want %v (%v, %v)", got, seq.finish, seq.err, c.want, c.finish, c.err)
			}
			if err := w.s.checkIntegrity(); err != nil {
				t.Error(err)
			}
			over := c.finish != 0 || c.err != nil
			if used := w.s.blocks.total() - w.s.blocks.numFree(); over != (used == 0) || !over && used != w.s.blocks.blocksFor(len(seq.tokens)-1) {
				t.Errorf("%d blocks are used for %d tokens", used, len(seq.tokens))
			}
			if d := seq.drafter; c.ids[0] >= 0 && d.drafted != c.rows-1 || d.accepted != max(len(c.want)-2, 0) {
				t.Errorf("%d of %d guesses right", d.accepted, d.drafted)
			}
		})
	}
}

// There are guesses only where nobody else pays for them, and where one token a step is not what the request needs.
func TestWhoGetsNoGuesses(t *testing.T) {
	for name, change := range map[string]func(r *Request){
		"not asked for":     func(r *Request) { r.Speculation = Speculation{} },
		"penalties":         func(r *Request) { r.Sampling.PresencePenalty = 1 },
		"biases":            func(r *Request) { r.Sampling.LogitBias = []Bias{{1, 1}} },
		"log-probabilities": func(r *Request) { r.Logprobs.Output = true },
		"one token to go":   func(r *Request) { r.Stop.MaxTokens = 2 },
	} {
		w, _ := drafting(t, change)
		if b := w.s.Next(); b.rows != 1 || b.decodes != 1 {
			t.Errorf("%s: %d rows, want 1", name, b.rows)
		}
	}
	w, seq := drafting(t, func(*Request) {})
	w.addRequest(&Request{ID: "b", Prompt: make([]int32, 40-32), Stop: Stopping{MaxTokens: 9}})
	if b := w.s.Next(); seq.hostBound || b.decodes != 1 {
		t.Errorf("while another waits: bound to the host %t, %d decode rows", seq.hostBound, b.decodes)
	}
	if b := w.s.Next(); b == nil || len(b.items) != 2 {
		t.Error("beside another it does not run ahead")
	}
}
