package llama_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/inferno-serve/inferno/internal/memory"
	"github.com/inferno-serve/inferno/internal/model"
	"github.com/inferno-serve/inferno/internal/model/modeltest"
)

// batchMargin is what docs/structure.md states: only where the most likely token leads by less than this part of the largest logit may a
// step of more than invariantRows rows choose another one.
const batchMargin = 0.02

// choice is the token that a sequence's logits choose, its logit and lead over the next, and the largest of their magnitudes.
type choice struct {
	token                int32
	logit, lead, largest float64
}

func choose(logits []float32) (c choice) {
	c.token = modeltest.Argmax(logits)
	c.logit = float64(logits[c.token])
	next := math.Inf(-1)
	for id, v := range logits {
		c.largest = max(c.largest, math.Abs(float64(v)))
		if int32(id) != c.token {
			next = max(next, float64(v))
		}
	}
	c.lead = c.logit - next
	return c
}

// TestLargeBatchesChooseTheSameButForTiesCUDA decodes sequences in steps of invariantRows, where a row's bits are those that it has alone,
// and feeds their tokens to steps of more rows: another choice may come only where two were nearly equally likely.
func TestLargeBatchesChooseTheSameButForTiesCUDA(t *testing.T) {
	const most, context = 256, 64
	for _, c := range []struct {
		name, path string
		random     bool
		steps      int
	}{
		{"tiny", "llama3-rope-tied-sharded-bf16", false, 24},
		{"1B shape", "shapes/llama-3.2-1b", true, 12},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := openCUDA(t, false)
			o := model.Options{Device: d, Limits: model.Limits{MaxTokens: 512, MaxSeqs: most, MaxRows: most, Context: context}}
			m, pool := loadShape(t, filepath.Join("..", "testdata", c.path), c.random, o)
			r := modeltest.New(t, m, modeltest.Options{Device: d, Allocator: pool, Limits: o.Limits, BlockSize: context, NumBlocks: most + 1})
			prompts := randomPrompts(most, context-c.steps, m.Config().Vocab)
			want := soloChoices(t, r, prompts, c.steps)
			for _, n := range []int{invariantRows + 1, 128, 129, most} {
				t.Run(fmt.Sprintf("%d rows", n), func(t *testing.T) { compareChoices(t, r, prompts[:n], want[:n], o.Limits.MaxTokens) })
			}
		})
	}
}

// loadShape loads a checkpoint, or random weights of its config, and leaves room for a cache and logits.
func loadShape(t *testing.T, path string, random bool, o model.Options) (model.Model, *memory.Pool) {
	t.Helper()
	const room = 2 << 30
	if !random {
		m, _, pool := load(t, path, o, room)
		return m, pool
	}
	c, err := model.OpenRandom(path)
	if err != nil {
		t.Fatal(err)
	}
	need, _, err := loader.Measure(t.Context(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	pool := newPool(t, o.Device, need.Total()+room)
	o.Allocator = pool
	m, err := loader.Load(t.Context(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	return m, pool
}

// randomPrompts have up to `longest` tokens each.
func randomPrompts(n, longest, vocabulary int) [][]int32 {
	random := rand.New(rand.NewPCG(5, 6))
	prompts := make([][]int32, n)
	for i := range prompts {
		prompts[i] = make([]int32, 1+random.IntN(longest))
		for j := range prompts[i] {
			prompts[i][j] = random.Int32N(int32(vocabulary))
		}
	}
	return prompts
}

// soloChoices are the first `steps` of each prompt, whose tokens it feeds back. Prompts are computed alone, and as a check of the premise
// the first sequence also decodes alone.
func soloChoices(t *testing.T, r *modeltest.Runner, prompts [][]int32, steps int) [][]choice {
	t.Helper()
	all := make([][]choice, len(prompts))
	for from := 0; from < len(prompts); from += invariantRows {
		group := all[from:min(from+invariantRows, len(prompts))]
		sequences := make([]modeltest.Sequence, len(group))
		for i := range group {
			group[i] = []choice{choose(r.Step(modeltest.Part{Sequence: &sequences[i], Tokens: prompts[from+i], Logits: 1})[0])}
		}
		for step := range steps - 1 {
			for i, logits := range r.Step(nextTokens(sequences, group, step)...) {
				group[i] = append(group[i], choose(logits))
			}
		}
		for i := range sequences {
			r.Release(&sequences[i])
		}
	}
	for step, token := range r.Greedy(prompts[0], steps) {
		if token != all[0][step].token {
			t.Fatalf("step %d: token %d alone and %d among %d", step, token, all[0][step].token, invariantRows)
		}
	}
	return all
}

// nextTokens is the decode step that follows that number `step`: each sequence gets what it chose there.
func nextTokens(sequences []modeltest.Sequence, choices [][]choice, step int) (parts []modeltest.Part) {
	for i := range sequences {
		parts = append(parts, modeltest.Part{Sequence: &sequences[i], Tokens: []int32{choices[i][step].token}, Logits: 1})
	}
	return parts
}

// compareChoices computes the prompts in steps of up to maxRows tokens and then decodes all sequences together.
func compareChoices(t *testing.T, r *modeltest.Runner, prompts [][]int32, want [][]choice, maxRows int) {
	t.Helper()
	sequences := make([]modeltest.Sequence, len(prompts))
	compared, others, lost, off := 0, 0, 0.0, 0.0
	check := func(first, step int, rows [][]float32) {
		for i, logits := range rows {
			c := want[first+i][step]
			compared++
			off = max(off, math.Abs(float64(logits[c.token])-c.logit)/c.largest)
			got := modeltest.Argmax(logits)
			if got == c.token {
				continue
			}
			others++
			lost = max(lost, c.lead/c.largest)
			if c.lead > batchMargin*c.largest {
				t.Errorf("sequence %d, step %d: token %d, in a step of few rows %d by %.3g of the largest logit, want at most %g",
					first+i, step, got, c.token, c.lead/c.largest, batchMargin)
			}
		}
	}
	for first := 0; first < len(prompts); {
		var parts []modeltest.Part
		rows, next := 0, first
		for ; next < len(prompts) && rows+len(prompts[next]) <= maxRows; next++ {
			rows += len(prompts[next])
			parts = append(parts, modeltest.Part{Sequence: &sequences[next], Tokens: prompts[next], Logits: 1})
		}
		check(first, 0, r.Step(parts...))
		first = next
	}
	for step := 1; step < len(want[0]); step++ {
		check(0, step, r.Step(nextTokens(sequences, want, step-1)...))
	}
	for i := range sequences {
		r.Release(&sequences[i])
	}
	t.Logf("%d choices, %d others, the largest lead lost %.2g of the largest logit; logits are off by up to %.2g of it", compared, others, lost, off)
}
