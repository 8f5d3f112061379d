package devicetest

import (
	"bytes"
	"fmt"
	"math"

	"github.com/inferno-serve/inferno/internal/device"
)

// judgeRopeTable allows one unit in the last place of the scale: the angle is right to far below that, also at large positions.
func judgeRopeTable(r *rig) {
	for _, c := range []struct {
		n, dim int
		scale  float32
	}{{1, 2, 1}, {3, 16, 1}, {17, 64, 1}, {5, 128, 1.25}, {64, 80, 0.5}} {
		r.run(fmt.Sprintf("%d of %d", c.n, c.dim), func(r *rig) {
			pos, freq := make([]int32, c.n), newMatrix(1, c.dim/2)
			for i := range pos {
				pos[i] = int32(r.rng.IntN(1 << (1 + r.rng.IntN(20))))
			}
			pos[0] = 0
			for i := range freq.v {
				freq.v[i] = round(device.F32, math.Pow(10_000, -2*float64(i)/float64(c.dim)))
			}
			want, tolerance := newMatrix(c.n, c.dim), newMatrix(c.n, c.dim)
			for i, p := range pos {
				for j, f := range freq.v {
					sin, cos := math.Sincos(float64(p) * f)
					want.row(i)[j], want.row(i)[c.dim/2+j] = float64(c.scale)*cos, float64(c.scale)*sin
				}
			}
			for i := range tolerance.v {
				tolerance.v[i] = 0x1p-23 * float64(c.scale)
			}
			for _, l := range []layout{contiguous, strided} {
				table := r.output(device.F32, c.n, c.dim, l)
				r.dev.RopeTable(table.Tensor, r.ints(pos...).Tensor, r.input(device.F32, freq, contiguous).Tensor, c.scale)
				r.results()
				r.compare("rope_table", table.matrix(), want, tolerance)
			}
		})
	}
}

// ropeTable draws a table of random angles.
func (r *rig) ropeTable(n, dim int) matrix {
	m := newMatrix(n, dim)
	for i := range n {
		for j := range dim / 2 {
			sin, cos := math.Sincos(r.rng.Float64() * 2 * math.Pi)
			m.row(i)[j], m.row(i)[dim/2+j] = round(device.F32, cos), round(device.F32, sin)
		}
	}
	return m
}

// judgeRope allows the rounding of two products and their sum.
func judgeRope(r *rig) {
	t := r.o.Activations
	for _, c := range []struct{ n, heads, dim int }{{1, 1, 2}, {3, 2, 16}, {1, 9, 64}, {33, 5, 32}, {7, 3, 80}, {4, 8, 128}} {
		r.run(fmt.Sprintf("%d rows %d heads of %d", c.n, c.heads, c.dim), func(r *rig) {
			table, x := r.ropeTable(c.n, c.dim), r.normal(t, c.n, c.heads*c.dim, 2)
			want, tolerance := rotate(x, table, c.heads, t)
			for _, l := range []layout{contiguous, strided} {
				b := r.inout(t, x, l)
				r.dev.Rope(b.Tensor, r.input(device.F32, table, l).Tensor, c.heads)
				r.results()
				r.compare("rope", b.matrix(), want, tolerance)
			}
		})
	}
}

// rotate turns the neighbours (2i, 2i+1) of each head by table's angle i.
func rotate(x, table matrix, heads int, t device.DType) (want, tolerance matrix) {
	want, tolerance = newMatrix(x.rows, x.cols), newMatrix(x.rows, x.cols)
	dim := table.cols
	for i := range x.rows {
		for at := 0; at < heads*dim; at += 2 {
			a, b := x.row(i)[at], x.row(i)[at+1]
			cos, sin := table.row(i)[at%dim/2], table.row(i)[dim/2+at%dim/2]
			want.row(i)[at], want.row(i)[at+1] = a*cos-b*sin, a*sin+b*cos
			for j, terms := range []float64{math.Abs(a*cos) + math.Abs(b*sin), math.Abs(a*sin) + math.Abs(b*cos)} {
				tolerance.row(i)[at+j] = 2*0x1p-24*terms + halfULP(t)*math.Abs(want.row(i)[at+j])
			}
		}
	}
	return want, tolerance
}

// cacheCase is a geometry of paged keys and values.
type cacheCase struct {
	shape  device.KVShape
	blocks int
}

func (c cacheCase) slots() int { return c.blocks * c.shape.BlockSize }

// at is where element i of KV head `head` of a slot lies: block and offset in the block.
func (c cacheCase) at(slot, head, i int) (block, offset int) {
	p, k := c.shape.BlockSize, c.shape.HeadDim
	return slot / p, (head*p+slot%p)*k + i
}

// store writes rows of keys or values to their slots in cache, which has type t.
func (c cacheCase) store(cache matrix, t device.DType, rows matrix, slots []int32) {
	for i, slot := range slots {
		if slot < 0 {
			continue
		}
		for j, v := range rows.row(i) {
			block, offset := c.at(int(slot), j/c.shape.HeadDim, j%c.shape.HeadDim)
			cache.row(block)[offset] = round(t, v)
		}
	}
}

