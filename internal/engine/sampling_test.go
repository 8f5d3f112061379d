package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// withEverything are requests that between them ask for all that changes the choice of a token.
func withEverything(n int) []*Request {
	requests := make([]*Request, n)
	for i := range requests {
		q := &Request{ID: fmt.Sprint(i), Prompt: prompt(1+i*7%23, i), Stop: Stopping{MaxTokens: 5 + i*5%19}}
		q.Sampling = Sampling{Temperature: 1, Seed: uint64(i)}
		s := &q.Sampling
		switch i % 6 {
		case 0:
			s.RepetitionPenalty, s.PenaltyWindow = 1.3, i
		case 1:
			s.PresencePenalty, s.FrequencyPenalty = 0.5, -0.25
		case 2:
			s.LogitBias = []Bias{{3, 1.5}, {96, -100}, {int32(i), 2}}
		case 3:
			s.Allowed, s.Banned = []int32{1, 5, 9, 40, 90}, []int32{9, 10}
		case 4:
			q.Mask = func() Masker { return &remainders{} }
			s.FrequencyPenalty, s.Banned = 1, []int32{0, 1, 2}
		}
		requests[i] = q
	}
	return requests
}

// remainders lets the next token be any whose remainder by 3 is not that of the last one.
type remainders struct{ last int32 }

func (m *remainders) Mask() []uint32 {
	mask := make([]uint32, maskWords(fakeVocabulary))
	for id := range int32(poison) {
		if id%3 != m.last%3 {
			mask[id/32] |= 1 << (id % 32)
		}
	}
	return mask
}

func (m *remainders) Accept(id int32) { m.last = id }

// Whatever a request asks for, it gets the same tokens alone, among others, and after a preemption; with n > 1 each continuation too.
func TestAdjustedRequestsGetTheSameTokensInAnyCompany(t *testing.T) {
	inEveryMode(t, func(t *testing.T, newRig rigMaker) {
		for name, c := range map[string]struct {
			blocks  int
			preempt bool
		}{"large pool": {400, false}, "small pool": {14, true}} {
			t.Run(name, func(t *testing.T) {
				requests := withEverything(24)
				r := newRig(t, Options{NumBlocks: c.blocks, MaxBatch: 12})
				streams := make([][]*Stream, len(requests))
				for i, q := range requests {
					q.N = 1 + i%3
					streams[i] = r.submitAll(t.Context(), t, q)
				}
				r.run(t)
				total := 0
				for i, q := range requests {
					for j, s := range streams[i] {
						total++
						wantReferenceOf(t, r, q, s, continuationSeed(q.Sampling.Seed, j))
					}
				}
				s := r.Stats()
				if s.Finished != uint64(total) || s.BlocksUsed != 0 || s.Running+s.Queued+s.Suspended != 0 || (s.Preemptions > 0) != c.preempt {
					t.Errorf("in the end: %+v", s)
				}
			})
		}
	})
}

// Seeds of continuations are the request's own, and then splitmix64's outputs: those that its authors publish for the seed 1234567.
func TestSeedsOfContinuations(t *testing.T) {
	published := []uint64{6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821}
	if got := continuationSeed(1234567, 0); got != 1234567 {
		t.Errorf("the first continuation has seed %d, want the request's", got)
	}
	for i, want := range published {
		if got := continuationSeed(1234567, i+1); got != want {
			t.Errorf("continuation %d has seed %d, want %d", i+1, got, want)
		}
	}
}

