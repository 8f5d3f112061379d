package devicetest

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
)

// logProbsCase is q queries of some rows of logits.
type logProbsCase struct {
	logits       [][]float32
	rows, chosen []int32   // [q]
	ids          [][]int32 // [q][m]
	top          int
}

// judgeLogProbs compares log-probabilities, ranks and the likeliest ids with those of float64. Ranks and ids are exact: they follow from
// comparisons alone.
func judgeLogProbs(r *rig) {
	for _, vocab := range []int{1, 2, 5, 63, 64, 257, 1000, 32_003, 128_256} {
		if testing.Short() && vocab > 50_000 {
			continue
		}
		for _, shape := range []struct{ queries, ids, top int }{{1, 0, 0}, {5, 0, 20}, {7, 3, 1}, {33, 130, 5}} {
			r.run(fmt.Sprintf("vocabulary of %d, %+v", vocab, shape), func(r *rig) {
				c := r.logProbsCase(vocab, shape.queries, shape.ids, shape.top)
				r.judgeQueries(c, contiguous)
			})
		}
	}
	r.run("strided", func(r *rig) { r.judgeQueries(r.logProbsCase(100, 9, 4, 7), strided) })
	r.run("edges", func(r *rig) { r.judgeQueries(edgeQueries(), contiguous) })
	r.run("query alone", func(r *rig) {
		c := r.logProbsCase(5000, 20, 3, 4)
		together := r.logProbs(c, contiguous)
		for i := range c.rows {
			alone := c
			alone.rows, alone.chosen, alone.ids = c.rows[i:i+1], c.chosen[i:i+1], c.ids[i:i+1]
			r.sameBits(fmt.Sprintf("query %d alone", i), r.logProbs(alone, contiguous)[0], together[i])
		}
	})
}

// logProbsCase draws rows with ties in every third and −Inf in every fourth; some queries share a row, some ask for ids that there are not.
func (r *rig) logProbsCase(vocab, queries, ids, top int) logProbsCase {
	c := logProbsCase{top: top}
	for i := range queries {
		logits := make([]float32, vocab)
		for j := range logits {
			logits[j] = float32(r.rng.NormFloat64() * 4)
			switch {
			case i%3 == 1:
				logits[j] = float32(math.Round(r.rng.NormFloat64()*3)) / 2
			case i%4 == 2 && r.rng.IntN(3) == 0:
				logits[j] = float32(math.Inf(-1))
			}
		}
		logits[r.rng.IntN(vocab)] = float32(r.rng.NormFloat64() * 30) // now and then all there is
		c.logits = append(c.logits, logits)
		c.rows = append(c.rows, int32(r.rng.IntN(i+1)))
		c.chosen = append(c.chosen, r.someID(vocab))
		var row []int32
		for range ids {
			row = append(row, r.someID(vocab))
		}
		c.ids = append(c.ids, row)
	}
	return c
}

func (r *rig) someID(vocab int) int32 {
	if r.rng.IntN(10) == 0 {
		return []int32{-1, int32(vocab), math.MaxInt32, math.MinInt32}[r.rng.IntN(4)]
	}
	return int32(r.rng.IntN(vocab))
}

// edgeQueries are the cases that the definition settles by itself.
func edgeQueries() logProbsCase {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	c := logProbsCase{top: 6, logits: [][]float32{
		{1, nan, 3, 4, 5}, {1, inf, 3, 4, 5}, {nan, 1, 1, 1, 1}, {1, 2, 3, 4, nan}, {-inf, -inf, -inf, -inf, -inf}, {5, 5, 5, 5, 5}, {0, -0, 1, -0, 0},
		{3e38, -3e38, 3e38, 0, 1}, {-inf, -inf, 1, -inf, -inf}, {-1e30, -2, -3, -4, -5}, {float32(math.Copysign(0, -1)), 0, 0, -1, -1},
	}}
	for i := range c.logits {
		for chosen := range int32(5) {
			c.rows, c.chosen, c.ids = append(c.rows, int32(i)), append(c.chosen, chosen), append(c.ids, []int32{4 - chosen, -1, 5})
		}
	}
	return c
}

