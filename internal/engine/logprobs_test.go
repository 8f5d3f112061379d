package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferno-serve/inferno/internal/model"
)

// fakeToken is what the fake device says of a token behind `before`.
func fakeToken(before []int32, id int32, asked Logprobs) TokenLogprob {
	h := digest(before)
	l := TokenLogprob{ID: id, Logprob: fakeLogprob(h, id), Rank: int(fakeRank(h, id))}
	for i := range asked.Top {
		l.Alternatives = append(l.Alternatives, Alternative{fakeTop(h, i), fakeLogprob(h, fakeTop(h, i))})
	}
	for _, other := range asked.IDs {
		l.Alternatives = append(l.Alternatives, Alternative{other, fakeLogprob(h, other)})
	}
	return l
}

// wantLogprobs compares what a stream tells with what the fake says of the request.
func wantLogprobs(t *testing.T, q *Request, s *Stream) {
	t.Helper()
	tokens := slices.Clone(q.Prompt)
	var output, want []TokenLogprob
	for {
		more, fin, err := s.Next(t.Context())
		if err != nil {
			t.Errorf("%s: %v", q.ID, err)
			return
		}
		tokens, output = append(tokens, more...), append(output, s.Logprobs(len(more))...)
		if fin != nil {
			break
		}
	}
	if q.Logprobs.Output {
		for i := len(q.Prompt); i < len(tokens); i++ {
			want = append(want, fakeToken(tokens[:i], tokens[i], q.Logprobs))
		}
	}
	if !slices.EqualFunc(output, want, sameLogprob) {
		t.Errorf("%s: output has %v, want %v", q.ID, output, want)
	}
	want = nil
	if q.Logprobs.Prompt {
		for i := q.Logprobs.Start; i < len(q.Prompt); i++ {
			if i == 0 {
				want = append(want, TokenLogprob{ID: q.Prompt[0]})
				continue
			}
			want = append(want, fakeToken(q.Prompt[:i], q.Prompt[i], q.Logprobs))
		}
	}
	if got := s.PromptLogprobs(); !slices.EqualFunc(got, want, sameLogprob) {
		t.Errorf("%s: prompt has %v, want %v", q.ID, got, want)
	}
}

func sameLogprob(a, b TokenLogprob) bool {
	return a.ID == b.ID && a.Logprob == b.Logprob && a.Rank == b.Rank && slices.Equal(a.Alternatives, b.Alternatives)
}

// askingOptions have fewer rows of logits for prompts than a step has tokens.
func askingOptions(blocks int) Options {
	return Options{NumBlocks: blocks, Limits: model.Limits{MaxTokens: 24, MaxSeqs: 8, MaxRows: 11, Context: 128}}
}

func TestEveryRequestIsToldWhatItAskedFor(t *testing.T) {
	for _, blocks := range []int{256, 40} {
		t.Run(fmt.Sprintf("%d blocks", blocks), func(t *testing.T) {
			inEveryMode(t, func(t *testing.T, newRig rigMaker) {
				r := newRig(t, askingOptions(blocks)).run(t)
				var requests []*Request
				var streams []*Stream
				for i := range 24 {
					q := &Request{
						ID: fmt.Sprint(i), Prompt: prompt(1+i*7%40, i), Stop: Stopping{MaxTokens: 1 + i*5%30},
						Logprobs: Logprobs{Output: i%2 == 0, Prompt: i%3 != 0, Top: i % 5},
					}
					if i%4 == 1 {
						q.Logprobs.IDs = []int32{int32(i), 3, 5}
					}
					if q.Logprobs.Prompt {
						q.Logprobs.Start = min(i%3*i, len(q.Prompt)-1)
					}
					q.PromptOnly = i%6 == 5
					requests, streams = append(requests, q), append(streams, r.submit(t.Context(), t, q))
				}
				for i, q := range requests {
					wantLogprobs(t, q, streams[i])
				}
			})
		})
	}
}

