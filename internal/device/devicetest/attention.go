package devicetest

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
)

// span is one sequence of a ragged batch: its last `rows` positions ask, of `length` in all.
type span struct{ rows, length int }

// attentionCase is a model's attention and a batch of sequences.
type attentionCase struct {
	heads int
	shape device.KVShape
	spans []span
	// padding is how many rows at the end of q belong to no sequence, as in the bucket of a captured graph.
	padding int
}

func (c attentionCase) String() string {
	spans := fmt.Sprint(c.spans)
	if len(c.spans) > 8 {
		spans = fmt.Sprintf("%d sequences", len(c.spans))
	}
	return fmt.Sprintf("h%d g%d k%d p%d %s", c.heads, c.shape.Heads, c.shape.HeadDim, c.shape.BlockSize, spans)
}

var attentionCases = []attentionCase{
	{1, device.KVShape{Heads: 1, HeadDim: 16, BlockSize: 16}, []span{{1, 1}}, 0},
	{2, device.KVShape{Heads: 2, HeadDim: 16, BlockSize: 16}, []span{{17, 17}, {1, 16}, {1, 17}, {3, 33}}, 0},
	{4, device.KVShape{Heads: 2, HeadDim: 32, BlockSize: 32}, []span{{1, 300}, {40, 40}, {1, 31}, {5, 133}}, 0},
	{9, device.KVShape{Heads: 3, HeadDim: 64, BlockSize: 16}, []span{{33, 250}, {1, 1}, {1, 64}, {1, 65}, {16, 16}}, 0},
	{8, device.KVShape{Heads: 2, HeadDim: 64, BlockSize: 32}, []span{{1, 7}, {1, 129}, {2, 2}, {0, 0}, {1, 255}}, 3},
	{6, device.KVShape{Heads: 2, HeadDim: 80, BlockSize: 16}, []span{{7, 100}, {1, 47}, {1, 48}, {1, 49}}, 0},
	{8, device.KVShape{Heads: 1, HeadDim: 128, BlockSize: 16}, []span{{1, 80}, {20, 60}, {1, 256}}, 0},
	{16, device.KVShape{Heads: 4, HeadDim: 128, BlockSize: 32}, []span{{1, 3}, {64, 64}}, 1},
	{8, device.KVShape{Heads: 2, HeadDim: 128, BlockSize: 16}, []span{{200, 377}, {1, 40}, {129, 129}}, 0},
	{3, device.KVShape{Heads: 1, HeadDim: 64, BlockSize: 8}, []span{{260, 300}, {70, 333}}, 1},
	{6, device.KVShape{Heads: 3, HeadDim: 64, BlockSize: 16}, []span{{1, 2047}, {2, 1030}}, 0},
	{4, device.KVShape{Heads: 2, HeadDim: 128, BlockSize: 64}, []span{{200, 377}, {1, 40}, {129, 129}, {70, 126}}, 0},
	{3, device.KVShape{Heads: 1, HeadDim: 64, BlockSize: 64}, []span{{260, 300}, {1, 64}, {70, 333}}, 1},
	{8, device.KVShape{Heads: 2, HeadDim: 128, BlockSize: 16}, decodeSpans(12, 340), 0},
	{6, device.KVShape{Heads: 2, HeadDim: 64, BlockSize: 32}, decodeSpans(40, 130), 3},
	{32, device.KVShape{Heads: 2, HeadDim: 128, BlockSize: 64}, decodeSpans(9, 200), 0},
	{9, device.KVShape{Heads: 3, HeadDim: 64, BlockSize: 16}, append(decodeSpans(20, 160), span{30, 90}), 0},
	{2, device.KVShape{Heads: 1, HeadDim: 256, BlockSize: 16}, []span{{1, 90}, {5, 40}}, 0},
}

var largeAttentionCases = []attentionCase{
	{4, device.KVShape{Heads: 1, HeadDim: 128, BlockSize: 64}, []span{{1, 8192}, {2, 8191}}, 0},
	{2, device.KVShape{Heads: 1, HeadDim: 64, BlockSize: 64}, []span{{100, 8192}}, 0},
	{4, device.KVShape{Heads: 1, HeadDim: 128, BlockSize: 64}, append(decodeSpans(255, 200), span{1, 8192}), 0},
}

// decodeSpans is a decode step of n sequences of up to `most` tokens, of all lengths.
func decodeSpans(n, most int) []span {
	spans := make([]span, n)
	for i := range spans {
		spans[i] = span{1, 1 + i*i*37%most}
	}
	return spans
}

