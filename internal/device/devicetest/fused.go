package devicetest

import (
	"fmt"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
)

// A fused op is judged by the primitives that it stands for, run on the same device from the same inputs: it has to leave their bits, in
// all that is not scratch.

// fusedRows are decode steps, a prefill's chunk, and the ends of a tile; 65 is beyond what a device's kernels for few rows take.
var fusedRows = []int{1, 3, 8, 17, 64, 65}

// promptRows are a prompt's: what a device has kernels of their own for, and not whole tiles of any.
const promptRows = 300

// compareFused runs f with the fused op, while all scratch is still poisoned, then with its composition. f returns the outputs.
func (r *rig) compareFused(f func(fused bool) map[string]*buffer) {
	r.Helper()
	fused, composed := f(true), f(false)
	r.results()
	for what, b := range composed {
		r.sameBits(what, fused[what].all(), b.all())
	}
}

// newNorm draws rows with outliers, and a weight.
func (r *rig) newNorm(n, d int, l layout) device.Norm {
	r.Helper()
	t := r.o.Activations
	return device.Norm{
		X:      r.input(t, r.activations(n, d), l).Tensor,
		W:      r.input(device.F32, r.normal(device.F32, 1, d, 1), contiguous).Tensor,
		Normed: r.output(t, n, d, l).Tensor,
		Eps:    1e-5,
	}
}

// newBias draws a bias, or none.
func (r *rig) newBias(n int, some bool) (none device.Tensor) {
	r.Helper()
	if !some {
		return none
	}
	return r.input(device.F32, r.normal(device.F32, 1, n, 1), contiguous).Tensor
}

// judgeNormMatMul covers the products of MatMul's cases, and the logits: F32 whatever the activations are.
func judgeNormMatMul(r *rig) {
	for name, products := range productCases {
		for i, n := range append(fusedRows, promptRows) {
			l := layout(i%2 == 1)
			r.run(fmt.Sprintf("%s, %d rows", name, n), func(r *rig) { r.judgeNormed(160, n, l, r.o.Activations, products) })
		}
	}
	for _, t := range weightTypes {
		for _, d := range []int{64, 576} {
			if testing.Short() && d > 64 {
				continue
			}
			for _, n := range append(fusedRows, promptRows) {
				r.run(fmt.Sprintf("logits of %v weights, %d rows of %d", t, n, d), func(r *rig) {
					r.judgeNormed(d, n, contiguous, device.F32, []productCase{{dtype: t, rows: 333}})
				})
			}
		}
	}
}

func (r *rig) judgeNormed(d, n int, l layout, out device.DType, cases []productCase) {
	r.Helper()
	norm := r.newNorm(n, d, l)
	products, before := make([]device.Product, len(cases)), make([]matrix, len(cases))
	for i, c := range cases {
		products[i] = device.Product{
			W: r.weight(r.randomSource(c.dtype, c.rows, d), nil), Bias: r.newBias(c.rows, c.bias), Accumulate: c.accumulate,
		}
		before[i] = r.normal(out, n, c.rows, 1)
	}
	r.compareFused(func(fused bool) map[string]*buffer {
		outs := map[string]*buffer{}
		for i, c := range cases {
			b := r.output(out, n, c.rows, l)
			if c.accumulate {
				b = r.inout(out, before[i], l)
			}
			products[i].Out = b.Tensor
			outs[fmt.Sprintf("product %d", i)] = b
		}
		if fused {
			r.dev.NormMatMul(norm, products)
		} else {
			r.dev.RMSNorm(norm.Normed, norm.X, norm.W, norm.Eps)
			r.dev.MatMul(norm.Normed, products)
		}
		return outs
	})
}

// judgeNormGateUp runs every type of weight, and two types together, through shapes whose rows end within a tile and do not.
func judgeNormGateUp(r *rig) {
	cases := []struct {
		gate, up device.DType
		f, d     int
		bias     bool
	}{
		{device.Q4_1, device.Q8_0, 96, 64, false}, {device.BF16, device.BF16, 100, 33, true}, {device.BF16, device.BF16, 512, 2048, false},
	}
	for i, t := range weightTypes {
		c := cases[0]
		c.gate, c.up, c.f, c.d, c.bias = t, t, 96+16*i, 160, i%2 == 0
		cases = append(cases, c)
	}
	t := r.o.Activations
	for _, c := range cases {
		if testing.Short() && c.f*c.d > 100_000 {
			continue
		}
		for i, n := range append(fusedRows, promptRows) {
			l := layout(i%2 == 1)
			r.run(fmt.Sprintf("%v and %v %dx%d, %d rows", c.gate, c.up, c.f, c.d, n), func(r *rig) {
				a := device.NormGateUpArgs{
					Norm: r.newNorm(n, c.d, l), GateBias: r.newBias(c.f, c.bias), UpBias: r.newBias(c.f, c.bias),
					Gate:    r.weight(r.randomSource(c.gate, c.f, c.d), nil),
					Up:      r.weight(r.randomSource(c.up, c.f, c.d), nil),
					Scratch: r.output(t, n, c.f, l).Tensor,
				}
				r.compareFused(func(fused bool) map[string]*buffer {
					out := r.output(t, n, c.f, l)
					a.Out = out.Tensor
					if fused {
						r.dev.NormGateUp(a)
					} else {
						r.dev.RMSNorm(a.Norm.Normed, a.Norm.X, a.Norm.W, a.Norm.Eps)
						r.dev.MatMul(a.Norm.Normed, []device.Product{
							{W: a.Gate, Bias: a.GateBias, Out: a.Out}, {W: a.Up, Bias: a.UpBias, Out: a.Scratch},
						})
						r.dev.SwiGLU(a.Out, a.Out, a.Scratch)
					}
					return map[string]*buffer{"out": out}
				})
			})
		}
	}
}