var storeCases = []struct {
	cache cacheCase
	n     int
}{
	{cacheCase{device.KVShape{Heads: 1, HeadDim: 2, BlockSize: 1}, 3}, 2},
	{cacheCase{device.KVShape{Heads: 2, HeadDim: 16, BlockSize: 16}, 4}, 1},
	{cacheCase{device.KVShape{Heads: 3, HeadDim: 64, BlockSize: 16}, 5}, 40},
	{cacheCase{device.KVShape{Heads: 2, HeadDim: 80, BlockSize: 32}, 3}, 70},
	{cacheCase{device.KVShape{Heads: 8, HeadDim: 128, BlockSize: 16}, 2}, 9},
	{cacheCase{device.KVShape{Heads: 2, HeadDim: 64, BlockSize: 64}, 9}, 515},
}

// randomSlots draws a different slot for each of n tokens; every third is −1.
func (r *rig) randomSlots(c cacheCase, n int) []int32 {
	slots := int32s(r.rng.Perm(c.slots())[:n])
	for i := 2; i < n; i += 3 {
		slots[i] = -1
	}
	return slots
}

// judgeStoreKV asks for the keys and values rounded to the caches' type, and for every other slot as it was.
func judgeStoreKV(r *rig) {
	t := r.o.Activations
	for _, cacheType := range r.o.Caches {
		for _, c := range storeCases {
			r.run(fmt.Sprintf("%v %+v", cacheType, c.cache.shape), func(r *rig) {
				cols := c.cache.shape.Heads * c.cache.shape.HeadDim
				key, value := r.normal(t, c.n, cols, 1), r.normal(t, c.n, cols, 1)
				for i, v := range []float64{0x1p-24, 0x1.8p-24, 0x1.1p-15, 1 + 0x1p-11, 1 + 0x3p-11, -65503, 0} { // ties, subnormal
					if i < cols {
						key.v[i] = round(t, v)
					}
				}
				slots := r.randomSlots(c.cache, c.n)
				kBefore := r.normal(cacheType, c.cache.blocks, c.cache.shape.Elements(), 1)
				vBefore := r.normal(cacheType, c.cache.blocks, c.cache.shape.Elements(), 1)
				for _, l := range []layout{contiguous, strided} {
					a := device.StoreKVArgs{
						Key: r.input(t, key, l).Tensor, Value: r.input(t, value, l).Tensor,
						Slots: r.ints(slots...).Tensor, Shape: c.cache.shape,
					}
					k, v := r.inout(cacheType, kBefore, l), r.inout(cacheType, vBefore, l)
					a.KCache, a.VCache = k.Tensor, v.Tensor
					r.dev.StoreKV(a)
					r.results()
					kAfter, vAfter := kBefore.clone(), vBefore.clone()
					c.cache.store(kAfter, cacheType, key, slots)
					c.cache.store(vAfter, cacheType, value, slots)
					r.compare("keys", k.matrix(), kAfter, matrix{})
					r.compare("values", v.matrix(), vAfter, matrix{})
				}
			})
		}
	}
}

// judgeRopeStoreKV asks for the bits that Rope on q and key, then StoreKV, leave.
func judgeRopeStoreKV(r *rig) {
	t := r.o.Activations
	for _, cacheType := range r.o.Caches {
		for _, c := range storeCases {
			r.run(fmt.Sprintf("%v %+v", cacheType, c.cache.shape), func(r *rig) {
				shape, heads := c.cache.shape, 3*c.cache.shape.Heads
				cols := shape.Heads * shape.HeadDim
				q, key, value := r.normal(t, c.n, 3*cols, 1), r.normal(t, c.n, cols, 1), r.normal(t, c.n, cols, 1)
				angles := r.ropeTable(c.n, shape.HeadDim)
				before := r.normal(cacheType, c.cache.blocks, shape.Elements(), 1)
				slots := r.ints(r.randomSlots(c.cache, c.n)...)
				for _, l := range []layout{contiguous, strided} {
					table := r.input(device.F32, angles, contiguous)
					var outs [2][]*buffer
					for i, fused := range []bool{false, true} {
						qs, keys := r.inout(t, q, l), r.inout(t, key, l)
						k, v := r.inout(cacheType, before, contiguous), r.inout(cacheType, before, contiguous)
						a := device.StoreKVArgs{
							Key: keys.Tensor, Value: r.input(t, value, l).Tensor, Slots: slots.Tensor,
							KCache: k.Tensor, VCache: v.Tensor, Shape: shape,
						}
						if fused {
							r.dev.RopeStoreKV(qs.Tensor, table.Tensor, heads, a)
						} else {
							r.dev.Rope(qs.Tensor, table.Tensor, heads)
							r.dev.Rope(keys.Tensor, table.Tensor, shape.Heads)
							r.dev.StoreKV(a)
						}
						outs[i] = []*buffer{qs, k, v}
					}
					r.results()
					for i, what := range []string{"q", "keys", "values"} {
						r.sameBits(what, outs[1][i].all(), outs[0][i].all())
					}
					if bytes.Equal(outs[0][0].all(), outs[0][0].before()) {
						r.Error("q was not rotated")
					}
				}
			})
		}
	}
}
