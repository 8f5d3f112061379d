package devicetest

import (
	"errors"
	"fmt"

	"github.com/inferno-serve/inferno/internal/device"
)

// decodeCases are batches of so many sequences that decode, each of up to `context` tokens.
var decodeCases = []struct {
	heads              int
	shape              device.KVShape
	sequences, context int
}{
	{8, device.KVShape{Heads: 2, HeadDim: 128, BlockSize: 16}, 2, 700},
	{9, device.KVShape{Heads: 3, HeadDim: 64, BlockSize: 32}, 5, 300},
	{8, device.KVShape{Heads: 4, HeadDim: 128, BlockSize: 16}, 16, 100},
	{8, device.KVShape{Heads: 4, HeadDim: 64, BlockSize: 32}, 40, 70},
}

// judgeDecode enqueues the ops around the caches of three layers as a decode step does, each behind the other, and records and replays them:
// the results are those of ops that each begin when all before has ended. Lengths and block tables change from step to step, and a step
// begins with other keys and values where it stores its own.
func judgeDecode(r *rig) {
	for _, c := range decodeCases {
		r.run(fmt.Sprintf("h%d g%d k%d p%d, %d sequences", c.heads, c.shape.Heads, c.shape.HeadDim, c.shape.BlockSize, c.sequences),
			func(r *rig) {
				steps := [2]decodeStep{r.decodeStep(c.shape, c.sequences, c.context), r.decodeStep(c.shape, c.sequences, c.context)}
				d := r.newDecode(c.heads, c.shape, steps[0])
				var want [2][]byte
				for i := range steps {
					want[i] = d.run(r, steps[i], func() { d.record(func() { r.update(d.inputs[2], steps[i][2]); r.sync() }) })
				}
				launch := func() { d.record(func() {}) }
				for range 2 {
					for i := range steps {
						r.sameBits(fmt.Sprintf("step %d, op by op", i), d.run(r, steps[i], launch), want[i])
					}
				}
				graph, err := r.dev.Capture(launch)
				if errors.Is(err, device.ErrUnavailable) {
					return
				}
				if err != nil {
					r.Fatalf("capture: %v", err)
				}
				defer graph.Close()
				for _, i := range []int{1, 0, 0, 1, 0, 1} {
					r.sameBits(fmt.Sprintf("step %d, recorded", i), d.run(r, steps[i], func() { r.dev.Launch(graph) }), want[i])
				}
			})
	}
}

// decodeStep is a step's slots, block tables and lengths.
type decodeStep [3]matrix

func (r *rig) decodeStep(shape device.KVShape, sequences, context int) decodeStep {
	p := shape.BlockSize
	width := (context + p - 1) / p
	free := r.rng.Perm(sequences * width)
	var slots, lengths []int32
	tables := newMatrix(sequences, width)
	for i := range sequences {
		length := 1 + r.rng.IntN(context)
		for j := range width {
			tables.row(i)[j] = float64(free[i*width+j])
		}
		last := int(tables.row(i)[(length-1)/p])
		slots, lengths = append(slots, int32(last*p+(length-1)%p)), append(lengths, int32(length))
	}
	return decodeStep{intMatrix(1, slots), tables, intMatrix(1, lengths)}
}

const decodeLayers = 3

// decodeOps is the ops and tensors of such steps.
type decodeOps struct {
	inputs [3]*buffer // as decodeStep has them
	kept   []*buffer  // what a step changes and the next one begins with as it was
	outs   []*buffer
	record func(before func()) // enqueues the ops, and calls `before` before each
}

func (r *rig) newDecode(heads int, shape device.KVShape, step decodeStep) *decodeOps {
	r.Helper()
	t, n := r.o.Activations, step[0].cols
	d := &decodeOps{}
	for i, m := range step {
		d.inputs[i] = r.input(device.I32, m, contiguous)
	}
	starts := make([]int32, n+1)
	for i := range starts {
		starts[i] = int32(i)
	}
	queryStart := r.ints(starts...).Tensor
	angles := r.input(device.F32, r.normal(device.F32, n, shape.HeadDim, 1), contiguous).Tensor
	input := func(t device.DType, rows, cols int) device.Tensor {
		b := r.inout(t, r.normal(t, rows, cols, 1), contiguous)
		d.kept = append(d.kept, b)
		return b.Tensor
	}
	var stores []device.StoreKVArgs
	var attentions []device.AttentionArgs
	for range decodeLayers {
		s := device.StoreKVArgs{
			Key: input(t, n, shape.Heads*shape.HeadDim), Value: input(t, n, shape.Heads*shape.HeadDim), Slots: d.inputs[0].Tensor,
			KCache: input(r.o.Caches[0], step[1].rows*step[1].cols, shape.Elements()),
			VCache: input(r.o.Caches[0], step[1].rows*step[1].cols, shape.Elements()), Shape: shape,
		}
		out := r.output(t, n, heads*shape.HeadDim, contiguous)
		d.outs = append(d.outs, out)
		stores = append(stores, s)
		attentions = append(attentions, device.AttentionArgs{
			Out: out.Tensor, Q: input(t, n, heads*shape.HeadDim), KCache: s.KCache, VCache: s.VCache, BlockTable: d.inputs[1].Tensor,
			QueryStart: queryStart, KVLen: d.inputs[2].Tensor, Heads: heads, Shape: shape, Scale: 0.1,
		})
	}
	d.record = func(before func()) {
		for i := range stores {
			before()
			r.dev.RopeStoreKV(attentions[i].Q, angles, heads, stores[i])
			before()
			r.dev.Attention(attentions[i])
		}
	}
	return d
}

// run is what the ops that `start` starts write in that step.
func (d *decodeOps) run(r *rig, step decodeStep, start func()) (all []byte) {
	r.Helper()
	for i, b := range d.inputs {
		r.update(b, step[i])
	}
	r.restore(d.kept...)
	r.restore(d.outs...)
	start()
	r.results()
	for _, b := range d.outs {
		all = append(all, b.all()...)
	}
	return all
}