// While the continuations of a long prompt run, there is one copy of its full blocks.
func TestContinuationsShareThePromptsBlocks(t *testing.T) {
	inEveryMode(t, func(t *testing.T, newRig rigMaker) {
		const n = 8
		r := newRig(t, Options{NumBlocks: 64, BlockSize: 4})
		most := 0
		q := &Request{ID: "q", N: n, Prompt: prompt(101, 1), Stop: Stopping{MaxTokens: 7}, Sampling: Sampling{Temperature: 1, Seed: 9}}
		streams := r.submitAll(t.Context(), t, q)
		go func() { r.done <- r.Run(context.Background()) }()
		defer r.Close()
		prompt := 0
		for i, s := range streams {
			wantReferenceOf(t, r, q, s, continuationSeed(9, i))
			most = max(most, r.Stats().BlocksUsed)
			prompt += s.Started().PromptTokens
		}
		if s := r.Stats(); s.Preemptions > 0 || s.BlocksUsed > 0 {
			t.Errorf("25 blocks of the prompt and 2 or 3 of each continuation fit into 64, and all are free in the end: %+v", s)
		}
		if computed := r.Stats().PromptTokens; computed != 101+(n-1)*1 {
			t.Errorf("computed %d tokens of prompts, want 101 of the first continuation and the last one of each other", computed)
		}
		if prompt != n*101 {
			t.Errorf("continuations tell of %d tokens of prompts, want %d each", prompt, 101)
		}
	})
}

// However a request of several continuations leaves, all of them end, and nothing of it stays.
func TestLeavingEndsAllContinuations(t *testing.T) {
	for name, leave := range map[string]struct {
		do   func(r *rig, s []*Stream, cancel func())
		want error
	}{
		"context": {func(_ *rig, _ []*Stream, cancel func()) { cancel() }, context.Canceled},
		"cancel":  {func(_ *rig, s []*Stream, _ func()) { s[2].Cancel() }, context.Canceled},
		"abort": {func(r *rig, _ []*Stream, _ func()) {
			if got := r.Abort("q", "other"); !slices.Equal(got, []string{"q"}) {
				panic(fmt.Sprintf("aborted %q", got))
			}
		}, ErrAborted},
		"close": {func(r *rig, _ []*Stream, _ func()) { r.Close() }, ErrAborted},
	} {
		for _, steps := range []time.Duration{0, 1, 3, 10} {
			t.Run(fmt.Sprintf("%s after %d steps", name, steps), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, Options{MaxBatch: 3}).slow(time.Second) // one continuation has to wait
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					streams := r.submitAll(ctx, t, &Request{ID: "q", N: 4, Prompt: prompt(150, 1)})
					r.run(t)
					time.Sleep(steps * time.Second)
					leave.do(r, streams, cancel)
					for i, s := range streams {
						if _, _, err := readAll(s); !errors.Is(err, leave.want) {
							t.Errorf("continuation %d ended with %v, want %v", i, err, leave.want)
						}
					}
					synctest.Wait()
					if s := r.Stats(); s.BlocksUsed != 0 || s.Running+s.Queued != 0 {
						t.Errorf("afterwards: %+v", s)
					}
				})
			})
		}
	}
}

// A reader may end one continuation normally, queued or running; the others go on, and the id stays taken until the last has ended.
func TestAReaderEndsAContinuation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{MaxBatch: 2}).slow(time.Second)
		q := &Request{ID: "q", N: 3, Prompt: prompt(5, 1), Stop: Stopping{MaxTokens: 20}}
		streams := r.submitAll(t.Context(), t, q)
		r.run(t)
		time.Sleep(5500 * time.Millisecond)
		streams[0].Finish(StopString) // runs
		streams[2].Finish(TimeLimit)  // waits
		got, fin, err := readAll(streams[0])
		want, _ := reference(q, r.Context())
		if err != nil || fin.Reason != StopString || len(got) < 3 || len(got) > 7 || !slices.Equal(got, want[:len(got)]) ||
			fin.Usage.CompletionTokens != len(got) || fin.Token != got[len(got)-1] {
			t.Errorf("ended by its reader: %v, %+v, %v", got, fin, err)
		}
		got, fin, err = readAll(streams[2])
		if err != nil || fin.Reason != TimeLimit || len(got) > 0 || fin.Token != -1 || fin.Timings.Queued < 5*time.Second ||
			streams[2].Started().PromptTokens != 5 {
			t.Errorf("ended while it waited: %v, %+v, %v", got, fin, err)
		}
		if _, err := r.Submit(t.Context(), q); !errors.Is(err, ErrDuplicateID) {
			t.Errorf("the id is free while a continuation runs: %v", err)
		}
		wantReferenceOf(t, r, q, streams[1], continuationSeed(0, 1))
		streams[1].Finish(StopString) // has ended
		if s := r.Stats(); s.Finished != 3 || s.Cancelled != [NumPhases]uint64{} || s.Queued != 0 {
			t.Errorf("in the end: %+v", s)
		}
	})
}

