package devicetest

import (
	"fmt"
	"math"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
)

// Numbers of rows of x: one to the most of a decode step, odd ones, and chunks of a prefill.
var batchRows = []int{1, 2, 3, 7, 16, 33, 64, 128}

// Weights of more rows than a device works on at once, as few columns as make the sums of a product meet, or not.
var tallShapes = []struct {
	rows, cols int
	float32    bool // results, as of logits; else of the activations' type
}{
	{8_500, 160, false}, {8_500, 160, true}, {32_800, 40, true},
}

// judgeMatMul runs each weight type through shapes [out, in] that end within a lane, a tile or a block, then products together.
func judgeMatMul(r *rig) {
	shapes := []struct{ rows, cols int }{
		{1, 32}, {5, 64}, {16, 96}, {17, 576}, {100, 1536}, {40, 8192}, {576, 576},
		{17, 33}, {5, 577}, {100, 1}, {1, 31}, // float types only
	}
	for _, t := range weightTypes {
		for _, shape := range shapes {
			if shape.cols%t.Block() != 0 || testing.Short() && shape.rows*shape.cols > 100_000 {
				continue
			}
			batches := batchRows
			if shape.rows*shape.cols > 200_000 {
				batches = []int{1, 3, 33}
			}
			r.run(fmt.Sprintf("%v %dx%d", t, shape.rows, shape.cols), func(r *rig) {
				r.judgeBatches(t, shape.rows, shape.cols, r.o.Activations, batches)
			})
		}
	}
	for _, shape := range tallShapes {
		if testing.Short() {
			break
		}
		result := r.o.Activations
		if shape.float32 {
			result = device.F32
		} else if result == device.F32 {
			continue // the same again
		}
		r.run(fmt.Sprintf("tall %dx%d to %v", shape.rows, shape.cols, result), func(r *rig) {
			r.judgeBatches(device.BF16, shape.rows, shape.cols, result, []int{1, 20, 50, 130, 256})
		})
	}
	for name, products := range productCases {
		r.run(name, func(r *rig) { r.judgeProducts(products, 160, 1, 5, 40, 256, promptRows) })
	}
	if !testing.Short() {
		many := []productCase{{dtype: device.BF16, rows: 2200, bias: true, accumulate: true}, {dtype: device.BF16, rows: 104, accumulate: true}}
		r.run("a prompt's, of many tiles", func(r *rig) { r.judgeProducts(many, 96, 1000) })
	}
}

// judgeBatches multiplies one weight by batches of every size, which are the first rows of the largest: each within tolerance, each
// row with the same bits whatever the batch.
func (r *rig) judgeBatches(t device.DType, rows, cols int, result device.DType, batches []int) {
	most := batches[len(batches)-1]
	s, x := r.randomSource(t, rows, cols), r.activations(most, cols)
	w := r.weight(s, nil)
	want, tolerance := r.referenceMatMul(x, s)
	bits := make([]string, most) // of each row, in the first batch that holds it
	for i, n := range batches {
		r.scope(func() {
			l := layout(i%2 == 1)
			in, out := r.input(r.o.Activations, x.top(n), l), r.output(result, n, rows, l)
			r.dev.MatMul(in.Tensor, []device.Product{{W: w, Out: out.Tensor}})
			r.results()
			r.compare(fmt.Sprintf("batch of %d", n), out.matrix(), want.top(n), tolerance.top(n))
			for j := range n {
				if bits[j] == "" {
					bits[j] = string(out.bits(j))
				} else if n <= r.o.InvariantRows {
					r.sameBits(fmt.Sprintf("row %d of a batch of %d and of a smaller one", j, n), out.bits(j), []byte(bits[j]))
				}
			}
		})
	}
	r.scope(func() { // rows from the middle, alone
		in, out := r.input(r.o.Activations, x, contiguous), r.output(result, most, rows, contiguous)
		for _, j := range []int{most - 1, most / 2} {
			r.dev.MatMul(in.row(j), []device.Product{{W: w, Out: out.row(j)}})
		}
		r.results()
		for _, j := range []int{most - 1, most / 2} {
			if most <= r.o.InvariantRows {
				r.sameBits(fmt.Sprintf("row %d alone and in a batch of %d", j, most), out.bits(j), []byte(bits[j]))
			}
		}
	})
}