// logProbs runs the queries and returns the bytes of each one's row of results.
func (r *rig) logProbs(c logProbsCase, l layout) [][]byte {
	r.Helper()
	logits := newMatrix(len(c.logits), len(c.logits[0]))
	for i, row := range c.logits {
		for j, v := range row {
			logits.row(i)[j] = float64(v)
		}
	}
	m := len(c.ids[0])
	out := r.output(device.I32, len(c.rows), 2+m+2*c.top, l)
	args := device.LogProbsArgs{
		Logits: r.input(device.F32, logits, l).Tensor, Rows: r.ints(c.rows...).Tensor, Chosen: r.ints(c.chosen...).Tensor, Top: c.top, Out: out.Tensor,
	}
	if m > 0 {
		args.IDs = r.input(device.I32, intMatrix(len(c.ids), slices.Concat(c.ids...)), l).Tensor
	}
	r.dev.LogProbs(args)
	r.results()
	rows := make([][]byte, len(c.rows))
	for i := range rows {
		rows[i] = out.bits(i)
	}
	return rows
}

func (r *rig) judgeQueries(c logProbsCase, l layout) {
	r.Helper()
	for i, got := range r.logProbs(c, l) {
		x := c.logits[c.rows[i]]
		order, lse := ranked(x)
		word := func(at int) int32 { return int32(binary.LittleEndian.Uint32(got[4*at:])) }
		number := func(what string, at int, id int32) {
			v, want := float64(math.Float32frombits(uint32(word(at)))), math.NaN()
			if id >= 0 && int(id) < len(x) {
				want = float64(float32(float64(x[id]) - lse)) // which may be −Inf
			}
			// The sum to 2⁻²⁰, and one rounding of the result.
			if !(math.Abs(v-want) <= 0x1p-20+math.Abs(want)*0x1p-23) && v != want && !(math.IsNaN(v) && math.IsNaN(want)) {
				r.Errorf("query %d: %s: log-probability of %d is %v, want %v", i, what, id, v, want)
			}
		}
		integer := func(what string, at int, want int32) {
			if v := word(at); v != want {
				r.Errorf("query %d: %s is %d, want %d", i, what, v, want)
			}
		}
		m := len(c.ids[i])
		number("chosen", 0, c.chosen[i])
		integer("rank", 1, int32(1+slices.Index(order, c.chosen[i])))
		for j, id := range c.ids[i] {
			number("ids", 2+j, id)
		}
		for j := range c.top {
			id := int32(-1)
			if j < len(order) {
				id = order[j]
			}
			integer(fmt.Sprintf("top id %d", j), 2+m+j, id)
			number("top", 2+m+c.top+j, id)
		}
	}
}

// ranked is the ids from the likeliest on, and the logarithm of the sum of all exponentials: NaN, and no ids, where there is none.
func ranked(x []float32) (order []int32, lse float64) {
	largest, sum := math.Inf(-1), 0.0
	for _, l := range x {
		largest = max(largest, float64(l)) // NaN stays
	}
	if math.IsNaN(largest) || math.IsInf(largest, 0) {
		return nil, math.NaN()
	}
	for i, l := range x {
		sum += math.Exp(float64(l) - largest)
		order = append(order, int32(i))
	}
	slices.SortStableFunc(order, func(a, b int32) int {
		switch {
		case x[a] > x[b]:
			return -1
		case x[a] < x[b]:
			return 1
		}
		return 0
	})
	return order, largest + math.Log(sum)
}

// judgePool allows one rounding: the sum itself is in double, of so few rows that its own errors vanish beside it.
func judgePool(r *rig) {
	t := r.o.Activations
	for _, shape := range rowShapes {
		for _, l := range []layout{contiguous, strided} {
			r.run(fmt.Sprintf("%dx%d strided=%v", shape.rows, shape.cols, l), func(r *rig) {
				x := r.normal(t, shape.rows, shape.cols, 1)
				from := []int32{0, 0, int32(shape.rows - 1), int32(shape.rows / 2), int32(shape.rows)}
				to := []int32{int32(shape.rows), 1, int32(shape.rows), int32(shape.rows/2 + 1), int32(shape.rows)} // the last is empty
				want, tolerance := newMatrix(len(from), shape.cols), newMatrix(len(from), shape.cols)
				for i := range from {
					for j := from[i]; j < to[i]; j++ {
						for k, v := range x.row(int(j)) {
							want.row(i)[k] += v
						}
					}
				}
				for k, v := range want.v {
					tolerance.v[k] = math.Abs(v)*0x1p-24 + 1e-12
				}
				in, out := r.input(t, x, l), r.output(device.F32, len(from), shape.cols, l)
				r.dev.Pool(out.Tensor, in.Tensor, r.ints(from...).Tensor, r.ints(to...).Tensor)
				r.results()
				r.compare("pool", out.matrix(), want, tolerance)
			})
		}
	}
}