// A masker hears of every token before it is asked for the next mask, also where others run ahead.
func TestAMaskerIsAskedBetweenTokens(t *testing.T) {
	inEveryMode(t, func(t *testing.T, newRig rigMaker) {
		r := newRig(t, Options{})
		var ahead []*Stream
		for i := range 3 {
			ahead = append(ahead, r.submit(t.Context(), t, &Request{ID: fmt.Sprint("plain", i), Prompt: prompt(3, i), Stop: Stopping{MaxTokens: 60}}))
		}
		var maskers []*remainders
		q := &Request{ID: "masked", N: 2, Prompt: prompt(4, 2), Stop: Stopping{MaxTokens: 30}, Mask: func() Masker {
			maskers = append(maskers, &remainders{})
			return maskers[len(maskers)-1]
		}}
		streams := r.submitAll(t.Context(), t, q)
		made := slices.Clone(maskers)
		r.run(t)
		for i, s := range streams {
			got, _, err := readAll(s)
			if err != nil || len(got) != 30 {
				t.Fatalf("continuation %d made %v, %v", i, got, err)
			}
			last := int32(0)
			for at, id := range got {
				if id%3 == last%3 {
					t.Errorf("continuation %d: token %d is %d after %d", i, at, id, last)
				}
				last = id
			}
			if made[i].last != last {
				t.Errorf("the masker of continuation %d last heard of %d, want %d", i, made[i].last, last)
			}
		}
		for i, s := range ahead {
			if got, _, err := readAll(s); err != nil || len(got) != 60 {
				t.Errorf("plain request %d made %d tokens: %v", i, len(got), err)
			}
		}
	})
}

// dwindling allows one token less each time, at last none.
type dwindling struct{ left int }

func (m *dwindling) Mask() []uint32 {
	mask := make([]uint32, maskWords(fakeVocabulary))
	for id := range m.left {
		mask[(10+id)/32] |= 1 << ((10 + id) % 32)
	}
	return mask
}

func (m *dwindling) Accept(int32) { m.left-- }

func TestAMaskThatAllowsNothingEndsTheOutput(t *testing.T) {
	inEveryMode(t, func(t *testing.T, newRig rigMaker) {
		r := newRig(t, Options{}).run(t)
		q := &Request{ID: "q", Prompt: prompt(4, 2), Mask: func() Masker { return &dwindling{5} }}
		wantReference(t, r, q, r.submit(t.Context(), t, q))
		if _, reason := reference(q, 256); reason != MaskDone {
			t.Fatalf("the reference ends with %v", reason)
		}
		q.ID, q.Stop.MinTokens, q.Stop.EndTokens = "min", 9, []int32{10, 11}
		got, fin, err := readAll(r.submit(t.Context(), t, q))
		if err != nil || fin.Reason != MaskDone || len(got) != 3 || slices.Min(got) < 12 {
			t.Errorf("with the last two tokens kept back: %v, %+v, %v", got, fin, err)
		}
	})
}