// attentionBatch is a case's tensors on the host. Blocks are shuffled; slots that no sequence holds are NaN, block table entries
// beyond a sequence's blocks −1.
type attentionBatch struct {
	attentionCase
	q, k, v    matrix // k and v: [B, g·p·k]
	blockTable matrix // [b, max blocks]
	queryStart []int32
	kvLen      []int32
	scale      float32
}

func judgeAttention(r *rig) {
	cases := attentionCases
	if r.o.Large {
		cases = slices.Concat(cases, largeAttentionCases)
	}
	for i, c := range cases {
		if testing.Short() && slices.ContainsFunc(c.spans, func(s span) bool { return s.length > 1000 }) {
			continue
		}
		for _, cacheType := range r.o.Caches {
			r.run(fmt.Sprintf("%v %v", cacheType, c), func(r *rig) {
				batch := r.attentionBatch(c, cacheType)
				want, tolerance := r.referenceAttention(batch, cacheType)
				out := r.attend(batch, cacheType, layout(i%2 == 1))
				asked := int(batch.queryStart[len(c.spans)])
				r.compare("attention", out.matrix().top(asked), want, tolerance)
				r.judgeSpansAlone(batch, cacheType, out)
			})
		}
	}
}

func (r *rig) attentionBatch(c attentionCase, cacheType device.DType) attentionBatch {
	p, g, k := c.shape.BlockSize, c.shape.Heads, c.shape.HeadDim
	b := attentionBatch{attentionCase: c, queryStart: []int32{0}, scale: float32(1 / math.Sqrt(float64(k)))}
	blocks, widest := 0, 1
	for _, s := range c.spans {
		b.queryStart = append(b.queryStart, b.queryStart[len(b.queryStart)-1]+int32(s.rows))
		b.kvLen = append(b.kvLen, int32(s.length))
		blocks += (s.length + p - 1) / p
		widest = max(widest, (s.length+p-1)/p+1)
	}
	rows := int(b.queryStart[len(c.spans)]) + c.padding
	b.q = r.normal(r.o.Activations, rows, c.heads*k, 2)
	b.blockTable = newMatrix(len(c.spans), widest)
	for i := range b.blockTable.v {
		b.blockTable.v[i] = -1
	}
	cache := cacheCase{c.shape, blocks + 2}
	b.k, b.v = newMatrix(cache.blocks, c.shape.Elements()), newMatrix(cache.blocks, c.shape.Elements())
	for i := range b.k.v {
		b.k.v[i], b.v.v[i] = math.NaN(), math.NaN()
	}
	free := r.rng.Perm(cache.blocks)
	for i, s := range c.spans {
		slots := make([]int32, s.length)
		for at := range slots {
			if at%p == 0 {
				b.blockTable.row(i)[at/p] = float64(free[0])
				free = free[1:]
			}
			slots[at] = int32(int(b.blockTable.row(i)[at/p])*p + at%p)
		}
		cache.store(b.k, cacheType, r.normal(device.F32, s.length, g*k, 1), slots)
		cache.store(b.v, cacheType, r.normal(device.F32, s.length, g*k, 1), slots)
	}
	return b
}

// attend runs the batch and returns the output after results.
func (r *rig) attend(b attentionBatch, cacheType device.DType, l layout) *buffer {
	r.Helper()
	t := r.o.Activations
	out := r.output(t, b.q.rows, b.q.cols, l)
	r.dev.Attention(device.AttentionArgs{
		Out: out.Tensor, Q: r.input(t, b.q, l).Tensor,
		KCache: r.input(cacheType, b.k, contiguous).Tensor, VCache: r.input(cacheType, b.v, contiguous).Tensor,
		BlockTable: r.input(device.I32, b.blockTable, l).Tensor,
		QueryStart: r.ints(b.queryStart...).Tensor, KVLen: r.ints(b.kvLen...).Tensor,
		Heads: b.heads, Shape: b.shape, Scale: b.scale,
	})
	r.results()
	return out
}

// referenceAttention is softmax(scale·q·kᵀ)·v of each row and head, and what a right kernel may be off by: each weight relatively by
// twice the largest error of a score and by an exponential right to 2⁻²⁰; the sum over the keys by 4·√keys·2⁻²⁴ of its magnitudes. A
// score is off by what a product of MatMul is. Matrix units round the weights too, and values that do not fit.
func (r *rig) referenceAttention(b attentionBatch, cacheType device.DType) (want, tolerance matrix) {
	asked := int(b.queryStart[len(b.spans)])
	want, tolerance = newMatrix(asked, b.q.cols), newMatrix(asked, b.q.cols)
	k := b.shape.HeadDim
	for i, s := range b.spans {
		for row := range s.rows {
			at := int(b.queryStart[i]) + row
			for head := range b.heads {
				r.referenceHead(b, cacheType, headAt{sequence: i, keys: s.length - s.rows + row + 1, head: head},
					b.q.row(at)[head*k:][:k], want.row(at)[head*k:][:k], tolerance.row(at)[head*k:][:k])
			}
		}
	}
	return want, tolerance
}

