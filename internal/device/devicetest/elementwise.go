package devicetest

import (
	"fmt"
	"math"
	"slices"

	"github.com/inferno-serve/inferno/internal/device"
)

// Shapes of the ops that work row by row: one row and many, one column, odd widths, widths of models.
var rowShapes = []struct{ rows, cols int }{{1, 1}, {1, 64}, {2, 5}, {3, 96}, {5, 577}, {33, 576}, {4, 4096}, {515, 1000}}

// weightTypes is every type that a weight can have.
var weightTypes = []device.DType{
	device.F32, device.F16, device.BF16, device.Q8_0, device.Q4_0, device.Q4_1,
}

// judgeMemory checks copies, fills, and that they run in order.
func judgeMemory(r *rig) {
	b := r.output(device.I32, 1, 1000, contiguous)
	src := slices.Repeat([]byte{1, 2, 3, 4}, 1000)
	r.dev.Upload(b.Data, src)
	clear(src) // which Upload allows
	early := make([]byte, 4000)
	r.dev.Download(early, b.Data)
	r.dev.Fill(b.Data+400, 0x7e, 400)
	r.dev.Upload(b.Data+800, []byte{9})
	r.results()
	want := slices.Repeat([]byte{1, 2, 3, 4}, 1000)
	if !slices.Equal(early, want) {
		r.Error("Download does not see what the Upload before it wrote")
	}
	copy(want[400:], slices.Repeat([]byte{0x7e}, 400))
	want[800] = 9
	if !slices.Equal(b.bits(0), want) {
		r.Error("Upload, Fill and Upload do not leave what they wrote, in their order")
	}
	if r.info.Kind == "" || r.info.Name == "" || r.info.Features == "" || r.info.TotalBytes < 1 {
		r.Errorf("Info is not complete: %+v", r.info)
	}
}

// judgeEmbed checks each weight type's packed form: what comes out is exactly what went in, rounded once to the activations' type.
func judgeEmbed(r *rig) {
	for _, t := range weightTypes {
		for _, shape := range []struct{ vocab, cols int }{{1, 32}, {5, 64}, {17, 160}, {100, 576}, {37, 33}, {3, 1}} {
			if shape.cols%t.Block() != 0 {
				continue
			}
			r.run(fmt.Sprintf("%v %dx%d", t, shape.vocab, shape.cols), func(r *rig) {
				s := r.randomSource(t, shape.vocab, shape.cols)
				if !t.Quantised() {
					s = r.randomBits(t, shape.vocab, shape.cols)
				}
				ids := r.rng.Perm(shape.vocab)
				r.checkEmbed(s, nil, append(int32s(ids), int32(ids[0]), -1, int32(shape.vocab), math.MaxInt32))

				rows := make([]int32, shape.vocab+20) // reordered, some of them twice
				for i := range rows {
					rows[i] = int32(r.rng.IntN(shape.vocab))
				}
				r.checkEmbed(s, rows, int32s(r.rng.Perm(len(rows))))
			})
		}
	}
}

// randomBits draws any finite numbers, the subnormal ones included.
func (r *rig) randomBits(t device.DType, rows, cols int) source {
	b := make([]byte, rows*cols*t.Size())
	for i := 0; i < len(b); i += t.Size() {
		for math.IsNaN(decode(t, b[i:])) || math.IsInf(decode(t, b[i:]), 0) || decode(t, b[i:]) == 0 {
			for j := range t.Size() {
				b[i+j] = byte(r.rng.Uint32())
			}
		}
	}
	return newSource(t, b, rows, cols)
}

// checkEmbed packs s with its rows in the given order (nil: as they are) and looks ids up.
func (r *rig) checkEmbed(s source, rows, ids []int32) {
	r.Helper()
	table, want := r.weight(s, rows), newMatrix(len(ids), s.values.cols)
	if rows != nil {
		s = s.pick(rows)
	}
	for i, id := range ids {
		if id < 0 || int(id) >= s.values.rows {
			continue // zeros
		}
		for j, v := range s.values.row(int(id)) {
			want.row(i)[j] = round(r.o.Activations, v)
		}
	}
	for _, l := range []layout{contiguous, strided} {
		out := r.output(r.o.Activations, want.rows, want.cols, l)
		r.dev.Embed(out.Tensor, table, r.ints(ids...).Tensor)
		r.results()
		r.compare(table.String(), out.matrix(), want, matrix{})
	}
}

func int32s(v []int) []int32 {
	out := make([]int32, len(v))
	for i, x := range v {
		out[i] = int32(x)
	}
	return out
}

// judgeRMSNorm allows the rounding of the sum of squares (√d halves, of which the root takes half) and of three more operations.
func judgeRMSNorm(r *rig) {
	t := r.o.Activations
	for _, shape := range rowShapes {
		for _, l := range []layout{contiguous, strided} {
			r.run(fmt.Sprintf("%dx%d strided=%v", shape.rows, shape.cols, l), func(r *rig) {
				const eps = 1e-5
				x := r.normal(t, shape.rows, shape.cols, math.Exp(r.rng.NormFloat64()*2))
				for j := range x.row(shape.rows - 1) {
					x.row(shape.rows - 1)[j] = 0 // only eps keeps this row from dividing by zero
				}
				w := r.normal(device.F32, 1, shape.cols, 1)
				want, tolerance := newMatrix(x.rows, x.cols), newMatrix(x.rows, x.cols)
				relative := (4+math.Sqrt(float64(x.cols)))*0x1p-24 + halfULP(t)
				for i := range x.rows {
					squares := 0.0
					for _, v := range x.row(i) {
						squares += v * v
					}
					norm := 1 / math.Sqrt(squares/float64(x.cols)+float64(float32(eps)))
					for j, v := range x.row(i) {
						want.row(i)[j] = v * norm * w.v[j]
						tolerance.row(i)[j] = math.Abs(want.row(i)[j]) * relative
					}
				}
				weight := r.input(device.F32, w, contiguous)
				in, out, both := r.input(t, x, l), r.output(t, x.rows, x.cols, l), r.inout(t, x, l)
				r.dev.RMSNorm(out.Tensor, in.Tensor, weight.Tensor, eps)
				r.dev.RMSNorm(both.Tensor, both.Tensor, weight.Tensor, eps)
				r.results()
				r.compare("rms_norm", out.matrix(), want, tolerance)
				r.sameBits("in place", both.all(), out.all())
				r.sameBits("each row alone", r.rowsAlone(out, func(i int, out device.Tensor) {
					r.dev.RMSNorm(out, in.row(i), weight.Tensor, eps)
				}), out.all())
			})
		}
	}
}

