package devicetest

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
)

// layer is a transformer layer twice, once in primitives and once in fused ops, between an embedding and a choice of tokens: every op,
// each reading what another wrote. It has no reference of its own; the ops have. It shows that they work together: in order, recorded,
// repeated, beside a load.
type layer struct {
	record func()    // enqueues the ops
	inputs []*buffer // what a step uploads
	outs   []*buffer // what the ops write, the caches among it
	steps  [2][]matrix
}

const (
	layerVocab, layerDim, layerHeads, layerKVHeads, layerHeadDim, layerFFN = 200, 128, 4, 2, 32, 192
)

// layerStep is a batch: the sequences' lengths, and the rows of q that each has.
var layerSteps = [2][]span{
	{{4, 4}, {1, 20}, {3, 37}, {1, 1}},
	{{1, 5}, {6, 26}, {1, 38}, {1, 2}},
}

func (r *rig) newLayer() *layer {
	r.Helper()
	t, dev, l := r.o.Activations, r.dev, &layer{}
	shape := device.KVShape{Heads: layerKVHeads, HeadDim: layerHeadDim, BlockSize: 16}
	cache := cacheCase{shape, 12}
	const n, sequences = 9, 4
	qCols, kvCols := layerHeads*layerHeadDim, layerKVHeads*layerHeadDim

	weight := func(t device.DType, rows, cols int) device.Weight {
		return r.weight(r.randomSource(t, rows, cols), nil)
	}
	out := func(t device.DType, rows, cols int) device.Tensor {
		b := r.output(t, rows, cols, contiguous)
		l.outs = append(l.outs, b)
		return b.Tensor
	}
	cached := func() device.Tensor {
		b := r.inout(r.o.Caches[0], r.normal(r.o.Caches[0], cache.blocks, shape.Elements(), 1), contiguous)
		l.outs = append(l.outs, b)
		return b.Tensor
	}
	l.steps = [2][]matrix{r.stepInputs(layerSteps[0], cache), r.stepInputs(layerSteps[1], cache)}
	for _, m := range l.steps[0] {
		l.inputs = append(l.inputs, r.input(device.I32, m, contiguous))
	}
	ids, pos, slots, blockTable := l.inputs[0], l.inputs[1], l.inputs[2], l.inputs[3]
	queryStart, kvLen, logitRows := l.inputs[4], l.inputs[5], l.inputs[6]

	table, head := weight(device.Q8_0, layerVocab, layerDim), weight(device.Q8_0, layerVocab, layerDim)
	wq, wk, wv := weight(device.Q4_0, qCols, layerDim), weight(device.Q4_0, kvCols, layerDim), weight(device.Q4_1, kvCols, layerDim)
	wo, gate := weight(device.BF16, layerDim, qCols), weight(device.Q4_1, layerFFN, layerDim)
	up, down := weight(device.F16, layerFFN, layerDim), weight(device.Q8_0, layerDim, layerFFN)
	norm := r.input(device.F32, r.normal(device.F32, 1, layerDim, 1), contiguous).Tensor
	vBias, gateBias := r.newBias(kvCols, true), r.newBias(layerFFN, true)
	frequencies := newMatrix(1, layerHeadDim/2)
	for i := range frequencies.v {
		frequencies.v[i] = math.Pow(10_000, -2*float64(i)/layerHeadDim)
	}
	freq := r.input(device.F32, frequencies, contiguous).Tensor
	params := make([]device.SampleParams, sequences)
	for i := range params {
		params[i] = device.SampleParams{Seed: uint64(i), Position: 9, Temperature: float32(i), TopP: 0.95, TopK: 50}
	}
	sampleParams := r.sampleParams(params).Tensor

	x, normed, angles := out(t, n, layerDim), out(t, n, layerDim), out(device.F32, n, layerHeadDim)
	qkv := out(t, n, qCols+2*kvCols)
	q, k, v := qkv.Columns(0, qCols), qkv.Columns(qCols, qCols+kvCols), qkv.Columns(qCols+kvCols, qCols+2*kvCols)
	attended, gated, upper, again := out(t, n, qCols), out(t, n, layerFFN), out(t, n, layerFFN), out(t, n, layerDim)
	last, logits, chosen := out(t, sequences, layerDim), out(device.F32, sequences, layerVocab), out(device.I32, 1, sequences)
	kCache, vCache := cached(), cached()
	scratch, upScratch := r.output(t, n, layerDim, contiguous).Tensor, r.output(t, n, layerFFN, contiguous).Tensor
	kScratch, vScratch := r.output(t, n, kvCols, contiguous).Tensor, r.output(t, n, kvCols, contiguous).Tensor
	attention := device.AttentionArgs{
		Out: attended, Q: q, KCache: kCache, VCache: vCache, BlockTable: blockTable.Tensor,
		QueryStart: queryStart.Tensor, KVLen: kvLen.Tensor, Heads: layerHeads, Shape: shape, Scale: 0.2,
	}

	l.record = func() {
		dev.Embed(x, table, ids.Tensor)
		dev.RopeTable(angles, pos.Tensor, freq, 1)
		dev.RMSNorm(normed, x, norm, 1e-5)
		dev.MatMul(normed, []device.Product{{W: wq, Out: q}, {W: wk, Out: k}, {W: wv, Out: v}})
		dev.RopeStoreKV(q, angles, layerHeads, device.StoreKVArgs{
			Key: k, Value: v, Slots: slots.Tensor, KCache: kCache, VCache: vCache, Shape: shape,
		})
		dev.Attention(attention)
		dev.MatMul(attended, []device.Product{{W: wo, Out: x, Accumulate: true}})
		dev.RMSNorm(normed, x, norm, 1e-5)
		dev.MatMul(normed, []device.Product{{W: gate, Out: gated}, {W: up, Out: upper}})
		dev.SwiGLU(gated, gated, upper)
		dev.MatMul(gated, []device.Product{{W: down, Out: again}})
		dev.Add(x, x, again)
		dev.NormQKV(device.NormQKVArgs{
			Norm: device.Norm{X: x, W: norm, Normed: scratch, Eps: 1e-5}, Q: device.Product{W: wq, Out: q},
			K: device.Product{W: wk, Out: kScratch}, V: device.Product{W: wv, Bias: vBias, Out: vScratch},
			Table: angles, Heads: layerHeads, Slots: slots.Tensor, KCache: kCache, VCache: vCache, Shape: shape,
		})
		dev.Attention(attention)
		dev.MatMul(attended, []device.Product{{W: wo, Out: x, Accumulate: true}})
		dev.NormGateUp(device.NormGateUpArgs{
			Norm: device.Norm{X: x, W: norm, Normed: scratch, Eps: 1e-5},
			Gate: gate, Up: up, GateBias: gateBias, Out: gated, Scratch: upScratch,
		})
		dev.MatMul(gated, []device.Product{{W: down, Out: x, Accumulate: true}})
		dev.GatherRows(last, x, logitRows.Tensor)
		dev.NormMatMul(device.Norm{X: last, W: norm, Normed: scratch.Top(sequences), Eps: 1e-5}, []device.Product{{W: head, Out: logits}})
		dev.Sample(device.SampleArgs{Logits: logits, Params: sampleParams, IDs: chosen})
	}
	return l
}

