package devicetest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
)

// denseCase is the sizes of a layer between two attentions.
type denseCase struct {
	dtype  device.DType // of the weights
	d, f   int
	heads  int
	cache  cacheCase
	bias   bool
	last   bool         // layer
	middle device.DType // of gate, if not dtype
}

var denseCases = []denseCase{
	{dtype: device.BF16, d: 128, f: 192, heads: 4, cache: paged(2, 32, 16, 16)},
	{dtype: device.BF16, d: 136, f: 200, heads: 3, cache: paged(3, 40, 16, 12), bias: true},
	{dtype: device.BF16, d: 33, f: 100, heads: 3, cache: paged(3, 2, 1, 80), bias: true},
	{dtype: device.BF16, d: 96, f: 36, heads: 2, cache: paged(1, 16, 16, 12), last: true},
	{dtype: device.BF16, d: 576, f: 1536, heads: 9, cache: paged(3, 64, 32, 4)},
	{dtype: device.BF16, d: 2048, f: 1600, heads: 16, cache: paged(2, 128, 32, 4)},
	{dtype: device.F32, d: 128, f: 192, heads: 4, cache: paged(2, 32, 16, 12)},
	{dtype: device.Q4_0, d: 128, f: 192, heads: 4, cache: paged(2, 32, 16, 12), middle: device.Q8_0},
	{dtype: device.F16, d: 160, f: 96, heads: 4, cache: paged(4, 16, 8, 24), bias: true, last: true},
}

// largestBatch is of the cases that have so many slots.
const largestBatch = 256

func paged(kvHeads, headDim, blockSize, blocks int) cacheCase {
	return cacheCase{device.KVShape{Heads: kvHeads, HeadDim: headDim, BlockSize: blockSize}, blocks}
}

// judgeDense takes every number of rows that a fused form may be for, and those of the other fused ops.
func judgeDense(r *rig) {
	rows := fusedRows
	if r.o.FusedDense {
		rows = []int{1, 2, 3, 4, 5, 6, 7, 8}
		for _, n := range append(fusedRows, largestBatch) {
			if !slices.Contains(rows, n) {
				rows = append(rows, n)
			}
		}
	}
	for _, c := range denseCases {
		if few(r) && c.d*c.f > 100_000 || c.dtype == device.F32 && r.o.Activations != device.F32 {
			continue
		}
		for _, n := range rows {
			if n > c.cache.slots() {
				continue
			}
			r.run(fmt.Sprintf("%+v, %d rows", c, n), func(r *rig) {
				for _, cacheType := range r.o.Caches {
					r.judgeDense(c, n, cacheType, contiguous, false)
				}
				r.judgeDense(c, n, r.o.Caches[0], strided, false)
			})
		}
		if r.info.Capture {
			r.run(fmt.Sprintf("%+v, a graph", c), func(r *rig) { r.judgeDense(c, 2, r.o.Caches[0], contiguous, true) })
		}
	}
}

// few says that the largest cases are left out.
func few(r *rig) bool { return testing.Short() || !r.o.FusedDense }

// judgeDense runs the op once, or thrice from a graph: what is left over from a launch must not be taken for the next one's.
func (r *rig) judgeDense(c denseCase, n int, cacheType device.DType, l layout, graph bool) {
	r.Helper()
	t, shape := r.o.Activations, c.cache.shape
	qCols, kvCols := c.heads*shape.HeadDim, shape.Heads*shape.HeadDim
	product := func(rows, cols int) device.Product {
		return device.Product{W: r.weight(r.randomSource(c.dtype, rows, cols), nil), Bias: r.newBias(rows, c.bias)}
	}
	gate := c.dtype
	if c.middle != 0 {
		gate = c.middle
	}
	a := device.DenseArgs{
		Attended: r.input(t, r.activations(n, qCols), l).Tensor,
		O:        product(c.d, qCols),
		MLP: device.NormGateUpArgs{
			Norm: r.newNorm(n, c.d, l), GateBias: r.newBias(c.f, c.bias), UpBias: r.newBias(c.f, c.bias),
			Gate: r.weight(r.randomSource(gate, c.f, c.d), nil), Up: r.weight(r.randomSource(c.dtype, c.f, c.d), nil),
			Out: r.output(t, n, c.f, l).Tensor, Scratch: r.output(t, n, c.f, l).Tensor,
		},
		Down: product(c.d, c.f),
	}
	a.O.Accumulate, a.Down.Accumulate = true, true
	next := device.NormQKVArgs{
		Norm: r.newNorm(n, c.d, l), Q: product(qCols, c.d), K: product(kvCols, c.d), V: product(kvCols, c.d), Heads: c.heads, Shape: shape,
		Table: r.input(device.F32, r.ropeTable(n, shape.HeadDim), contiguous).Tensor,
		Slots: r.ints(r.randomSlots(c.cache, n)...).Tensor,
	}
	if !c.last {
		a.Next = &next
	}
	stream, cached := r.activations(n, c.d), r.normal(cacheType, c.cache.blocks, shape.Elements(), 1)
	r.compareFused(func(fused bool) map[string]*buffer {
		x := r.inout(t, stream, l)
		q, k, v := r.output(t, n, qCols, l), r.inout(cacheType, cached, contiguous), r.inout(cacheType, cached, contiguous)
		scratch := r.output(t, n, 2*kvCols, l).Tensor
		a.O.Out, a.MLP.Norm.X, a.Down.Out, next.Norm.X = x.Tensor, x.Tensor, x.Tensor, x.Tensor
		next.Q.Out, next.K.Out, next.V.Out = q.Tensor, scratch.Columns(0, kvCols), scratch.Columns(kvCols, 2*kvCols)
		next.KCache, next.VCache = k.Tensor, v.Tensor
		switch {
		case graph && fused:
			g, err := r.dev.Capture(func() { r.dev.Dense(a) })
			if err != nil {
				r.Fatalf("capture: %v", err)
			}
			r.Cleanup(g.Close)
			r.dev.Launch(g)
			r.dev.Launch(g)
			r.dev.Launch(g)
		case graph:
			r.composeDense(a)
			r.composeDense(a)
			r.composeDense(a)
		case fused:
			r.dev.Dense(a)
		default:
			r.composeDense(a)
		}
		return map[string]*buffer{"x": x, "q": q, "keys": k, "values": v}
	})
}

// composeDense does in primitives what Dense stands for.
func (r *rig) composeDense(a device.DenseArgs) {
	r.Helper()
	r.dev.MatMul(a.Attended, []device.Product{a.O})
	mlp := a.MLP
	r.dev.RMSNorm(mlp.Norm.Normed, mlp.Norm.X, mlp.Norm.W, mlp.Norm.Eps)
	r.dev.MatMul(mlp.Norm.Normed, []device.Product{
		{W: mlp.Gate, Bias: mlp.GateBias, Out: mlp.Out}, {W: mlp.Up, Bias: mlp.UpBias, Out: mlp.Scratch},
	})
	r.dev.SwiGLU(mlp.Out, mlp.Out, mlp.Scratch)
	r.dev.MatMul(mlp.Out, []device.Product{a.Down})
	if a.Next == nil {
		return
	}
	next := *a.Next
	r.dev.RMSNorm(next.Norm.Normed, next.Norm.X, next.Norm.W, next.Norm.Eps)
	r.dev.MatMul(next.Norm.Normed, []device.Product{next.Q, next.K, next.V})
	r.dev.Rope(next.Q.Out, next.Table, next.Heads)
	r.dev.Rope(next.K.Out, next.Table, next.Shape.Heads)
	r.dev.StoreKV(next.Store())
}
