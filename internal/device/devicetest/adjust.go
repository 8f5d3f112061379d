package devicetest

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
)

// adjustment is what changes a row of a case before it is sampled.
type adjustment struct {
	device.Adjustment
	tokens []int32 // of the row's sequence, as many as the position says; an id outside the vocabulary is nobody's
	biased []int32 // ids
	values []float32
	masked []int32 // ids that may be chosen; nil: all
}

// historyBlock is the block size of the judge's token history.
const historyBlock = 16

// judgeAdjustments holds devices to the definition at inferno_adjustment to the bit: each step is one rounding.
func judgeAdjustments(r *rig) {
	for _, c := range []struct{ rows, vocab, tokens int }{{60, 5, 40}, {60, 257, 400}, {200, 5000, 300}, {12, 32_003, 3000}, {5, 128_256, 9000}} {
		if testing.Short() && c.vocab > 50_000 {
			continue
		}
		r.run(fmt.Sprintf("%d rows of %d", c.rows, c.vocab), func(r *rig) { r.judgeRows(r.adjustedRows(c.rows, c.vocab, c.tokens), contiguous) })
	}
	r.run("strided", func(r *rig) { r.judgeRows(r.adjustedRows(30, 100, 50), strided) })
	r.run("edges", func(r *rig) { r.judgeRows(adjustedEdges(), contiguous) })
}

// adjustedRows draws rows of all kinds; every fifth has no adjustment.
func (r *rig) adjustedRows(n, vocab, tokens int) []sampleRow {
	rows := r.sampleRows(n, vocab)
	for i := range rows {
		row := &rows[i]
		if i%5 == 4 {
			continue
		}
		a := &adjustment{tokens: make([]int32, r.rng.IntN(tokens+1))}
		for j := range a.tokens {
			a.tokens[j] = int32(min(r.rng.ExpFloat64()*float64(vocab)/8, float64(vocab))) // some often; some that are no id
		}
		row.params.Position = uint32(len(a.tokens))
		a.Prompt = int32(r.rng.IntN(len(a.tokens) + 1))
		a.Repetition = []float32{1, 1.3, 0.5, 3}[r.rng.IntN(4)]
		a.Window = []int32{0, 1, 17, 1 << 30}[r.rng.IntN(4)]
		a.Presence = []float32{0, 0, 1.5, -0.3}[r.rng.IntN(4)]
		a.Frequency = []float32{0, 0, 0.1, -0.7}[r.rng.IntN(4)]
		for _, id := range r.rng.Perm(vocab)[:min(r.rng.IntN(3)*10, vocab)] {
			a.biased, a.values = append(a.biased, int32(id)), append(a.values, float32(r.rng.NormFloat64()*5))
		}
		if r.rng.IntN(3) == 0 {
			a.masked = []int32{}
			for _, id := range r.rng.Perm(vocab)[:(vocab+1)/2] {
				a.masked = append(a.masked, int32(id))
			}
			row.params.NumBanned = 0
		}
		row.adjust = a
		if slices.Max(row.allowed()) < -math.MaxFloat32 {
			a.masked = nil // all that is left is −Inf: nothing says what to choose
		}
	}
	return rows
}

// adjustedEdges are the cases that the definition settles by itself.
func adjustedEdges() []sampleRow {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	row := func(temperature float32, logits []float32, a adjustment) sampleRow {
		if a.Repetition == 0 {
			a.Repetition = 1
		}
		p := device.SampleParams{TopP: 1, Temperature: temperature, Seed: 5, Position: uint32(len(a.tokens))}
		return sampleRow{logits: logits, params: p, banned: []int32{0}, adjust: &a}
	}
	penalties := device.Adjustment{Repetition: 2, Presence: 1, Frequency: 1}
	return []sampleRow{
		row(0, []float32{1, nan, 3}, adjustment{Adjustment: penalties, tokens: []int32{1, 1}}),
		row(1, []float32{1, inf, 3}, adjustment{Adjustment: penalties, tokens: []int32{1, 1}}),
		row(0, []float32{1, inf, 3}, adjustment{masked: []int32{0}}),
		row(1, []float32{1, 2, 3}, adjustment{masked: []int32{}}),
		row(0, []float32{1, 2, 3}, adjustment{masked: []int32{}}),
		row(0, []float32{-inf, -inf, -inf}, adjustment{masked: []int32{1, 2}}),
		row(1, []float32{-inf, -inf, -inf}, adjustment{masked: []int32{2}}),
		row(0, []float32{3e38, 3e38, -3e38}, adjustment{Adjustment: device.Adjustment{Repetition: 0.1}, tokens: []int32{1}}), // stays finite
		row(0, []float32{1, -3e38, -3e38}, adjustment{Adjustment: device.Adjustment{Repetition: 10}, tokens: []int32{1}}),    // −Inf
		row(0, []float32{1, 1, 1}, adjustment{Adjustment: device.Adjustment{Presence: 1}, tokens: []int32{0, 1, 2}}),
		row(0, []float32{1, 1, 1}, adjustment{Adjustment: device.Adjustment{Presence: 1, Prompt: 3}, tokens: []int32{0, 1, 2}}),
		row(0, []float32{1, 1, 1}, adjustment{Adjustment: device.Adjustment{Repetition: 2, Window: 2}, tokens: []int32{0, 1, 2}}),
		row(0, []float32{4, 2, 1}, adjustment{Adjustment: device.Adjustment{Frequency: 1}, tokens: []int32{0, 0, 0, 1}}),
		row(0, []float32{1, 1, 1}, adjustment{Adjustment: penalties, tokens: []int32{-1, 3, 1 << 30}}), // no ids
		row(1, []float32{1, 1, 1}, adjustment{biased: []int32{2, 0}, values: []float32{-100, -100}}),
		row(0, []float32{0, 1, 1}, adjustment{}),
	}
}