// judgeNormQKV writes to slots in any order, some −1, among keys and values that must stay.
func judgeNormQKV(r *rig) {
	type qkvCase struct {
		dtype device.DType
		d     int
		heads int // h
		cache cacheCase
		bias  bool
	}
	var cases []qkvCase
	for i, t := range weightTypes {
		cases = append(cases, qkvCase{t, 96, 6, cacheCase{device.KVShape{Heads: 2, HeadDim: 16, BlockSize: 16}, 6}, i%2 == 0})
	}
	cases = append(cases,
		qkvCase{device.BF16, 33, 3, cacheCase{device.KVShape{Heads: 3, HeadDim: 2, BlockSize: 1}, 70}, false},
		qkvCase{device.BF16, 160, 4, cacheCase{device.KVShape{Heads: 2, HeadDim: 80, BlockSize: 32}, 3}, true},
		qkvCase{device.BF16, 576, 9, cacheCase{device.KVShape{Heads: 3, HeadDim: 64, BlockSize: 32}, 4}, false},
		qkvCase{device.BF16, 512, 8, cacheCase{device.KVShape{Heads: 2, HeadDim: 128, BlockSize: 16}, 5}, true},
	)
	for _, c := range cases {
		if testing.Short() && c.d > 500 {
			continue
		}
		for i, n := range fusedRows {
			l := layout(i%2 == 1)
			r.run(fmt.Sprintf("%v %d heads of %d %+v, %d rows", c.dtype, c.heads, c.d, c.cache.shape, n), func(r *rig) {
				for _, cacheType := range r.o.Caches {
					r.judgeQKV(c.dtype, c.d, n, c.heads, c.cache, cacheType, c.bias, l)
				}
			})
		}
	}
}

func (r *rig) judgeQKV(dtype device.DType, d, n, heads int, cache cacheCase, cacheType device.DType, bias bool, l layout) {
	r.Helper()
	t, shape := r.o.Activations, cache.shape
	qCols, kvCols := heads*shape.HeadDim, shape.Heads*shape.HeadDim
	product := func(rows int) device.Product {
		return device.Product{W: r.weight(r.randomSource(dtype, rows, d), nil), Bias: r.newBias(rows, bias)}
	}
	a := device.NormQKVArgs{
		Norm: r.newNorm(n, d, l), Q: product(qCols), K: product(kvCols), V: product(kvCols), Heads: heads, Shape: shape,
		Table: r.input(device.F32, r.ropeTable(n, shape.HeadDim), contiguous).Tensor,
		Slots: r.ints(r.randomSlots(cache, n)...).Tensor,
	}
	before := r.normal(cacheType, cache.blocks, shape.Elements(), 1)
	r.compareFused(func(fused bool) map[string]*buffer {
		q, k, v := r.output(t, n, qCols, l), r.inout(cacheType, before, contiguous), r.inout(cacheType, before, contiguous)
		scratch := r.output(t, n, 2*kvCols, l).Tensor
		a.Q.Out, a.K.Out, a.V.Out = q.Tensor, scratch.Columns(0, kvCols), scratch.Columns(kvCols, 2*kvCols)
		a.KCache, a.VCache = k.Tensor, v.Tensor
		if fused {
			r.dev.NormQKV(a)
		} else {
			r.dev.RMSNorm(a.Norm.Normed, a.Norm.X, a.Norm.W, a.Norm.Eps)
			r.dev.MatMul(a.Norm.Normed, []device.Product{a.Q, a.K, a.V})
			r.dev.Rope(a.Q.Out, a.Table, heads)
			r.dev.Rope(a.K.Out, a.Table, shape.Heads)
			r.dev.StoreKV(a.Store())
		}
		return map[string]*buffer{"q": q, "keys": k, "values": v}
	})
}