// What penalties, biases and masks do to logits before a token is chosen does not show in its log-probability, however many want both.
func TestLogprobsAreThoseOfTheLogitsAsTheyWere(t *testing.T) {
	inEveryMode(t, func(t *testing.T, newRig rigMaker) {
		r := newRig(t, askingOptions(64)).run(t) // 3 rows for logits that are computed twice
		var requests []*Request
		var streams []*Stream
		for i := range 20 {
			q := &Request{
				ID: fmt.Sprint(i), Prompt: prompt(1+i*7%40, i), Stop: Stopping{MaxTokens: 1 + i*5%20},
				Logprobs: Logprobs{Output: i%5 != 0, Prompt: i%3 == 0, Top: i % 4},
			}
			switch i % 4 {
			case 1:
				q.Sampling.RepetitionPenalty, q.Sampling.PresencePenalty = 1.5, 0.5
			case 2:
				q.Sampling.LogitBias = []Bias{{ID: 5, Value: 3}}
			case 3:
				q.Sampling.Banned = []int32{1, 2, 3}
			}
			requests, streams = append(requests, q), append(streams, r.submit(t.Context(), t, q))
		}
		for i, q := range requests {
			wantLogprobs(t, q, streams[i])
		}
	})
}

// Of several continuations the first tells of the prompt, and each of its own tokens.
func TestContinuationsTellOfTheirOwnTokens(t *testing.T) {
	inEveryMode(t, func(t *testing.T, newRig rigMaker) {
		for _, blocks := range []int{256, 36} {
			r := newRig(t, askingOptions(blocks)).run(t)
			q := &Request{
				ID: "a", Prompt: prompt(50, 1), N: 5, Stop: Stopping{MaxTokens: 20}, Sampling: Sampling{Temperature: 1, Seed: 4},
				Logprobs: Logprobs{Output: true, Prompt: true, Top: 2},
			}
			streams, err := r.Submit(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			wantLogprobs(t, q, streams[0])
			own := *q
			own.Logprobs.Prompt = false
			for _, s := range streams[1:] {
				wantLogprobs(t, &own, s)
			}
		}
	})
}

func TestVectorsAreSumsOverThePrompt(t *testing.T) {
	inEveryMode(t, func(t *testing.T, newRig rigMaker) {
		r := newRig(t, askingOptions(48)).run(t)
		var streams []*Stream
		for i := range 20 {
			streams = append(streams, r.submit(t.Context(), t, &Request{
				ID: fmt.Sprint(i), Prompt: prompt(1+i*11%100, i), PromptOnly: true, Pooling: MeanPooling + Pooling(i%2),
			}))
			r.submit(t.Context(), t, &Request{ID: fmt.Sprint("beside ", i), Prompt: prompt(9, i), Stop: Stopping{MaxTokens: 20}})
		}
		for i, s := range streams {
			_, fin, err := readAll(s)
			if err != nil {
				t.Fatal(err)
			}
			p := prompt(1+i*11%100, i)
			want := make([]float32, fakeDim)
			for j, id := range p {
				for k, v := range fakeHidden(id, int32(j)) {
					if i%2 == 0 {
						want[k] += v
					} else {
						want[k] = v // that of the last
					}
				}
			}
			for k := range want {
				if i%2 == 0 {
					want[k] /= float32(len(p))
				}
				if math.Abs(float64(fin.Vector[k]-want[k])) > 1e-3 {
					t.Errorf("request %d: vector %v, want %v", i, fin.Vector, want)
					break
				}
			}
			if fin.Reason != PromptDone || fin.Usage != (Usage{PromptTokens: len(p)}) {
				t.Errorf("request %d: finish %+v", i, fin)
			}
		}
	})
}

// An answer that is not finite ends the request that asked, and it alone.
func TestAnswersThatAreNotFiniteEndTheirRequest(t *testing.T) {
	inEveryMode(t, func(t *testing.T, newRig rigMaker) {
		r := newRig(t, askingOptions(256)).run(t)
		spoiled := append(prompt(30, 1), poison, 1, 2)
		bad := []*Request{
			{ID: "score", Prompt: spoiled, PromptOnly: true, Logprobs: Logprobs{Prompt: true}},
			{ID: "mean", Prompt: spoiled, PromptOnly: true, Pooling: MeanPooling},
			{ID: "prompt", Prompt: spoiled, Logprobs: Logprobs{Prompt: true}, Stop: Stopping{MaxTokens: 3}},
			{ID: "output", Prompt: spoiled, Logprobs: Logprobs{Output: true}, Stop: Stopping{MaxTokens: 3}},
		}
		good := &Request{ID: "good", Prompt: prompt(30, 2), Logprobs: Logprobs{Prompt: true, Output: true, Top: 3}, Stop: Stopping{MaxTokens: 9}}
		var streams []*Stream
		for _, q := range bad {
			streams = append(streams, r.submit(t.Context(), t, q))
		}
		wantLogprobs(t, good, r.submit(t.Context(), t, good))
		for i, s := range streams {
			if tokens, fin, err := readAll(s); !errors.Is(err, ErrNotFinite) || len(tokens) > 0 {
				t.Errorf("%s: %v, %v, %v, want %v", bad[i].ID, tokens, fin, err, ErrNotFinite)
			}
		}
	})
}

func TestCancelledWhileItsPromptIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, askingOptions(256)).slow(stepTime).run(t)
		ctx, cancel := context.WithCancel(t.Context())
		s := r.submit(ctx, t, &Request{ID: "a", Prompt: prompt(100, 1), PromptOnly: true, Logprobs: Logprobs{Prompt: true}})
		time.Sleep(5*stepTime + stepTime/2)
		if used := r.Stats().BlocksUsed; used == 0 {
			t.Error("no block is used in the midst of a prompt")
		}
		cancel()
		if _, _, err := readAll(s); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want %v", err, context.Canceled)
		}
		time.Sleep(2 * stepTime)
		if used := r.Stats().BlocksUsed; used != 0 {
			t.Errorf("%d blocks are used after the end", used)
		}
	})
}

