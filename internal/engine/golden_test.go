package engine_test

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/model/modeltest"
)

var checkpoints = []string{"llama", "llama-headdim-f16", "llama-mha-biased-linear", "llama-yarn", "llama3-rope-tied-sharded-bf16"}

func golden(t *testing.T, checkpoint string) []modeltest.Prompt {
	t.Helper()
	return modeltest.ReadGolden(t, filepath.Join("../model/testdata", checkpoint, "golden.safetensors"))
}

func exactCPU(t *testing.T) device.Device {
	t.Helper()
	d, err := native.OpenCPU(native.CPUOptions{Threads: 2, Exact: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// withRows has a few rows of logits for prompts beside those of sequences: prompts of 70 tokens take several steps.
func withRows(s sizes) sizes {
	s.rows = 13
	return s
}

func TestLogprobsMatchGoldenLogits(t *testing.T) {
	for _, checkpoint := range checkpoints {
		t.Run(checkpoint, func(t *testing.T) {
			e := start(t, exactCPU(t), checkpoint, withRows(sizes{blocks: 64, maxBatchTokens: 64}))
			for i, p := range golden(t, checkpoint) {
				checkGoldenLogprobs(t, e, i, p)
			}
		})
	}
}

// logprobTolerance is for float32 throughout.
const logprobTolerance = 1e-3

// checkGoldenLogprobs asks for all that can be asked of a golden prompt, from its beginning on.
func checkGoldenLogprobs(t *testing.T, e *engine.Engine, i int, p modeltest.Prompt) {
	t.Helper()
	q := &engine.Request{
		ID: fmt.Sprint("golden ", i), Prompt: p.Tokens, Stop: engine.Stopping{MaxTokens: 4},
		Logprobs: engine.Logprobs{Output: true, Prompt: true, Top: 5, IDs: []int32{7, 0, 300}},
	}
	prompt, tokens, output := readLogprobs(t, e, q)
	if len(prompt) != len(p.Tokens) || len(output) != len(tokens) {
		t.Fatalf("prompt %d: %d log-probabilities of %d tokens, %d of %d new ones", i, len(prompt), len(p.Tokens), len(output), len(tokens))
	}
	if first := prompt[0]; first.ID != p.Tokens[0] || first.Rank != 0 || first.Logprob != 0 || first.Alternatives != nil {
		t.Errorf("prompt %d: the first token has %+v, want nothing but its id", i, first)
	}
	for j := 1; j < len(prompt); j++ {
		checkLogprob(t, fmt.Sprintf("prompt %d, token %d", i, j), prompt[j], p.Tokens[j], p.Logits[j-1], q.Logprobs)
	}
	checkLogprob(t, fmt.Sprintf("prompt %d, first new token", i), output[0], tokens[0], p.Logits[len(p.Logits)-1], q.Logprobs)
	if tokens[0] != p.Greedy[0] || output[0].Rank != 1 {
		t.Errorf("prompt %d: first new token %d of rank %d, want %d of rank 1", i, tokens[0], output[0].Rank, p.Greedy[0])
	}
}

// checkLogprob compares one with reference logits, of which those closer than the tolerance may be in either order.
func checkLogprob(t *testing.T, what string, got engine.TokenLogprob, id int32, logits []float32, asked engine.Logprobs) {
	t.Helper()
	want := logSoftmax(logits)
	near := func(what string, got float32, id int32) {
		t.Helper()
		if math.Abs(float64(got)-want[id]) > logprobTolerance {
			t.Errorf("%s: log-probability of %d is %v, want %v", what, id, got, want[id])
		}
	}
	near(what, got.Logprob, id)
	above, level := 0, 0
	for _, v := range want {
		if v > want[id]+logprobTolerance {
			above++
		} else if v >= want[id]-logprobTolerance {
			level++
		}
	}
	if got.ID != id || got.Rank <= above || got.Rank > above+level {
		t.Errorf("%s: token %d of rank %d, want %d of rank %d to %d", what, got.ID, got.Rank, id, above+1, above+level)
	}
	if len(got.Alternatives) != asked.Top+len(asked.IDs) {
		t.Fatalf("%s: %d alternatives, want %d and %d", what, len(got.Alternatives), asked.Top, len(asked.IDs))
	}
	order := slices.Clone(want)
	slices.SortFunc(order, func(a, b float64) int { return cmp.Compare(b, a) })
	for j, a := range got.Alternatives[:asked.Top] {
		near(what+", likely", a.Logprob, a.ID)
		if math.Abs(want[a.ID]-order[j]) > logprobTolerance {
			t.Errorf("%s: token %d with %v is number %d, want one with %v", what, a.ID, want[a.ID], j+1, order[j])
		}
	}
	for j, a := range got.Alternatives[asked.Top:] {
		near(what+", chosen", a.Logprob, a.ID)
		if a.ID != asked.IDs[j] {
			t.Errorf("%s: alternative %d is of %d, want %d", what, j, a.ID, asked.IDs[j])
		}
	}
}

func logSoftmax(logits []float32) []float64 {
	sum, most := 0.0, float64(slices.Max(logits))
	for _, v := range logits {
		sum += math.Exp(float64(v) - most)
	}
	out := make([]float64, len(logits))
	for i, v := range logits {
		out[i] = float64(v) - most - math.Log(sum)
	}
	return out
}

func readLogprobs(t *testing.T, e *engine.Engine, q *engine.Request) (prompt []engine.TokenLogprob, tokens []int32, output []engine.TokenLogprob) {
	t.Helper()
	s, err := e.Submit(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return readStream(t, s[0])
}

func readStream(t *testing.T, s *engine.Stream) (prompt []engine.TokenLogprob, tokens []int32, output []engine.TokenLogprob) {
	t.Helper()
	for {
		more, fin, err := s.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		tokens, output = append(tokens, more...), append(output, s.Logprobs(len(more))...)
		if fin != nil {
			return s.PromptLogprobs(), tokens, output
		}
	}
}

// asking are requests of all kinds: that want log-probabilities of their output, of their prompt from anywhere on, of both or neither, or a
// vector, or nothing but what a prompt is worth.
func asking(vocabulary int) (requests []*engine.Request) {
	random := rand.New(rand.NewPCG(3, 4))
	for i, q := range mixedRequests(vocabulary) {
		q.Logprobs = engine.Logprobs{Output: i%2 == 0, Prompt: i%3 == 0, Top: i % 4}
		if q.Logprobs.Prompt {
			q.Logprobs.Start = random.IntN(len(q.Prompt))
		}
		if i%5 == 0 {
			q.Logprobs.IDs = []int32{int32(i), random.Int32N(int32(vocabulary))}
		}
		if i%7 == 3 {
			q.PromptOnly, q.Pooling = true, engine.Pooling(i%3)
			q.Logprobs.Prompt = q.Logprobs.Prompt || q.Pooling == engine.NoPooling
		}
		requests = append(requests, q)
	}
	return requests
}

// heard is what a request was told.
type heard struct {
	prompt, output []engine.TokenLogprob
	tokens         []int32
	vector         []float32
}

func hear(t *testing.T, e *engine.Engine, requests []*engine.Request) (all []heard) {
	t.Helper()
	streams := make([]*engine.Stream, len(requests))
	for i, q := range requests {
		s, err := e.Submit(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		streams[i] = s[0]
	}
	for _, s := range streams {
		var h heard
		for {
			more, fin, err := s.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			h.tokens, h.output = append(h.tokens, more...), append(h.output, s.Logprobs(len(more))...)
			if fin != nil {
				h.prompt, h.vector = s.PromptLogprobs(), fin.Vector
				break
			}
		}
		all = append(all, h)
	}
	return all
}

// TestAnswersDoNotDependOnTheOthers: what a request is told is the same alone and among others, in one piece and in chunks, and after
// preemptions: to the bit but for means, whose sum falls into the pieces that the prompt was computed in.
func TestAnswersDoNotDependOnTheOthers(t *testing.T) {
	requests := asking(320)
	var alone []heard
	e := start(t, exactCPU(t), "llama", withRows(sizes{blocks: 600, maxBatchTokens: 256, eager: true}))
	for _, q := range requests {
		alone = append(alone, hear(t, e, []*engine.Request{q})...)
	}
	for name, s := range map[string]sizes{
		"together":              {blocks: 600, maxBatchTokens: 256},
		"together, ahead":       {blocks: 600, maxBatchTokens: 256, prepare: (*engine.Engine).WorkAhead},
		"small chunks":          {blocks: 600, maxBatchTokens: 37},
		"few blocks":            {blocks: 40, maxBatchTokens: 64},
		"blocks for one":        {blocks: 14, maxBatchTokens: 64},
		"blocks for one, ahead": {blocks: 14, maxBatchTokens: 64, prepare: (*engine.Engine).WorkAhead},
	} {
		t.Run(name, func(t *testing.T) {
			e := start(t, exactCPU(t), "llama", withRows(s))
			for i, got := range hear(t, e, requests) {
				checkHeard(t, requests[i], got, alone[i])
			}
			if s := e.Stats(); s.BlocksUsed != 0 {
				t.Errorf("%d blocks are used in the end", s.BlocksUsed)
			} else {
				t.Logf("%d steps, %d preemptions", s.Steps, s.Preemptions)
			}
		})
	}
}

func checkHeard(t *testing.T, q *engine.Request, got, want heard) {
	t.Helper()
	same := func(a, b engine.TokenLogprob) bool {
		return a.ID == b.ID && a.Logprob == b.Logprob && a.Rank == b.Rank && slices.Equal(a.Alternatives, b.Alternatives)
	}
	if !slices.Equal(got.tokens, want.tokens) {
		t.Errorf("%s: got %v, alone %v", q.ID, got.tokens, want.tokens)
	}
	if !slices.EqualFunc(got.prompt, want.prompt, same) || !slices.EqualFunc(got.output, want.output, same) {
		t.Errorf("%s: log-probabilities differ from those alone", q.ID)
	}
	if q.Logprobs.Prompt != (len(got.prompt) == len(q.Prompt)-q.Logprobs.Start && len(got.prompt) > 0) {
		t.Errorf("%s: %d log-probabilities of a prompt of %d from %d on", q.ID, len(got.prompt), len(q.Prompt), q.Logprobs.Start)
	}
	if (q.Pooling != engine.NoPooling) != (len(got.vector) > 0) {
		t.Errorf("%s: a vector of %d numbers", q.ID, len(got.vector))
	}
	for i, v := range got.vector {
		if d := math.Abs(float64(v - want.vector[i])); d > 1e-6*(1+math.Abs(float64(v))) || q.Pooling == engine.LastTokenPooling && d != 0 {
			t.Errorf("%s: number %d of the vector is %v, alone %v", q.ID, i, v, want.vector[i])
			break
		}
	}
}

// TestOutputLogprobsAreThoseOfAPrompt feeds an output back as a prompt: a token's log-probability does not depend on who put it there.
func TestOutputLogprobsAreThoseOfAPrompt(t *testing.T) {
	e := start(t, exactCPU(t), "llama", withRows(sizes{blocks: 64, maxBatchTokens: 64}))
	p := golden(t, "llama")[1]
	q := &engine.Request{
		ID: "output", Prompt: p.Tokens, Stop: engine.Stopping{MaxTokens: 30}, Sampling: engine.Sampling{Temperature: 1.5, TopK: 40, Seed: 3},
		Logprobs: engine.Logprobs{Output: true, Top: 2},
	}
	_, tokens, output := readLogprobs(t, e, q)
	again := &engine.Request{
		ID: "prompt", Prompt: slices.Concat(p.Tokens, tokens), PromptOnly: true, Logprobs: engine.Logprobs{Prompt: true, Start: len(p.Tokens), Top: 2},
	}
	prompt, more, _ := readLogprobs(t, e, again)
	if len(more) != 0 {
		t.Errorf("a request for its prompt alone generated %v", more)
	}
	checkHeard(t, again, heard{prompt: prompt}, heard{prompt: output})
}

func TestVectorsMatchAReference(t *testing.T) {
	reference := modeltest.NewReference(t, "../model/testdata/llama")
	e := start(t, exactCPU(t), "llama", withRows(sizes{blocks: 64, maxBatchTokens: 48}))
	for i, p := range golden(t, "llama") {
		hidden := reference.Hidden(p.Tokens)
		for j, h := range hidden { // the reference itself is right
			for k, v := range reference.Logits(h) {
				if math.Abs(v-float64(p.Logits[j][k])) > 1e-4 {
					t.Fatalf("prompt %d: the reference's logit %d at position %d is %v, want %v", i, k, j, v, p.Logits[j][k])
				}
			}
		}
		mean := make([]float64, len(hidden[0]))
		for _, h := range hidden {
			for k := range h {
				mean[k] += h[k] / float64(len(hidden))
			}
		}
		for pooling, want := range map[engine.Pooling][]float64{engine.MeanPooling: mean, engine.LastTokenPooling: hidden[len(hidden)-1]} {
			q := &engine.Request{ID: "vector", Prompt: p.Tokens, PromptOnly: true, Pooling: pooling}
			got := hear(t, e, []*engine.Request{q})[0].vector
			if len(got) != len(want) {
				t.Fatalf("prompt %d, pooling %d: %d numbers, want %d", i, pooling, len(got), len(want))
			}
			for k := range want {
				if math.Abs(float64(got[k])-want[k]) > 1e-4 {
					t.Errorf("prompt %d, pooling %d: number %d is %v, want %v", i, pooling, k, got[k], want[k])
				}
			}
		}
	}
}

// TestChunksOfAPromptTellTheSame: a prompt's log-probabilities are the same to the bit with rows of logits for all of it in one step, for a few
// of its positions, and for one.
func TestChunksOfAPromptTellTheSame(t *testing.T) {
	for _, checkpoint := range []string{"llama", "llama3-rope-tied-sharded-bf16"} {
		var whole heard
		for _, rows := range []int{64, 13, 1} { // prompts have up to 70 tokens; an engine has no use for more than 64 rows
			e := start(t, exactCPU(t), checkpoint, sizes{blocks: 64, maxBatchTokens: 256, rows: rows})
			p := golden(t, checkpoint)[2].Tokens[:60]
			q := &engine.Request{ID: "a", Prompt: p, PromptOnly: true, Logprobs: engine.Logprobs{Prompt: true, Top: 3, IDs: []int32{9}}}
			got := hear(t, e, []*engine.Request{q})[0]
			if rows == 64 {
				whole = got
			}
			checkHeard(t, q, got, whole)
			if steps := e.Stats().Steps; int(steps) < len(p)/rows {
				t.Errorf("%d rows a step: a prompt of %d took %d steps", rows, len(p), steps)
			}
		}
	}
}
