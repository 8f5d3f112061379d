package devicetest

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"
	"unsafe"

	"github.com/inferno-serve/inferno/internal/device"
)

// llamaShape is a model's sizes.
type llamaShape struct {
	name                                           string
	dim, heads, kvHeads, headDim, ffn, layers, voc int
}

var llamaShapes = []llamaShape{
	{"8B", 4096, 32, 8, 128, 14336, 32, 128256},
	{"1B", 2048, 32, 8, 64, 8192, 16, 128256},
	{"135M", 576, 9, 3, 64, 1536, 30, 49152},
}

const benchBlock = 32 // tokens a KV block

// bench is a model of random weights on the card, and the tensors of a decode step of n sequences, each with `context` tokens.
type bench struct {
	testing.TB
	dev device.Device
	llamaShape
	n, context int

	pattern      []byte // random bfloat16
	layers       []benchLayer
	embedding    device.Weight
	head         device.Weight
	norm, freq   device.Tensor // F32
	inputs       [6]device.Tensor
	x, normed, q device.Tensor
	key, value   device.Tensor
	attended     device.Tensor
	gate, up     device.Tensor
	angles       device.Tensor
	logits, ids  device.Tensor
	params       device.Tensor
	weightBytes  int64 // of all products of a step
	kvBytes      int64 // of all keys and values that a step reads
}

type benchLayer struct {
	q, k, v, o, gate, up, down device.Weight
	kCache, vCache             device.Tensor
}

func newBench(t testing.TB, dev device.Device, s llamaShape, n, context, layers int) *bench {
	b := &bench{TB: t, dev: dev, llamaShape: s, n: n, context: context, pattern: make([]byte, 16<<20)}
	b.llamaShape.layers = layers
	rng := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(b.pattern); i += 2 {
		binary.LittleEndian.PutUint16(b.pattern[i:], bfloatBits(float32(rng.NormFloat64()*0.02)))
	}
	blocks := (context + benchBlock - 1) / benchBlock
	for range layers {
		b.layers = append(b.layers, benchLayer{
			q: b.weight(s.heads*s.headDim, s.dim), k: b.weight(s.kvHeads*s.headDim, s.dim), v: b.weight(s.kvHeads*s.headDim, s.dim),
			o: b.weight(s.dim, s.heads*s.headDim), gate: b.weight(s.ffn, s.dim), up: b.weight(s.ffn, s.dim), down: b.weight(s.dim, s.ffn),
			kCache: b.random(device.BF16, n*blocks, s.kvHeads*benchBlock*s.headDim),
			vCache: b.random(device.BF16, n*blocks, s.kvHeads*benchBlock*s.headDim),
		})
	}
	b.kvBytes = int64(layers) * int64(n) * int64(context) * int64(s.kvHeads*s.headDim) * 2 * 2
	b.head = b.weight(s.voc, s.dim)
	b.embedding = b.head
	b.norm, b.freq = b.constant(s.dim), b.constant(s.headDim/2)
	act := func(cols int) device.Tensor { return b.random(device.BF16, n, cols) }
	b.x, b.normed, b.q, b.attended = act(s.dim), act(s.dim), act(s.heads*s.headDim), act(s.heads*s.headDim)
	b.key, b.value, b.gate, b.up = act(s.kvHeads*s.headDim), act(s.kvHeads*s.headDim), act(s.ffn), act(s.ffn)
	b.angles, b.logits, b.ids = b.alloc(device.F32, n, s.headDim), b.alloc(device.F32, n, s.voc), b.alloc(device.I32, 1, n)
	b.params = b.alloc(device.I32, n, device.SampleParamsBytes/4)
	params := make([]device.SampleParams, n)
	for i := range params {
		params[i].TopP = 1
	}
	dev.Upload(b.params.Data, unsafe.Slice((*byte)(unsafe.Pointer(&params[0])), n*device.SampleParamsBytes))
	b.uploadInputs(blocks)
	b.wait()
	return b
}