// stepInputs draws a batch: ids, positions, slots, block table, query starts, lengths, and each sequence's last row.
func (r *rig) stepInputs(spans []span, cache cacheCase) []matrix {
	var ids, pos, slots, rows, lengths []int32
	starts := []int32{0}
	const widest = 4
	var tables []int32
	free := int32s(r.rng.Perm(cache.blocks))
	p := cache.shape.BlockSize
	for _, s := range spans {
		table := []int32{-1, -1, -1, -1}
		for i := range (s.length + p - 1) / p {
			table[i], free = free[0], free[1:]
		}
		for at := s.length - s.rows; at < s.length; at++ {
			ids = append(ids, int32(r.rng.IntN(layerVocab)))
			pos = append(pos, int32(at))
			slots = append(slots, table[at/p]*int32(p)+int32(at%p))
		}
		tables = append(tables, table[:widest]...)
		starts = append(starts, int32(len(ids)))
		lengths = append(lengths, int32(s.length))
		rows = append(rows, int32(len(ids)-1))
	}
	return []matrix{
		intMatrix(1, ids), intMatrix(1, pos), intMatrix(1, slots), intMatrix(len(spans), tables),
		intMatrix(1, starts), intMatrix(1, lengths), intMatrix(1, rows),
	}
}

// step uploads one of the two batches, clears what the last step left, runs what `start` starts, and returns all that was written.
func (r *rig) step(l *layer, which int, start func()) []byte {
	r.Helper()
	for i, b := range l.inputs {
		r.update(b, l.steps[which][i])
	}
	r.restore(l.outs...)
	start()
	r.results()
	var all []byte
	for _, b := range l.outs {
		all = append(all, b.all()...)
	}
	return all
}

