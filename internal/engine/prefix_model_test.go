package engine_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/model"
)

// conversations are of several people who talk at the same time, by turn, and what each should be answered.
type conversations [3]struct {
	asked   []*engine.Request
	answers [][]int32
}

// converse holds conversations that start alike with an engine which has no cache, one request at a time.
func converse(t *testing.T, alone *engine.Engine, vocabulary int) (c conversations) {
	t.Helper()
	random := rand.New(rand.NewPCG(3, 4))
	some := func(n int) (tokens []int32) {
		for range n {
			tokens = append(tokens, random.Int32N(int32(vocabulary)))
		}
		return tokens
	}
	system := some(21)
	for i := range 8 {
		prompt := slices.Concat(system, some(1+random.IntN(9)))
		for turn := range c {
			q := &engine.Request{ID: fmt.Sprint(i, turn), Prompt: prompt, Stop: engine.Stopping{MaxTokens: 3 + random.IntN(9)}}
			switch i % 4 {
			case 1:
				q.Sampling = engine.Sampling{Temperature: 1, Seed: random.Uint64()}
			case 2:
				q.Sampling = engine.Sampling{RepetitionPenalty: 1.3, FrequencyPenalty: 0.5}
			case 3:
				q.Sampling = engine.Sampling{Temperature: 0.8, TopP: 0.9, Seed: random.Uint64(), PresencePenalty: 1}
			}
			answer := submitAndRead(t, alone, q)
			c[turn].asked, c[turn].answers = append(c[turn].asked, q), append(c[turn].answers, answer)
			prompt = slices.Concat(prompt, answer, some(1+random.IntN(9)))
		}
	}
	return c
}

// holdWith holds them again with an engine that has a cache, and compares.
func (c *conversations) holdWith(t *testing.T, e *engine.Engine) {
	t.Helper()
	for turn := range c {
		for i, got := range runTogether(t, e, c[turn].asked) {
			if want := c[turn].answers[i]; !slices.Equal(got, want) {
				t.Errorf("turn %d of %d: got %v, want %v", turn, i, got, want)
			}
		}
	}
	if s := e.Stats(); s.CacheHits == 0 || s.BlocksUsed != 0 {
		t.Errorf("in the end: %+v", s)
	} else {
		t.Logf("%d of %d prompt tokens found, %d preemptions, %d evictions", s.CacheHits, s.CacheAsked, s.Preemptions, s.CacheEvictions)
	}
}

// testPrefixHits compares answers in company, from a cache, with those of an engine that has none and serves one request at a time.
func testPrefixHits(t *testing.T, device func(testing.TB) device.Device, caches map[string]sizes) {
	for _, checkpoint := range []string{"llama", "llama3-rope-tied-sharded-bf16"} { // on a CPU keys and values in F32, in F16
		t.Run(checkpoint, func(t *testing.T) {
			c, err := model.Open(filepath.Join("../model/testdata", checkpoint))
			if err != nil {
				t.Fatal(err)
			}
			vocabulary := c.Config.Vocab
			_ = c.Close()
			talks := converse(t, start(t, device(t), checkpoint, sizes{blocks: 64, maxBatchTokens: 64, eager: true}), vocabulary)
			for name, s := range caches {
				t.Run(name, func(t *testing.T) {
					s.prefixCache = true
					talks.holdWith(t, start(t, device(t), checkpoint, s))
				})
			}
		})
	}
}

func TestPrefixHitsOnACPU(t *testing.T) {
	cpu := func(t testing.TB) device.Device {
		d, err := native.OpenCPU(native.CPUOptions{Threads: 2})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		return d
	}
	testPrefixHits(t, cpu, map[string]sizes{
		"room for all":        {blocks: 200, maxBatchTokens: 256},
		"little room":         {blocks: 30, maxBatchTokens: 64},
		"room for all, ahead": {blocks: 200, maxBatchTokens: 64, prepare: (*engine.Engine).WorkAhead},
		"little room, ahead":  {blocks: 24, maxBatchTokens: 40, prepare: (*engine.Engine).WorkAhead},
	})
}

// On a card steps are short enough for a row's bits not to depend on its batch.
func TestPrefixHitsCUDA(t *testing.T) {
	testPrefixHits(t, openCUDA, map[string]sizes{
		"room for all": {blocks: 200, maxBatchTokens: 64},
		"little room":  {blocks: 24, maxBatchTokens: 64},
	})
}