// headAt is one head of one row: its sequence, the number of keys that it sees, and the query head.
type headAt struct{ sequence, keys, head int }

func (r *rig) referenceHead(b attentionBatch, cacheType device.DType, h headAt, q, out, off []float64) {
	kvHead, scale := h.head/(b.heads/b.shape.Heads), float64(b.scale)
	scores, scoreError := make([]float64, h.keys), 0.0
	operands := r.operandError(r.o.Activations) + r.operandError(cacheType)
	for j := range scores {
		key := b.cached(b.k, h.sequence, j, kvHead)
		d := dot(q, key, key)
		scores[j] = d.sum * scale
		summed := 4 * math.Sqrt(float64(len(q))) * 0x1p-24 * d.magnitude
		scoreError = max(scoreError, scale*(summed+6*operands*math.Sqrt(d.squares)))
	}
	softmax(scores)
	relative := 2*scoreError + 0x1p-20 + 4*math.Sqrt(float64(h.keys))*0x1p-24
	squares := make([]float64, len(q))
	for j, p := range scores {
		for e, v := range b.cached(b.v, h.sequence, j, kvHead) {
			out[e] += p * v
			off[e] += relative * p * math.Abs(v)
			squares[e] += p * v * p * v
		}
	}
	operands = r.operandError(device.F32) + r.operandError(cacheType)
	for e, v := range out {
		off[e] += 6*operands*math.Sqrt(squares[e]) + halfULP(r.o.Activations)*math.Abs(v) + 1e-36
	}
}

// cached is the key or value of position `at` of a sequence.
func (b attentionBatch) cached(cache matrix, sequence, at, kvHead int) []float64 {
	block, offset := cacheCase{b.shape, cache.rows}.at(b.slot(sequence, at), kvHead, 0)
	return cache.row(block)[offset:][:b.shape.HeadDim]
}

// slot is where position `at` of sequence i lies.
func (b attentionBatch) slot(i, at int) int {
	p := b.shape.BlockSize
	return int(b.blockTable.row(i)[at/p])*p + at%p
}

func softmax(scores []float64) {
	largest, sum := math.Inf(-1), 0.0
	for _, s := range scores {
		largest = max(largest, s)
	}
	for i, s := range scores {
		scores[i] = math.Exp(s - largest)
		sum += scores[i]
	}
	for i := range scores {
		scores[i] /= sum
	}
}

// judgeSpansAlone runs each sequence (of very many, some) without the others, then its rows one at a time as decode steps: the bits may not
// change.
func (r *rig) judgeSpansAlone(b attentionBatch, cacheType device.DType, together *buffer) {
	r.Helper()
	if b.q.rows > r.o.InvariantRows {
		return
	}
	for i := len(b.spans) - 1; i >= 0; i -= 1 + len(b.spans)/32 {
		s, first := b.spans[i], int(b.queryStart[i])
		r.scope(func() {
			alone := r.attend(b.only(i, 0, s.rows), cacheType, contiguous)
			for row := range s.rows {
				r.sameBits(fmt.Sprintf("row %d of sequence %d alone", row, i), alone.bits(row), together.bits(first+row))
			}
		})
		for row := 0; row < s.rows; row += 1 + s.rows/4 {
			r.scope(func() {
				step := r.attend(b.only(i, row, row+1), cacheType, contiguous)
				r.sameBits(fmt.Sprintf("row %d of sequence %d as a step of its own", row, i), step.bits(0), together.bits(first+row))
			})
		}
	}
}

// only is a batch of sequence i alone, of which rows [from, to) ask; one without rows has a padding row instead.
func (b attentionBatch) only(i, from, to int) attentionBatch {
	s := b.spans[i]
	first := int(b.queryStart[i])
	rows := max(to-from, 1)
	q := matrix{rows, b.q.cols, b.q.v[(first+from)*b.q.cols:][:rows*b.q.cols]}
	one := b
	one.spans, one.padding = []span{{to - from, s.length - s.rows + to}}, 0
	one.q, one.blockTable = q, matrix{1, b.blockTable.cols, b.blockTable.row(i)}
	one.queryStart, one.kvLen = []int32{0, int32(to - from)}, []int32{int32(s.length - s.rows + to)}
	return one
}
