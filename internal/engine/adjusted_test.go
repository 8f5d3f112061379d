package engine_test

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/model/modeltest"
)

// Greedy tokens under penalties, biases and bans are those that a float64 reference of the model, with the same arithmetic by hand, makes of
// the same prompt, up to where two tokens are too near to tell apart.
func TestAdjustedChoicesMatchTheReference(t *testing.T) {
	const checkpoint, most = "llama", 8
	reference := modeltest.NewReference(t, filepath.Join("../model/testdata", checkpoint))
	e := start(t, exactCPU(t), checkpoint, sizes{blocks: 64, maxBatchTokens: 64})
	for i, p := range golden(t, checkpoint)[:1] {
		prompt := p.Tokens[:min(len(p.Tokens), 12)]
		last := prompt[len(prompt)-1]
		for name, s := range map[string]engine.Sampling{
			"plain":             {},
			"repetition":        {RepetitionPenalty: 1.5},
			"repetition window": {RepetitionPenalty: 1.5, PenaltyWindow: 5},
			"presence":          {PresencePenalty: 1.5},
			"frequency":         {FrequencyPenalty: 0.75},
			"negative":          {PresencePenalty: -0.5, FrequencyPenalty: -0.5, RepetitionPenalty: 0.8},
			"bias":              {LogitBias: []engine.Bias{{ID: last, Value: 2}, {ID: p.Greedy[0], Value: -100}}},
			"banned":            {Banned: p.Greedy[:min(len(p.Greedy), 3)]},
			"all":               {RepetitionPenalty: 1.2, PresencePenalty: 0.3, FrequencyPenalty: 0.3, LogitBias: []engine.Bias{{ID: last, Value: 1}}, Banned: p.Greedy[:1]},
		} {
			q := &engine.Request{ID: fmt.Sprint(i, name), Prompt: prompt, Sampling: s, Stop: engine.Stopping{MaxTokens: most}}
			want := adjustedGreedy(reference, prompt, &s, most)
			if got := submitAndRead(t, e, q); !slices.Equal(got[:len(want)], want) {
				t.Errorf("prompt %d, %s: got %v, want %v", i, name, got, want)
			} else if len(want) < 2 {
				t.Logf("prompt %d, %s: only %d tokens to compare", i, name, len(want))
			}
		}
	}
}

// adjustedGreedy is the reference's tokens, as far as each is likelier than the next one by more than float32 may blur.
func adjustedGreedy(r *modeltest.Reference, prompt []int32, s *engine.Sampling, most int) []int32 {
	tokens := slices.Clone(prompt)
	for len(tokens) < len(prompt)+most {
		hidden := r.Hidden(tokens)
		logits := r.Logits(hidden[len(hidden)-1])
		adjustByHand(logits, tokens, len(prompt), s)
		best, next := 0, math.Inf(-1)
		for id, l := range logits {
			if l > logits[best] {
				best = id
			}
		}
		for id, l := range logits {
			if id != best {
				next = max(next, l)
			}
		}
		if logits[best]-next < 1e-3 {
			break
		}
		tokens = append(tokens, int32(best))
	}
	return tokens[len(prompt):]
}

func adjustByHand(logits []float64, tokens []int32, prompt int, s *engine.Sampling) {
	seen, counts := map[int32]bool{}, map[int32]float64{}
	for i, id := range tokens {
		if s.PenaltyWindow == 0 || i >= len(tokens)-s.PenaltyWindow {
			seen[id] = true
		}
		if i >= prompt {
			counts[id]++
		}
	}
	if s.RepetitionPenalty != 0 {
		for id := range seen {
			if logits[id] > 0 {
				logits[id] /= float64(s.RepetitionPenalty)
			} else {
				logits[id] *= float64(s.RepetitionPenalty)
			}
		}
	}
	for id, n := range counts {
		logits[id] -= float64(s.PresencePenalty) + n*float64(s.FrequencyPenalty)
	}
	for _, b := range s.LogitBias {
		logits[b.ID] += float64(b.Value)
	}
	for _, id := range s.Banned {
		logits[id] = math.Inf(-1)
	}
}
