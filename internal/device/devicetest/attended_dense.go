package devicetest

import (
	"fmt"

	"github.com/inferno-serve/inferno/internal/device"
)

// attendedShapes are layers whose attention may hand its rows to Dense before it ends.
var attendedShapes = []struct {
	d, f, heads int
	shape       device.KVShape
}{
	{576, 1536, 9, device.KVShape{Heads: 3, HeadDim: 64, BlockSize: 32}},
	{256, 320, 4, device.KVShape{Heads: 2, HeadDim: 128, BlockSize: 16}},
	{256, 320, 32, device.KVShape{Heads: 4, HeadDim: 64, BlockSize: 16}},  // too many to hand over
	{128, 160, 32, device.KVShape{Heads: 8, HeadDim: 128, BlockSize: 16}}, // so many that a block asks for a few of them first
}

// judgeAttendedDense enqueues layers of Attention and Dense as a decode step does, and replays them from a graph: the results are those of
// Dense's composition behind an attention that has ended. A row is of no sequence; lengths change from step to step; and in the second
// layer attention runs twice, on other queries first, so that rows of an earlier attention must not be taken for those of the last.
func judgeAttendedDense(r *rig) {
	for _, s := range attendedShapes {
		for _, sequences := range []int{1, 3, 7} {
			for _, context := range []int{40, 1100} {
				if few(r) && (context > 1000 || s.d*s.f > 100_000) {
					continue
				}
				r.run(fmt.Sprintf("d%d k%d, %d sequences of up to %d", s.d, s.shape.HeadDim, sequences, context), func(r *rig) {
					r.judgeAttendedDense(s.d, s.f, s.heads, s.shape, sequences, context)
				})
			}
		}
	}
}

func (r *rig) judgeAttendedDense(dim, ffn, heads int, shape device.KVShape, sequences, context int) {
	r.Helper()
	t, n := r.o.Activations, sequences
	if sequences > 1 {
		n++ // a row of no sequence
	}
	qCols, kvCols := heads*shape.HeadDim, shape.Heads*shape.HeadDim
	steps := [2]decodeStep{r.decodeStep(shape, sequences, context), r.decodeStep(shape, sequences, context)}
	inputs := make([]*buffer, 3)
	for i, m := range steps[0] {
		if i == 0 {
			m = padSlots(m, n)
		}
		inputs[i] = r.input(device.I32, m, contiguous)
	}
	starts := make([]int32, sequences+1)
	for i := range starts {
		starts[i] = int32(i)
	}
	queryStart := r.ints(starts...).Tensor
	product := func(rows, cols int, out device.Tensor, accumulate bool) device.Product {
		return device.Product{W: r.weight(r.randomSource(device.BF16, rows, cols), nil), Out: out, Accumulate: accumulate}
	}
	var kept []*buffer
	held := func(rows, cols int) device.Tensor {
		b := r.inout(t, r.normal(t, rows, cols, 1), contiguous)
		kept = append(kept, b)
		return b.Tensor
	}
	x, attended, q, other := held(n, dim), held(n, qCols), held(n, qCols), held(n, qCols)
	norm := func() device.Norm {
		return device.Norm{X: x, W: r.input(device.F32, r.normal(device.F32, 1, dim, 1), contiguous).Tensor,
			Normed: r.output(t, n, dim, contiguous).Tensor, Eps: 1e-5}
	}
	table := r.input(device.F32, r.ropeTable(n, shape.HeadDim), contiguous).Tensor
	var attentions []device.AttentionArgs
	var denses []device.DenseArgs
	for i := range decodeLayers {
		kCache, vCache := held(steps[0][1].rows*steps[0][1].cols, shape.Elements()), held(steps[0][1].rows*steps[0][1].cols, shape.Elements())
		attentions = append(attentions, device.AttentionArgs{
			Out: attended, Q: q, KCache: kCache, VCache: vCache, BlockTable: inputs[1].Tensor, QueryStart: queryStart, KVLen: inputs[2].Tensor,
			Heads: heads, Shape: shape, Scale: 0.1,
		})
		if i > 0 {
			denses[i-1].Next = &device.NormQKVArgs{
				Norm: norm(), Q: product(qCols, dim, q, false), K: product(kvCols, dim, r.output(t, n, kvCols, contiguous).Tensor, false),
				V: product(kvCols, dim, r.output(t, n, kvCols, contiguous).Tensor, false), Heads: heads, Table: table, Slots: inputs[0].Tensor,
				KCache: kCache, VCache: vCache, Shape: shape,
			}
		}
		gated, up := r.output(t, n, ffn, contiguous).Tensor, r.output(t, n, ffn, contiguous).Tensor
		denses = append(denses, device.DenseArgs{
			Attended: attended, O: product(dim, qCols, x, true), Down: product(dim, ffn, x, true),
			MLP: device.NormGateUpArgs{
				Norm: norm(), Gate: r.weight(r.randomSource(device.BF16, ffn, dim), nil), Up: r.weight(r.randomSource(device.BF16, ffn, dim), nil),
				Out: gated, Scratch: up,
			},
		})
	}
	record := func(dense func(device.DenseArgs)) {
		for i, a := range attentions {
			if i == 1 {
				first := a
				first.Q = other
				r.dev.Attention(first)
			}
			r.dev.Attention(a)
			dense(denses[i])
		}
	}
	run := func(step int, start func()) (all []byte) {
		for i, b := range inputs {
			m := steps[step][i]
			if i == 0 {
				m = padSlots(m, n)
			}
			r.update(b, m)
		}
		r.restore(kept...)
		start()
		r.results()
		for _, b := range kept {
			all = append(all, b.all()...)
		}
		return all
	}
	var want [2][]byte
	for i := range steps {
		want[i] = run(i, func() { record(func(a device.DenseArgs) { r.sync(); r.composeDense(a) }) })
		r.sameBits(fmt.Sprintf("step %d, op by op", i), run(i, func() { record(r.dev.Dense) }), want[i])
	}
	if !r.info.Capture {
		return
	}
	graph, err := r.dev.Capture(func() { record(r.dev.Dense) })
	if err != nil {
		r.Fatalf("capture: %v", err)
	}
	defer graph.Close()
	for _, i := range []int{1, 0, 0, 1, 0, 1} {
		r.sameBits(fmt.Sprintf("step %d, recorded", i), run(i, func() { r.dev.Launch(graph) }), want[i])
	}
}

// padSlots is a step's slots and −1 for each row of no sequence.
func padSlots(slots matrix, n int) matrix {
	padded := newMatrix(1, n)
	for i := range padded.v {
		padded.v[i] = -1
	}
	copy(padded.v, slots.v)
	return padded
}