func (b *bench) uploadInputs(blocks int) {
	tokens, positions, slots, table := []int32{}, []int32{}, []int32{}, []int32{}
	starts, lengths := []int32{0}, []int32{}
	for i := range b.n {
		tokens, positions = append(tokens, int32(i)), append(positions, int32(b.context-1))
		for j := range blocks {
			table = append(table, int32(i*blocks+j))
		}
		last := table[len(table)-1]
		slots = append(slots, last*benchBlock+int32((b.context-1)%benchBlock))
		starts, lengths = append(starts, int32(i+1)), append(lengths, int32(b.context))
	}
	for i, v := range [][]int32{tokens, positions, slots, table, starts, lengths} {
		rows := 1
		if i == 3 {
			rows = b.n
		}
		b.inputs[i] = b.alloc(device.I32, rows, len(v)/rows)
		b.dev.Upload(b.inputs[i].Data, unsafe.Slice((*byte)(unsafe.Pointer(&v[0])), 4*len(v)))
	}
}

func (b *bench) wait() {
	b.Helper()
	if err := b.dev.Sync(); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) bytes(n int64) device.Ptr {
	b.Helper()
	p, err := b.dev.Alloc(n)
	if err != nil {
		b.Fatal(err)
	}
	return p
}

func (b *bench) alloc(t device.DType, rows, cols int) device.Tensor {
	return device.Matrix(b.bytes(int64(rows*cols*t.Size())), t, rows, cols)
}

func (b *bench) fillRandom(p device.Ptr, n int64) {
	for at := int64(0); at < n; at += int64(len(b.pattern)) {
		b.dev.Upload(p+device.Ptr(at), b.pattern[:min(n-at, int64(len(b.pattern)))])
	}
}

func (b *bench) random(t device.DType, rows, cols int) device.Tensor {
	x := b.alloc(t, rows, cols)
	b.fillRandom(x.Data, int64(rows*cols*t.Size()))
	return x
}

func (b *bench) constant(n int) device.Tensor {
	x := b.alloc(device.F32, 1, n)
	raw := make([]byte, 4*n)
	for i := range n {
		binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(0.5))
	}
	b.dev.Upload(x.Data, raw)
	return x
}

func (b *bench) weight(rows, cols int) device.Weight {
	n := b.dev.PackBytes(device.BF16, rows, cols)
	w := device.Weight{Data: b.bytes(n), DType: device.BF16, Rows: rows, Cols: cols}
	b.fillRandom(w.Data, n)
	b.weightBytes += n
	return w
}

func (b *bench) shape() device.KVShape {
	return device.KVShape{Heads: b.kvHeads, HeadDim: b.headDim, BlockSize: benchBlock}
}

func (b *bench) normalise() device.Norm {
	return device.Norm{X: b.x, W: b.norm, Normed: b.normed, Eps: 1e-5}
}

// The ops of a step, each over layer i.
func (b *bench) embed(int)     { b.dev.Embed(b.x, b.embedding, b.inputs[0]) }
func (b *bench) ropeTable(int) { b.dev.RopeTable(b.angles, b.inputs[1], b.freq, 1) }
func (b *bench) qkv(i int)     { b.dev.NormQKV(b.qkvOf(i)) }
func (b *bench) qkvOf(i int) device.NormQKVArgs {
	l := &b.layers[i]
	return device.NormQKVArgs{
		Norm: b.normalise(), Q: device.Product{W: l.q, Out: b.q}, K: device.Product{W: l.k, Out: b.key}, V: device.Product{W: l.v, Out: b.value},
		Table: b.angles, Heads: b.heads, Slots: b.inputs[2], KCache: l.kCache, VCache: l.vCache, Shape: b.shape(),
	}
}
func (b *bench) attention(i int) {
	l := &b.layers[i]
	b.dev.Attention(device.AttentionArgs{
		Out: b.attended, Q: b.q, KCache: l.kCache, VCache: l.vCache, BlockTable: b.inputs[3], QueryStart: b.inputs[4], KVLen: b.inputs[5],
		Heads: b.heads, Shape: b.shape(), Scale: float32(1 / math.Sqrt(float64(b.headDim))),
	})
}
func (b *bench) output(i int) { b.dev.MatMul(b.attended, []device.Product{b.addTo(b.layers[i].o)}) }
func (b *bench) gateUp(i int) { b.dev.NormGateUp(b.gateUpOf(i)) }
func (b *bench) gateUpOf(i int) device.NormGateUpArgs {
	l := &b.layers[i]
	return device.NormGateUpArgs{Norm: b.normalise(), Gate: l.gate, Up: l.up, Out: b.gate, Scratch: b.up}
}
func (b *bench) down(i int) { b.dev.MatMul(b.gate, []device.Product{b.addTo(b.layers[i].down)}) }
func (b *bench) addTo(w device.Weight) device.Product {
	return device.Product{W: w, Out: b.x, Accumulate: true}
}
func (b *bench) dense(i int) {
	l := &b.layers[i]
	a := device.DenseArgs{Attended: b.attended, O: b.addTo(l.o), MLP: b.gateUpOf(i), Down: b.addTo(l.down)}
	if i+1 < len(b.layers) {
		next := b.qkvOf(i + 1)
		a.Next = &next
	}
	b.dev.Dense(a)
}
func (b *bench) lmHead(int) {
	b.dev.NormMatMul(b.normalise(), []device.Product{{W: b.head, Out: b.logits}})
}
func (b *bench) sample(int) {
	b.dev.Sample(device.SampleArgs{Logits: b.logits, Params: b.params, IDs: b.ids})
}