func TestLoopDetector(t *testing.T) {
	repeat := func(n int, tokens ...int32) []int32 { return slices.Repeat(tokens, n) }
	for _, c := range []struct {
		name   string
		output []int32
		d      LoopDetection
		want   int // tokens until it is told; 0: never
	}{
		{"one token", repeat(9, 7), LoopDetection{64, 8}, 8},
		{"one token, but longer periods are looked for too", repeat(9, 7), LoopDetection{1, 8}, 8},
		{"too few", repeat(7, 7), LoopDetection{64, 8}, 0},
		{"period 3 behind other tokens", append([]int32{9, 9, 1}, repeat(4, 1, 2, 3)...), LoopDetection{3, 4}, 15},
		{"period beyond the longest", repeat(9, 1, 2, 3, 4), LoopDetection{3, 3}, 0},
		{"longest period", repeat(9, 1, 2, 3, 4), LoopDetection{4, 3}, 12},
		{"broken by one token", append(append(repeat(7, 1, 2), 5), repeat(7, 1, 2)...), LoopDetection{8, 8}, 0},
		{"a loop of loops", repeat(3, 1, 1, 1, 2), LoopDetection{8, 4}, 0},
		{"a loop of loops, often enough", repeat(4, 1, 1, 1, 2), LoopDetection{8, 4}, 16},
		{"more repeats than there will be tokens", repeat(50, 1), LoopDetection{256, math.MaxUint32}, 0},
	} {
		detector, got := newLoopDetector(c.d), 0
		for i := range c.output {
			if detector.accept(c.output[:i+1]) {
				got = i + 1
				break
			}
			if loops(c.output[:i+1], c.d) {
				t.Errorf("%s: missed at %d tokens", c.name, i+1)
			}
		}
		if got != c.want {
			t.Errorf("%s: told after %d tokens, want %d", c.name, got, c.want)
		}
	}
}

// With two tokens to choose from, an output soon repeats itself, and ends where the reference does.
func TestLoopsEndTheOutput(t *testing.T) {
	inEveryMode(t, func(t *testing.T, newRig rigMaker) {
		r := newRig(t, Options{NumBlocks: 20}).run(t)
		ended := 0
		for i := range 12 {
			q := &Request{ID: fmt.Sprint(i), Prompt: prompt(3, i), Sampling: Sampling{Allowed: []int32{1, int32(2 + i)}}}
			q.Stop.MaxTokens, q.Stop.Loop = 40, LoopDetection{MaxPeriod: 2, MinRepeats: 4}
			wantReference(t, r, q, r.submit(t.Context(), t, q))
			if _, reason := reference(q, r.Context()); reason == Loop {
				ended++
			}
		}
		if ended == 0 {
			t.Error("no output looped")
		}
	})
}

func TestSamplingIsChecked(t *testing.T) {
	r := newRig(t, Options{}).run(t)
	nan := float32(math.NaN())
	for field, change := range map[string]func(q *Request){
		"n":                          func(q *Request) { q.N = 17 },
		"typical_p":                  func(q *Request) { q.Sampling.TypicalP = nan },
		"repetition_penalty":         func(q *Request) { q.Sampling.RepetitionPenalty = -1 },
		"presence_penalty":           func(q *Request) { q.Sampling.PresencePenalty = nan },
		"frequency_penalty":          func(q *Request) { q.Sampling.FrequencyPenalty = float32(math.Inf(1)) },
		"penalty_window":             func(q *Request) { q.Sampling.PenaltyWindow = -1 },
		"logit_bias":                 func(q *Request) { q.Sampling.LogitBias = make([]Bias, 1025) },
		"logit_bias[1]":              func(q *Request) { q.Sampling.LogitBias = []Bias{{1, 1}, {1, 2}} },
		"logit_bias[0]":              func(q *Request) { q.Sampling.LogitBias = []Bias{{fakeVocabulary, 1}} },
		"allowed_token_ids[1]":       func(q *Request) { q.Sampling.Allowed = []int32{1, -1} },
		"banned_token_ids[0]":        func(q *Request) { q.Sampling.Banned = []int32{fakeVocabulary} },
		"loop_detection.max_period":  func(q *Request) { q.Stop.Loop = LoopDetection{257, 3} },
		"loop_detection.min_repeats": func(q *Request) { q.Stop.Loop = LoopDetection{1, 2} },
		"allowed_token_ids":          func(q *Request) { q.Sampling.Allowed, q.Sampling.Banned = []int32{1, 2}, []int32{2, 1} },
	} {
		q := &Request{ID: field, Prompt: prompt(3, 1)}
		change(q)
		_, err := r.Submit(t.Context(), q)
		var limit *LimitError
		if !errors.As(err, &limit) || limit.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	q := &Request{ID: "dead end", Prompt: prompt(3, 1), Mask: func() Masker { return &dwindling{} }}
	if _, err := r.Submit(t.Context(), q); !errors.Is(err, ErrInvalid) {
		t.Errorf("a mask that allows nothing from the start: %v", err)
	}
}