// activations draws what layers hand to each other: numbers around 1, with outliers; and, in some rows, blocks of zeros, blocks too
// small for a reciprocal, and a row of one magnitude, whose 8-bit form is all ±127.
func (r *rig) activations(rows, cols int) matrix {
	m := r.normal(r.o.Activations, rows, cols, 1)
	for i := range rows {
		row := m.row(i)
		row[r.rng.IntN(cols)] *= 30
		block := row[r.rng.IntN(cols)/32*32:]
		block = block[:min(32, len(block))]
		for j := range block {
			switch i % 7 {
			case 1:
				block[j] = 0
			case 2:
				block[j] = round(r.o.Activations, 1e-39*r.rng.NormFloat64())
			}
		}
		for j := range row {
			if i%7 == 3 {
				row[j] = math.Copysign(1, row[j])
			}
		}
	}
	for i := range m.v {
		m.v[i] = round(r.o.Activations, m.v[i])
	}
	return m
}

// referenceMatMul is x·wᵀ and what a right kernel may be off by:
//   - the float32 sum of c terms in any order, 4·√c·2⁻²⁴ of the sum of the terms' magnitudes: a random walk of rounding errors stays
//     below it, one term lost or doubled does not;
//   - on matrix units, the rounding of the operands that do not fit their type: independent errors, whose sum stays below six times
//     the root of the sum of their squares;
//   - the rounding of the result to its type.
//
// Where the device quantises activations, the reference does so too, and a quant that lies so near to the middle between two integers
// that float32 may decide otherwise counts as a whole step.
func (r *rig) referenceMatMul(x matrix, s source) (want, tolerance matrix) {
	want, tolerance = newMatrix(x.rows, s.values.rows), newMatrix(x.rows, s.values.rows)
	sum := 4 * math.Sqrt(float64(x.cols)) * 0x1p-24
	operands := r.operandError(r.o.Activations) + r.operandError(s.dtype)
	eightBit := s.dtype.Quantised() && !r.info.Exact
	if eightBit {
		operands = 0
	}
	for i := range x.rows {
		row, unsure := x.row(i), []uncertain(nil)
		if eightBit {
			row, unsure = quantise(row)
		}
		for j := range s.values.rows {
			d := dot(row, s.values.row(j), s.parts.row(j))
			slack := 0.0
			for _, u := range unsure {
				slack += u.step * s.parts.row(j)[u.at]
			}
			want.row(i)[j] = d.sum
			tolerance.row(i)[j] = sum*d.magnitude + 6*operands*math.Sqrt(d.squares) + slack +
				halfULP(r.o.Activations)*math.Abs(d.sum) + 1e-36
		}
	}
	return want, tolerance
}

// operandError bounds the relative error of giving a number of type t to the device's matrix units.
func (r *rig) operandError(t device.DType) float64 {
	if r.o.Operands == device.F32 || r.o.Operands == t {
		return 0
	}
	return halfULP(r.o.Operands)
}

// dotProduct is Σ x·w; its terms' magnitudes and squares added up, with parts for w.
type dotProduct struct{ sum, magnitude, squares float64 }

func dot(x, w, parts []float64) (d dotProduct) {
	w, parts = w[:len(x)], parts[:len(x)]
	for i, v := range x {
		d.sum += v * w[i]
		term := math.Abs(v * parts[i])
		d.magnitude += term
		d.squares += term * term
	}
	return d
}

// uncertain is a quant that float32 arithmetic may round either way: the element, and what the other way would change.
type uncertain struct {
	at   int
	step float64
}