func (b *bench) step() {
	b.embed(0)
	b.ropeTable(0)
	b.qkv(0)
	for i := range b.layers {
		b.attention(i)
		b.dense(i)
	}
	b.lmHead(0)
	b.sample(0)
}

// run times a captured graph of `ops` ops that move `bytes` together.
func (b *bench) run(t *testing.B, ops int, bytes int64, record func()) {
	g, err := b.dev.Capture(record)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	b.dev.Launch(g)
	b.wait()
	for t.Loop() {
		b.dev.Launch(g)
		b.dev.Launch(g)
		b.dev.Launch(g)
		b.dev.Launch(g)
		b.wait()
	}
	seconds := t.Elapsed().Seconds() / float64(4*t.N)
	t.ReportMetric(0, "ns/op")
	t.ReportMetric(seconds*1e6/float64(ops), "us/op")
	t.ReportMetric(float64(bytes)/seconds/1e9, "GB/s")
}

// BenchmarkCUDA times each op of a decode step, over the weights and caches of all layers in turn, and the whole step: µs an op (or step)
// and the bytes of weights, keys and values that it has to read over its time.
func BenchmarkCUDA(t *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, s := range llamaShapes {
		for _, n := range []int{1, 8, 64} {
			t.Run(fmt.Sprintf("%s/batch=%d", s.name, n), func(t *testing.B) {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				dev := openCUDA(t, false)
				defer dev.Close()
				b := newBench(t, dev, s, n, 1024, s.layers)
				d, h, kv := int64(s.dim), int64(s.heads*s.headDim), int64(s.kvHeads*s.headDim)
				layers, head := int64(s.layers), 2*int64(s.voc)*d
				for _, op := range []struct {
					name  string
					bytes int64 // of one
					do    func(int)
				}{
					{"embed", 2 * 2 * d * int64(n), b.embed}, {"rope_table", 4 * int64(n*s.headDim), b.ropeTable},
					{"norm_qkv", 2 * d * (h + 2*kv), b.qkv}, {"attention", b.kvBytes / layers, b.attention},
					{"o", 2 * d * h, b.output}, {"norm_gate_up", 4 * d * int64(s.ffn), b.gateUp},
					{"down", 2 * d * int64(s.ffn), b.down},
					{"dense", (b.weightBytes - head) / layers, b.dense}, {"norm_lm_head", head, b.lmHead}, {"sample", 4 * int64(n*s.voc), b.sample},
				} {
					t.Run(op.name, func(t *testing.B) {
						b.TB = t
						b.run(t, s.layers, op.bytes*layers, func() {
							for i := range s.layers {
								op.do(i)
							}
						})
					})
				}
				t.Run("step", func(t *testing.B) {
					b.TB = t
					b.run(t, 1, b.weightBytes+b.kvBytes, b.step)
				})
			})
		}
	}
}