// adjusted is the row's logits as the op leaves them, each step rounded to float32.
func (s sampleRow) adjusted() []float32 {
	out := slices.Clone(s.logits)
	a := s.adjust
	if a == nil {
		return out
	}
	isID := func(id int32) bool { return id >= 0 && int(id) < len(out) }
	distinct := func(tokens []int32) []int32 {
		tokens = slices.DeleteFunc(slices.Clone(tokens), func(id int32) bool { return !isID(id) })
		slices.Sort(tokens)
		return slices.Compact(tokens)
	}
	seen := a.tokens
	if a.Window > 0 && int(a.Window) < len(seen) {
		seen = seen[len(seen)-int(a.Window):]
	}
	for _, id := range distinct(seen) {
		switch l := out[id]; {
		case a.Repetition == 1 || !(l <= math.MaxFloat32):
		case l > 0:
			out[id] = min(l/a.Repetition, math.MaxFloat32)
		default:
			out[id] = l * a.Repetition
		}
	}
	generated := a.tokens[a.Prompt:]
	for _, id := range distinct(generated) {
		out[id] -= a.Presence
	}
	for _, id := range generated {
		if isID(id) {
			out[id] -= a.Frequency
		}
	}
	for i, id := range a.biased {
		out[id] += a.values[i]
	}
	return out
}

// out is the ids that the row may not choose.
func (s sampleRow) out() []int32 {
	out := slices.Clone(s.banned[:s.params.NumBanned])
	if s.adjust == nil || s.adjust.masked == nil {
		return out
	}
	in := make([]bool, len(s.logits))
	for _, id := range s.adjust.masked {
		in[id] = true
	}
	for id := range in {
		if !in[id] {
			out = append(out, int32(id))
		}
	}
	return out
}

// adjustments lays the rows' adjustments out, their tokens in blocks of a common pool, in no order.
func (r *rig) adjustments(args *device.SampleArgs, rows []sampleRow, params []device.SampleParams) {
	r.Helper()
	var pool []int32
	blocks, width := 1, 1 // block 0 is nobody's
	for _, row := range rows {
		if row.adjust != nil {
			n := (len(row.adjust.tokens) + historyBlock - 1) / historyBlock
			blocks, width = blocks+n, max(width, n)
		}
	}
	free := r.rng.Perm(blocks)
	free = slices.DeleteFunc(free, func(b int) bool { return b == 0 })
	history, tables := newMatrix(blocks, historyBlock), newMatrix(len(rows), width)
	for i := range history.v {
		history.v[i] = -7
	}
	for i, row := range rows {
		a := row.adjust
		if a == nil {
			continue
		}
		sequence := len(rows) - 1 - i // not the row's own number
		for j, id := range a.tokens {
			if j%historyBlock == 0 {
				tables.row(sequence)[j/historyBlock] = float64(free[0])
				free = free[1:]
			}
			history.row(int(tables.row(sequence)[j/historyBlock]))[j%historyBlock] = float64(id)
		}
		params[i].Adjustment = int32(len(pool)) + 1
		masked := int32(0)
		if a.masked != nil {
			masked = 1
		}
		pool = append(pool, int32(math.Float32bits(a.Repetition)), int32(math.Float32bits(a.Presence)), int32(math.Float32bits(a.Frequency)),
			a.Window, a.Prompt, int32(sequence), int32(len(a.biased)), masked)
		for j, id := range a.biased {
			pool = append(pool, id, int32(math.Float32bits(a.values[j])))
		}
		if a.masked != nil {
			bits := make([]uint32, (len(row.logits)+31)/32)
			for _, id := range a.masked {
				bits[id/32] |= 1 << (id % 32)
			}
			for _, word := range bits {
				pool = append(pool, int32(word))
			}
		}
	}
	args.Adjustments = r.ints(pool...).Tensor
	args.History = r.input(device.I32, history, contiguous).Tensor
	args.BlockTable = r.input(device.I32, tables, strided).Tensor
}

// judgeAdjusted compares the logits that the op left.
func (r *rig) judgeAdjusted(rows []sampleRow, got matrix) {
	r.Helper()
	for i, row := range rows {
		for id, want := range row.adjusted() {
			if g := float32(got.row(i)[id]); math.Float32bits(g) != math.Float32bits(want) && (g == g || want == want) {
				r.Errorf("row %d: logit %d of %v became %v, want %v (%+v)", i, id, row.logits[id], g, want, row.adjust.Adjustment)
				break
			}
		}
	}
}