// quantise rounds x to 8-bit blocks of 32: d = max|x|/127, q = x/d rounded to the nearest integer; it returns d·q.
func quantise(x []float64) (rounded []float64, unsure []uncertain) {
	rounded = make([]float64, len(x))
	for from := 0; from < len(x); from += 32 {
		block, largest := x[from:from+32], 0.0
		for _, v := range block {
			largest = max(largest, math.Abs(v))
		}
		d := largest / 127
		if d == 0 {
			continue
		}
		for j, v := range block {
			q := v / d
			rounded[from+j] = math.Round(q) * d
			if math.Abs(math.Abs(q-math.Trunc(q))-0.5) < 1e-4 {
				unsure = append(unsure, uncertain{from + j, d})
			}
		}
	}
	return rounded, unsure
}

// productCase is one of the products that share their activations.
type productCase struct {
	dtype      device.DType
	rows       int
	bias       bool
	accumulate bool
	reordered  bool // packed in another order of rows, from a source that has more of them
}

var productCases = map[string][]productCase{
	"one with bias":        {{dtype: device.F32, rows: 33, bias: true}},
	"one accumulated":      {{dtype: device.Q4_1, rows: 48, accumulate: true}},
	"one reordered":        {{dtype: device.Q4_0, rows: 50, reordered: true}},
	"bias and accumulated": {{dtype: device.Q8_0, rows: 17, bias: true, accumulate: true, reordered: true}},
	"two of one type":      {{dtype: device.BF16, rows: 100}, {dtype: device.BF16, rows: 100, bias: true}},
	"three, like q, k and v": {
		{dtype: device.Q4_0, rows: 96, bias: true}, {dtype: device.Q4_0, rows: 32}, {dtype: device.Q8_0, rows: 32},
	},
	"three types": {
		{dtype: device.F16, rows: 5, accumulate: true}, {dtype: device.Q4_1, rows: 64, reordered: true},
		{dtype: device.F32, rows: 1, bias: true},
	},
	"floats and quants, mixed": {{dtype: device.Q8_0, rows: 20, accumulate: true}, {dtype: device.BF16, rows: 3}},
}

func (r *rig) judgeProducts(cases []productCase, cols int, batches ...int) {
	t := r.o.Activations
	for i, n := range batches {
		r.scope(func() {
			l := layout(i%2 == 0)
			x := r.activations(n, cols)
			in := r.input(t, x, l)
			var products []device.Product
			var outs []*buffer
			var wants, tolerances []matrix
			for _, c := range cases {
				p, out, want, tolerance := r.product(c, x, l)
				products, outs = append(products, p), append(outs, out)
				wants, tolerances = append(wants, want), append(tolerances, tolerance)
			}
			r.dev.MatMul(in.Tensor, products)
			r.results()
			for k, out := range outs {
				r.compare(fmt.Sprintf("product %d of a batch of %d", k, n), out.matrix(), wants[k], tolerances[k])
			}
		})
	}
}

// product makes the operands of one product of x, and what must come out.
func (r *rig) product(c productCase, x matrix, l layout) (p device.Product, out *buffer, want, tolerance matrix) {
	t := r.o.Activations
	s, rows := r.randomSource(c.dtype, c.rows, x.cols), []int32(nil)
	if c.reordered {
		s = r.randomSource(c.dtype, 2*c.rows, x.cols)
		rows = int32s(r.rng.Perm(2 * c.rows)[:c.rows])
	}
	p.W, p.Accumulate = r.weight(s, rows), c.accumulate
	if rows != nil {
		s = s.pick(rows)
	}
	want, tolerance = r.referenceMatMul(x, s)
	before := r.normal(t, x.rows, c.rows, 1)
	bias := r.normal(device.F32, 1, c.rows, 1)
	for i := range want.v {
		added := 0.0
		if c.bias {
			added += bias.v[i%c.rows]
		}
		if c.accumulate {
			added += before.v[i]
		}
		want.v[i] += added
		if added != 0 { // two more sums, and a result that is larger
			tolerance.v[i] += 4*0x1p-24*(math.Abs(bias.v[i%c.rows])+math.Abs(before.v[i])) + halfULP(t)*math.Abs(want.v[i])
		}
	}
	out = r.output(t, x.rows, c.rows, l)
	if c.accumulate {
		out = r.inout(t, before, l)
	}
	if c.bias {
		p.Bias = r.input(device.F32, bias, contiguous).Tensor
	}
	p.Out = out.Tensor
	return p, out, want, tolerance
}