// rowsAlone runs an op once a row, into a copy of out, and returns the bytes of all rows.
func (r *rig) rowsAlone(out *buffer, op func(i int, out device.Tensor)) []byte {
	r.Helper()
	single := r.output(out.DType, out.Rows, out.Cols, contiguous)
	for i := range out.Rows {
		op(i, single.row(i))
	}
	r.results()
	return single.all()
}

func (r *rig) sameBits(what string, got, want []byte) {
	r.Helper()
	for i := range want {
		if got[i] != want[i] {
			r.Errorf("%s: byte %d of %d is %#x, want %#x: the bits differ", what, i, len(want), got[i], want[i])
			return
		}
	}
}

// judgeSwiGLU allows an exponential that is right to 2⁻²⁰, and the rounding of the result. The gates reach to where it overflows.
func judgeSwiGLU(r *rig) {
	t := r.o.Activations
	for _, shape := range rowShapes {
		for _, l := range []layout{contiguous, strided} {
			r.run(fmt.Sprintf("%dx%d strided=%v", shape.rows, shape.cols, l), func(r *rig) {
				gate, up := r.normal(t, shape.rows, shape.cols, 4), r.normal(t, shape.rows, shape.cols, 1)
				for i, v := range []float64{0, -20, 20, -88, 88, -89, -104, 104, -1e4, 1e4, -3e38, 3e38} {
					if i < len(gate.v) && !math.IsInf(round(t, v), 0) {
						gate.v[i], up.v[i] = round(t, v), 0.5
					}
				}
				want, tolerance := newMatrix(gate.rows, gate.cols), newMatrix(gate.rows, gate.cols)
				for i, v := range gate.v {
					want.v[i] = v / (1 + math.Exp(-v)) * up.v[i]
					tolerance.v[i] = math.Abs(want.v[i])*(0x1p-20+halfULP(t)) + 1e-36 // exp(−v) may be Inf above 88
				}
				in, upper := r.input(t, gate, l), r.input(t, up, l)
				out, both := r.output(t, gate.rows, gate.cols, l), r.inout(t, gate, l)
				r.dev.SwiGLU(out.Tensor, in.Tensor, upper.Tensor)
				r.dev.SwiGLU(both.Tensor, both.Tensor, upper.Tensor)
				r.results()
				r.compare("swiglu", out.matrix(), want, tolerance)
				r.sameBits("in place", both.all(), out.all())
			})
		}
	}
}

// judgeAdd asks for the float32 sum, rounded once more where activations are narrower: equal numbers.
func judgeAdd(r *rig) {
	t := r.o.Activations
	for _, shape := range rowShapes {
		for _, l := range []layout{contiguous, strided} {
			r.run(fmt.Sprintf("%dx%d strided=%v", shape.rows, shape.cols, l), func(r *rig) {
				a, b := r.normal(t, shape.rows, shape.cols, 3), r.normal(t, shape.rows, shape.cols, 0.01)
				want := newMatrix(a.rows, a.cols)
				for i := range want.v {
					want.v[i] = round(t, a.v[i]+b.v[i])
				}
				left, right, out := r.input(t, a, l), r.input(t, b, l), r.output(t, a.rows, a.cols, l)
				ontoLeft, ontoRight := r.inout(t, a, l), r.inout(t, b, l)
				r.dev.Add(out.Tensor, left.Tensor, right.Tensor)
				r.dev.Add(ontoLeft.Tensor, ontoLeft.Tensor, right.Tensor)
				r.dev.Add(ontoRight.Tensor, left.Tensor, ontoRight.Tensor)
				r.results()
				r.compare("add", out.matrix(), want, matrix{})
				r.sameBits("onto a", ontoLeft.all(), out.all())
				r.sameBits("onto b", ontoRight.all(), out.all())
			})
		}
	}
}

func judgeGatherRows(r *rig) {
	t := r.o.Activations
	for _, shape := range rowShapes {
		for _, l := range []layout{contiguous, strided} {
			r.run(fmt.Sprintf("%dx%d strided=%v", shape.rows, shape.cols, l), func(r *rig) {
				x := r.normal(t, shape.rows, shape.cols, 1)
				rows := int32s(r.rng.Perm(shape.rows))
				rows = append(rows[:(len(rows)+1)/2], rows[0]) // some rows, one of them twice
				in, out := r.input(t, x, l), r.output(t, len(rows), shape.cols, l)
				r.dev.GatherRows(out.Tensor, in.Tensor, r.ints(rows...).Tensor)
				r.results()
				r.compare("gather_rows", out.matrix(), x.pick(rows), matrix{})
			})
		}
	}
}
