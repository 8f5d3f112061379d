package engine_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/model"
)

// TestPrefixHitsOnACPU holds conversations of three turns with a model, in company, and compares each answer with that of an engine which has no
// cache and serves one request at a time.
func TestPrefixHitsOnACPU(t *testing.T) {
	const turns, people = 3, 8
	for _, checkpoint := range []string{"llama", "llama3-rope-tied-sharded-bf16"} { // keys and values in F32, in F16
		t.Run(checkpoint, func(t *testing.T) {
			c, err := model.Open(filepath.Join("../model/testdata", checkpoint))
			if err != nil {
				t.Fatal(err)
			}
			vocabulary := int32(c.Config.Vocab)
			_ = c.Close()
			alone := startCPU(t, checkpoint, sizes{blocks: 64, maxBatchTokens: 256, eager: true})
			var said [turns][]*engine.Request
			var want [turns][][]int32
			random := rand.New(rand.NewPCG(3, 4))
			some := func(n int) (tokens []int32) {
				for range n {
					tokens = append(tokens, random.Int32N(vocabulary))
				}
				return tokens
			}
			system := some(21)
			for i := range people {
				prompt := slices.Concat(system, some(1+random.IntN(9)))
				for turn := range turns {
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
					said[turn], want[turn] = append(said[turn], q), append(want[turn], answer)
					prompt = slices.Concat(prompt, answer, some(1+random.IntN(9)))
				}
			}
			for name, s := range map[string]sizes{
				"room for all":       {blocks: 200, maxBatchTokens: 256},
				"little room":        {blocks: 30, maxBatchTokens: 64},
				"room for all,ahead": {blocks: 200, maxBatchTokens: 64, prepare: (*engine.Engine).WorkAhead},
				"little room, ahead": {blocks: 24, maxBatchTokens: 40, prepare: (*engine.Engine).WorkAhead},
			} {
				t.Run(name, func(t *testing.T) {
					s.prefixCache = true
					e := startCPU(t, checkpoint, s)
					for turn := range turns {
						for i, got := range runTogether(t, e, said[turn]) {
							if !slices.Equal(got, want[turn][i]) {
								t.Errorf("turn %d of %d: got %v, want %v", turn, i, got, want[turn][i])
							}
						}
					}
					if s := e.Stats(); s.CacheHits < 100 || s.BlocksUsed != 0 {
						t.Errorf("in the end: %+v", s)
					} else {
						t.Logf("%d of %d prompt tokens found, %d preemptions, %d evictions", s.CacheHits, s.CacheAsked, s.Preemptions, s.CacheEvictions)
					}
				})
			}
		})
	}
}
