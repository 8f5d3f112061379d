package engine_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/model"
)

// repetitive are requests whose prompts say things twice, greedy and sampled, with each of what ends an output or bounds it.
func repetitive(t *testing.T, checkpoint string) (requests []*engine.Request) {
	t.Helper()
	c, err := model.Open("../model/testdata/" + checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	vocabulary := int32(c.Config.Vocab)
	_ = c.Close()
	random := rand.New(rand.NewPCG(5, 6))
	for i := range 32 {
		part := make([]int32, 2+random.IntN(12))
		for j := range part {
			part[j] = random.Int32N(vocabulary)
		}
		q := &engine.Request{
			ID: fmt.Sprint(i), Prompt: slices.Concat(part, []int32{random.Int32N(vocabulary)}, part, part[:1+len(part)/2]),
			Stop: engine.Stopping{MaxTokens: 1 + random.IntN(70)},
		}
		if i%2 == 1 { // cold enough for what was likely once to be chosen again
			q.Sampling = engine.Sampling{Temperature: 0.2, Seed: random.Uint64(), TopK: (i % 4) * 2, TopP: 0.95}
		}
		switch i % 8 {
		case 2, 3:
			for range 8 {
				q.Stop.StopTokens = append(q.Stop.StopTokens, random.Int32N(vocabulary))
			}
			q.Stop.EndTokens, q.Stop.MinTokens = part[:1], q.Stop.MaxTokens/3
		case 4:
			q.Stop.Loop = engine.LoopDetection{MaxPeriod: 20, MinRepeats: 3}
		case 6:
			q.Sampling.RepetitionPenalty, q.Sampling.LogitBias = 1.3, []engine.Bias{{ID: part[0], Value: 2}}
		case 7:
			q.Logprobs = engine.Logprobs{Output: true}
		}
		requests = append(requests, q)
	}
	return requests
}

// answer is what is told of a continuation.
type answer struct {
	tokens []int32
	reason engine.FinishReason
	usage  engine.Usage
}

func readAnswer(t *testing.T, s *engine.Stream) (a answer) {
	t.Helper()
	for {
		more, fin, err := s.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if a.tokens = append(a.tokens, more...); fin != nil {
			a.reason, a.usage = fin.Reason, fin.Usage
			return a
		}
	}
}

// testSpeculation compares what requests get with guesses, in company, with what they get without, alone.
func testSpeculation(t *testing.T, device func(testing.TB) device.Device, engines map[string]sizes) {
	for _, checkpoint := range []string{"llama", "llama3-rope-tied-sharded-bf16"} {
		t.Run(checkpoint, func(t *testing.T) {
			requests := repetitive(t, checkpoint)
			plain := make([]answer, len(requests))
			e := start(t, device(t), checkpoint, sizes{blocks: 64, maxBatchTokens: 64, eager: true})
			for i, q := range requests {
				plain[i] = readAnswer(t, submit(t, e, q))
			}
			if s := e.Stats(); s.DraftTokens != 0 {
				t.Fatalf("%d guesses, though nobody asked for them", s.DraftTokens)
			}
			for name, s := range engines {
				t.Run(name, func(t *testing.T) {
					s.rows = 64
					e := start(t, device(t), checkpoint, s)
					checkSpeculation(t, e, requests, plain, min(s.drafting, 8))
				})
			}
		})
	}
}

// checkSpeculation has up to so many requests run at a time.
func checkSpeculation(t *testing.T, e *engine.Engine, requests []*engine.Request, plain []answer, together int) {
	t.Helper()
	var greedy, sampled, all engine.Usage
	for batch := range slices.Chunk(numbers(len(requests)), together) {
		streams := make([]*engine.Stream, len(batch))
		for i, n := range batch {
			q := *requests[n]
			q.Speculation = engine.Speculation{MaxTokens: 1 + n%engine.MaxDraftTokens, MinMatch: n % 3}
			streams[i] = submit(t, e, &q)
		}
		for i, n := range batch {
			q, got, want := requests[n], readAnswer(t, streams[i]), plain[n]
			if !slices.Equal(got.tokens, want.tokens) || got.reason != want.reason || got.usage.CompletionTokens != want.usage.CompletionTokens {
				t.Errorf("%s: got %v (%v, %+v)\nplain %v (%v, %+v)", q.ID, got.tokens, got.reason, got.usage, want.tokens, want.reason, want.usage)
			}
			sum := &greedy
			if q.Sampling.Temperature > 0 {
				sum = &sampled
			}
			for _, u := range []*engine.Usage{sum, &all} {
				u.DraftTokens += got.usage.DraftTokens
				u.AcceptedTokens += got.usage.AcceptedTokens
			}
			if one := q.Logprobs.Output || len(q.Sampling.LogitBias) > 0; one && got.usage.DraftTokens > 0 {
				t.Errorf("%s, which has one token a step, had %d guesses", q.ID, got.usage.DraftTokens)
			}
		}
	}
	s := e.Stats()
	t.Logf("greedy %d of %d guesses right, sampled %d of %d; %d tokens in %d steps, %d preemptions",
		greedy.AcceptedTokens, greedy.DraftTokens, sampled.AcceptedTokens, sampled.DraftTokens, s.OutputTokens, s.Steps, s.Preemptions)
	if greedy.AcceptedTokens == 0 || sampled.AcceptedTokens == 0 || all.AcceptedTokens >= all.DraftTokens {
		t.Error("want guesses that are right, of both, and some that are wrong")
	}
	if s.DraftTokens != uint64(all.DraftTokens) || s.AcceptedTokens != uint64(all.AcceptedTokens) || s.BlocksUsed != 0 {
		t.Errorf("usages sum up to %+v, the engine says %+v", all, s)
	}
}

func numbers(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

func TestSpeculationChangesNoTokenOnACPU(t *testing.T) {
	cpu := func(t testing.TB) device.Device {
		d, err := native.OpenCPU(native.CPUOptions{Threads: 2})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		return d
	}
	testSpeculation(t, cpu, map[string]sizes{
		"alone":               {blocks: 64, maxBatchTokens: 64, drafting: 1, eager: true},
		"together":            {blocks: 200, maxBatchTokens: 256, drafting: 32},
		"together, ahead":     {blocks: 200, maxBatchTokens: 256, drafting: 32, prepare: (*engine.Engine).WorkAhead},
		"few blocks":          {blocks: 40, maxBatchTokens: 64, drafting: 32, prefixCache: true},
		"few blocks, ahead":   {blocks: 30, maxBatchTokens: 64, drafting: 32, prefixCache: true, prepare: (*engine.Engine).WorkAhead},
		"a budget of few":     {blocks: 200, maxBatchTokens: 48, drafting: 32, prepare: (*engine.Engine).WorkAhead},
		"quiet now and then":  {blocks: 200, maxBatchTokens: 64, drafting: 3, prefixCache: true, prepare: (*engine.Engine).WorkAhead},
		"one after the other": {blocks: 64, maxBatchTokens: 64, drafting: 1, prefixCache: true},
	})
}

// On a card steps are short enough for a row's bits not to depend on its batch.
func TestSpeculationChangesNoTokenCUDA(t *testing.T) {
	testSpeculation(t, openCUDA, map[string]sizes{
		"one after the other": {blocks: 64, maxBatchTokens: 64, drafting: 1, prefixCache: true},
		"together":            {blocks: 200, maxBatchTokens: 64, drafting: 8},
		"few blocks":          {blocks: 30, maxBatchTokens: 64, drafting: 8, prefixCache: true},
	})
}