// Bits runs a small layer on dev and returns every byte that it wrote: the same for devices that differ only in what must not change
// results, as the number of their threads.
func Bits(t *testing.T, dev device.Device, o Options) (bits []byte) {
	t.Helper()
	r := &rig{T: t, dev: dev, o: o.withDefaults(), info: dev.Info()}
	r.run("bits", func(r *rig) {
		l := r.newLayer()
		bits = r.step(l, 0, l.record)
	})
	return bits
}

// judgeGraph captures the layer and replays it with the batch that it was captured with and with another.
func judgeGraph(r *rig) {
	l := r.newLayer()
	first, second := r.step(l, 0, l.record), r.step(l, 1, l.record)
	r.sameBits("eager run repeated", r.step(l, 0, l.record), first)
	if slices.Equal(first, second) {
		r.Fatal("two batches leave the same bytes: the ops did not run, or not on their inputs")
	}
	r.restore(l.outs...)
	r.sync()
	graph, err := r.dev.Capture(l.record)
	if errors.Is(err, device.ErrUnavailable) {
		r.Skip(err)
	}
	if err != nil {
		r.Fatalf("capture: %v", err)
	}
	defer graph.Close()
	r.results()
	for _, b := range l.outs {
		r.sameBits("capture ran the ops", b.all(), b.before())
	}
	launch := func() { r.dev.Launch(graph) }
	for i, which := range []int{0, 1, 1, 0} {
		want := [][]byte{first, second}[which]
		r.sameBits(fmt.Sprintf("launch %d, batch %d", i, which), r.step(l, which, launch), want)
	}
	other, err := r.dev.Capture(func() { l.record(); l.record() })
	if err != nil {
		r.Fatalf("capture beside a graph: %v", err)
	}
	r.step(l, 1, func() { r.dev.Launch(other); r.dev.Flush(); r.dev.Launch(graph) })
	other.Close()
	r.sameBits("launch after another graph was closed", r.step(l, 0, launch), first)
	r.sameBits("eager run beside a graph", r.step(l, 1, l.record), second)
}

// judgeConcurrentPack loads weights from another goroutine while steps run: neither may disturb the other.
func judgeConcurrentPack(r *rig) {
	l := r.newLayer()
	want := r.step(l, 0, l.record)
	sources := make([]source, len(weightTypes))
	for i, t := range weightTypes {
		sources[i] = r.randomSource(t, 100, 256)
	}
	var weights []device.Weight
	var err error
	var steps atomic.Int32 // −1: the case has ended
	var load sync.WaitGroup
	load.Go(func() {
		for round := 0; err == nil && (round < 4 || steps.Load() >= 0 && steps.Load() < 2); round++ {
			for _, w := range weights {
				r.dev.Free(w.Data)
			}
			weights, err = packAll(r.dev, sources)
		}
		steps.Store(-1)
	})
	defer load.Wait()
	defer steps.Store(-1) // ends the load when a step fails
	for first := true; first || steps.Load() >= 0; first = false {
		r.sameBits("a step beside a load", r.step(l, 0, l.record), want)
		if n := steps.Load(); n >= 0 {
			steps.CompareAndSwap(n, n+1)
		}
	}
	load.Wait()
	r.checkLoaded(sources, weights, err)
}

// packAll allocates and packs a weight of each source.
func packAll(dev device.Device, sources []source) (weights []device.Weight, err error) {
	for _, s := range sources {
		w := device.Weight{DType: s.dtype, Rows: s.values.rows, Cols: s.values.cols}
		if w.Data, err = dev.Alloc(dev.PackBytes(w.DType, w.Rows, w.Cols)); err != nil {
			return weights, err
		}
		weights = append(weights, w)
		if err = dev.Pack(w, s.bytes, nil); err != nil {
			return weights, err
		}
	}
	return weights, nil
}

// checkLoaded reads the weights back through Embed, and frees them.
func (r *rig) checkLoaded(sources []source, weights []device.Weight, err error) {
	r.Helper()
	if err != nil {
		r.Errorf("load beside steps: %v", err)
	}
	for i, w := range weights {
		rows := int32s(r.rng.Perm(w.Rows))
		out := r.output(r.o.Activations, w.Rows, w.Cols, contiguous)
		r.dev.Embed(out.Tensor, w, r.ints(rows...).Tensor)
		r.results()
		want := sources[i].values.pick(rows)
		for j := range want.v {
			want.v[j] = round(r.o.Activations, want.v[j])
		}
		r.compare(w.String()+" loaded beside steps", out.matrix(), want, matrix{})
		r.dev.Free(w.Data)
	}
}
