package engine_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/memory"
	"github.com/inferno-serve/inferno/internal/model"
	"github.com/inferno-serve/inferno/internal/model/llama"
)

// sizes of an engine, and how it works.
type sizes struct {
	blocks, maxBatchTokens int
	rows                   int  // of logits for prompts
	eager                  bool // no graphs, nothing ahead
	prefixCache            bool
	prepare                func(e *engine.Engine) // before its Warmup; nil: nothing
}

// startCPU runs an engine for one of the tiny checkpoints on the CPU device, until the test ends.
func startCPU(t *testing.T, checkpoint string, s sizes) *engine.Engine {
	t.Helper()
	d, err := native.OpenCPU(native.CPUOptions{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return start(t, d, checkpoint, s)
}

// start runs an engine for one of the tiny checkpoints, until the test ends.
func start(t *testing.T, d device.Device, checkpoint string, s sizes) *engine.Engine {
	t.Helper()
	e := open(t, d, filepath.Join("../model/testdata", checkpoint), engine.Options{
		Limits:    model.Limits{MaxTokens: 256, MaxSeqs: 32, MaxRows: 32 + s.rows, Context: 112},
		NumBlocks: s.blocks, BlockSize: 8, MaxBatchTokens: s.maxBatchTokens, Eager: s.eager, PrefixCache: s.prefixCache, CheckIntegrity: true,
	})
	if s.prepare != nil {
		s.prepare(e)
	}
	if err := e.Warmup(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- e.Run(context.Background()) }()
	t.Cleanup(func() {
		e.Close()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	if err := e.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e
}

// open makes an engine with o for a checkpoint.
func open(t testing.TB, d device.Device, dir string, o engine.Options) *engine.Engine {
	t.Helper()
	c, err := model.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	loader := model.Loader{Architectures: map[string]model.Builder{"llama": llama.New}}
	load := model.Options{Device: d, Limits: o.Limits}
	need, kv, err := loader.Measure(t.Context(), c, load)
	if err != nil {
		t.Fatal(err)
	}
	most := engine.Bytes(o.Limits, kv, c.Config, o.NumBlocks, o.BlockSize)
	pool, err := memory.NewPool(memory.PoolOptions{
		Source: d, Tracker: memory.NewTracker(memory.TrackerOptions{}), Owner: dir, Limit: need.Total() + most + memory.Alignment,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	load.Allocator = pool
	o.Device, o.Memory = d, pool
	if o.Model, err = loader.Load(t.Context(), c, load); err != nil {
		t.Fatal(err)
	}
	before := pool.Available()
	e, err := engine.New(o)
	if err != nil {
		t.Fatal(err)
	}
	took, whole := before-pool.Available(), o.MaxBatchTokens == 0 || o.MaxBatchTokens == o.Limits.MaxTokens
	if took > most || whole && took != most {
		t.Errorf("New took %d bytes, Bytes said %d", took, most)
	}
	return e
}

// mixedRequests are 32, greedy and sampled ones in turn, of up to 60 + 50 tokens.
func mixedRequests(vocabulary int) (requests []*engine.Request) {
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 32 {
		q := &engine.Request{ID: fmt.Sprint("r", i), Prompt: make([]int32, 1+random.IntN(60))}
		for j := range q.Prompt {
			q.Prompt[j] = random.Int32N(int32(vocabulary))
		}
		q.Stop.MaxTokens = 1 + random.IntN(50)
		if i%2 == 1 {
			q.Sampling = engine.Sampling{Temperature: 1, Seed: random.Uint64()}
		}
		if i%4 == 3 {
			q.Sampling.TopK, q.Sampling.TopP, q.Sampling.MinP = 50, 0.95, 0.01
		}
		switch i % 8 {
		case 2:
			q.Sampling.RepetitionPenalty, q.Sampling.FrequencyPenalty = 1.2, 0.3
			q.Sampling.LogitBias = []engine.Bias{{ID: q.Prompt[0], Value: 3}}
		case 5:
			q.Sampling.PresencePenalty, q.Sampling.TypicalP = 0.6, 0.9
		case 7:
			q.Sampling.RepetitionPenalty, q.Sampling.PenaltyWindow, q.Sampling.Banned = 1.5, 8, []int32{q.Prompt[0]}
		}
		requests = append(requests, q)
	}
	return requests
}

func read(t testing.TB, s *engine.Stream) (tokens []int32) {
	t.Helper()
	for {
		more, fin, err := s.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if tokens = append(tokens, more...); fin != nil {
			return tokens
		}
	}
}

// TestTokensDoNotDependOnTheOthers: prefill in one piece or in chunks, recompute after a preemption, and decode in any batch give the
// same bits, so the same tokens.
func TestTokensDoNotDependOnTheOthers(t *testing.T) {
	for _, checkpoint := range []string{"llama", "llama3-rope-tied-sharded-bf16"} { // keys and values in F32, in F16
		t.Run(checkpoint, func(t *testing.T) {
			c, err := model.Open(filepath.Join("../model/testdata", checkpoint))
			if err != nil {
				t.Fatal(err)
			}
			requests := mixedRequests(c.Config.Vocab)
			_ = c.Close()
			need := 0
			for _, q := range requests {
				need += (len(q.Prompt) + q.Stop.MaxTokens + 7) / 8
			}
			alone := make([][]int32, len(requests))
			e := startCPU(t, checkpoint, sizes{blocks: need, maxBatchTokens: 256, eager: true})
			for i, q := range requests {
				alone[i] = submitAndRead(t, e, q)
			}
			for name, s := range map[string]sizes{
				"blocks for all":              {blocks: need, maxBatchTokens: 256},
				"blocks for a quarter":        {blocks: need / 4},
				"small chunks":                {blocks: need / 4, maxBatchTokens: 23},
				"blocks for one":              {blocks: 14, maxBatchTokens: 64},
				"blocks for all, ahead":       {blocks: need, maxBatchTokens: 256, prepare: (*engine.Engine).WorkAhead},
				"blocks for a quarter, ahead": {blocks: need / 4, maxBatchTokens: 40, prepare: (*engine.Engine).WorkAhead},
				"blocks for one, ahead":       {blocks: 14, maxBatchTokens: 64, prepare: (*engine.Engine).WorkAhead},
			} {
				t.Run(name, func(t *testing.T) { checkAmongOthers(t, startCPU(t, checkpoint, s), requests, alone) })
			}
		})
	}
}

func submitAndRead(t *testing.T, e *engine.Engine, q *engine.Request) []int32 {
	t.Helper()
	return read(t, submit(t, e, q))
}

// submit has a request of one continuation under way.
func submit(t testing.TB, e *engine.Engine, q *engine.Request) *engine.Stream {
	t.Helper()
	streams, err := e.Submit(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return streams[0]
}

func checkAmongOthers(t *testing.T, e *engine.Engine, requests []*engine.Request, alone [][]int32) {
	t.Helper()
	streams := make([]*engine.Stream, len(requests))
	for i, q := range requests {
		streams[i] = submit(t, e, q)
	}
	for i, q := range requests {
		if got := read(t, streams[i]); !slices.Equal(got, alone[i]) || len(got) != q.Stop.MaxTokens {
			t.Errorf("%s (prompt %d, temperature %v):\n    got %v\n  alone %v", q.ID, len(q.Prompt), q.Sampling.Temperature, got, alone[i])
		}
	}
	if s := e.Stats(); s.BlocksUsed != 0 || s.Finished != uint64(len(requests)) {
		t.Errorf("in the end: %+v", s)
	} else {
		t.Logf("%d steps of up to %d tokens, %d preemptions", s.Steps, s.MaxBatchTokens, s.Preemptions)
	}
}

// TestAheadChangesNoToken compares graphs, and steps that are launched ahead (which a CPU also computes ahead), with neither.
func TestAheadChangesNoToken(t *testing.T) {
	requests := stoppingRequests(t, "llama")
	want := runTogether(t, startCPU(t, "llama", sizes{blocks: 600, maxBatchTokens: 64, eager: true}), requests)
	for name, s := range map[string]sizes{
		"graphs": {blocks: 600, maxBatchTokens: 64},
		"ahead":  {blocks: 600, maxBatchTokens: 64, prepare: (*engine.Engine).WorkAhead},
		"few":    {blocks: 40, maxBatchTokens: 64, prepare: (*engine.Engine).WorkAhead},
	} {
		t.Run(name, func(t *testing.T) {
			e := startCPU(t, "llama", s)
			for i, got := range runTogether(t, e, requests) {
				if !slices.Equal(got, want[i]) {
					t.Errorf("%s: got %v, want %v", requests[i].ID, got, want[i])
				}
			}
			if e.Graphs() == 0 {
				t.Error("no step was captured")
			}
		})
	}
}

// stoppingRequests are 40 mixed ones, some of which end by a token that they themselves generate, some not before a minimum.
func stoppingRequests(t *testing.T, checkpoint string) []*engine.Request {
	t.Helper()
	c, err := model.Open("../model/testdata/" + checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	requests := mixedRequests(c.Config.Vocab)
	for _, q := range mixedRequests(c.Config.Vocab)[:8] {
		q.ID += " again"
		q.Stop.MaxTokens += 2
		requests = append(requests, q)
	}
	for i, q := range requests {
		switch i % 5 {
		case 1: // a sixteenth of the ids
			for id := range int32(c.Config.Vocab / 16) {
				if len(q.Stop.StopTokens) < 60 {
					q.Stop.StopTokens = append(q.Stop.StopTokens, 16*id+int32(i%16))
				}
			}
		case 2:
			q.Stop.EndTokens = []int32{1, 2, 3, 5, 8, 13, 21, 34, 55, 89}
			q.Stop.MinTokens = q.Stop.MaxTokens / 2
		}
	}
	return requests
}

// runTogether submits all and returns what each got.
func runTogether(t *testing.T, e *engine.Engine, requests []*engine.Request) [][]int32 {
	t.Helper()
	streams := make([]*engine.Stream, len(requests))
	for i, q := range requests {
		streams[i] = submit(t, e, q)
	}
	got := make([][]int32, len(requests))
	for i := range requests {
		got[i] = read(t, streams[i])
	}
	return got
}