// A probe waits for no token where none is going to be made.
func TestProbesAreAnsweredWhileOnlyPromptsAreScored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, askingOptions(256)).slow(stepTime).run(t)
		for i := range 20 {
			r.submit(t.Context(), t, &Request{ID: fmt.Sprint(i), Prompt: prompt(100, i), PromptOnly: true, Logprobs: Logprobs{Prompt: true}})
		}
		time.Sleep(stepTime / 2)
		ctx, cancel := context.WithTimeout(t.Context(), 3*stepTime)
		defer cancel()
		if err := r.Probe(ctx); err != nil {
			t.Errorf("probe: %v", err)
		}
	})
}

func TestAskingBeyondALimitIsRefused(t *testing.T) {
	r := newRig(t, askingOptions(256))
	for _, c := range []struct {
		change func(q *Request)
		want   string
	}{
		{func(q *Request) { q.Logprobs.Top = 21 }, "logprobs is 21, want 0 to 20"},
		{func(q *Request) { q.Logprobs.Top = -1 }, "logprobs is -1, want 0 to 20"},
		{func(q *Request) { q.Logprobs.IDs = make([]int32, 129) }, "logprob_token_ids is 129 ids, want at most 128"},
		{func(q *Request) { q.Logprobs.IDs = []int32{0, 97} }, "logprob_token_ids[1] is 97, want 0 to 96"},
		{func(q *Request) { q.Logprobs = Logprobs{Prompt: true, Start: 5} }, "prompt_logprobs_start is 5, want 0 to 4"},
		{func(q *Request) { q.Logprobs = Logprobs{Prompt: true, Start: -1} }, "prompt_logprobs_start is -1, want 0 to 4"},
		{func(q *Request) { q.Pooling = MeanPooling }, "pooling is"},
		{func(q *Request) { q.Prompt, q.PromptOnly = make([]int32, 129), true }, "prompt is 129 tokens, want at most 128"},
	} {
		q := &Request{ID: "a", Prompt: prompt(5, 1)}
		c.change(q)
		_, err := r.Submit(t.Context(), q)
		if limit := (*LimitError)(nil); !errors.As(err, &limit) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	r = newRig(t, Options{Limits: model.Limits{MaxTokens: 24, MaxSeqs: 8, MaxRows: 8, Context: 128}})
	if _, err := r.Submit(t.Context(), &Request{ID: "a", Prompt: prompt(5, 1), Logprobs: Logprobs{Prompt: true}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("without rows of logits for prompts: %v, want %v", err, ErrInvalid)
	}
}

// A prompt that nobody goes on from may fill the context.
func TestPromptAloneMayFillTheContext(t *testing.T) {
	inEveryMode(t, func(t *testing.T, newRig rigMaker) {
		r := newRig(t, askingOptions(32)).run(t) // of 4 tokens: no more than the context
		score := &Request{ID: "score", Prompt: prompt(128, 1), PromptOnly: true, Logprobs: Logprobs{Prompt: true, Top: 1}}
		wantLogprobs(t, score, r.submit(t.Context(), t, score))
		_, fin, err := readAll(r.submit(t.Context(), t, &Request{ID: "embed", Prompt: prompt(128, 1), PromptOnly: true, Pooling: LastTokenPooling}))
		if err != nil || len(fin.Vector) != fakeDim {
			t.Errorf("%v, %v", fin, err)
		}
	})
}

func TestOutlook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{MaxBatch: 2, NumBlocks: 16}).slow(stepTime).run(t) // a context of 64
		for _, c := range []struct {
			prompt, maxNew int
			fits           bool
		}{{1, 0, true}, {63, 0, true}, {64, 0, false}, {63, 1, true}, {63, 2, false}, {1000, 1, false}} {
			asked := &Request{ID: "o", Prompt: prompt(c.prompt, 1), Stop: Stopping{MaxTokens: c.maxNew}}
			if o, err := r.Outlook(asked); err != nil || o != (Outlook{Fits: c.fits, Unknown: !c.fits}) {
				t.Errorf("a prompt of %d and %d new tokens: %+v, want it to fit: %v, and no wait (%v)", c.prompt, c.maxNew, o, c.fits, err)
			}
		}
		for name, bad := range map[string]*Request{
			"nothing that may be chosen": {ID: "o", Prompt: prompt(4, 1), Sampling: Sampling{Allowed: []int32{5}, Banned: []int32{5}}},
			"that of what is too long":   {ID: "o", Prompt: prompt(1000, 1), Sampling: Sampling{Allowed: []int32{5}, Banned: []int32{5}}},
			"an id beyond the logits":    {ID: "o", Prompt: prompt(4, 1), Sampling: Sampling{Allowed: []int32{fakeVocabulary}}},
			"no prompt":                  {ID: "o"},
		} {
			var limit *LimitError
			if o, err := r.Outlook(bad); !errors.As(err, &limit) {
				t.Errorf("%s: %+v, %v, want what Submit refuses it with", name, o, err)
			}
		}
		for i := range 4 {
			r.submit(t.Context(), t, &Request{ID: fmt.Sprint(i), Prompt: prompt(4, i), Stop: Stopping{MaxTokens: 8}})
		}
		time.Sleep(stepTime / 2)
		one := &Request{ID: "o", Prompt: prompt(4, 9), Stop: Stopping{MaxTokens: 1}}
		if o, _ := r.Outlook(one); o != (Outlook{Fits: true, Queued: 2, Unknown: true}) {
			t.Errorf("behind two that wait: %+v", o)
		}
	})
}
