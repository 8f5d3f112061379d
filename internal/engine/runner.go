package engine

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/memory"
	"github.com/inferno-serve/inferno/internal/model"
)

// runner turns batches into device work. All its memory, on both sides, is allocated once; a step is one upload, Forward, Sample and one
// download. Launch and Collect are apart so that a step can be prepared while another one runs.
type runner struct {
	device device.Device
	model  model.Model
	buffers
	host []byte  // the input block on the host
	rows []int32 // [r] the ids on the host

	step model.Batch // under way
	used int         // logit rows of it
}

// buffers is the engine's memory on the device.
type buffers struct {
	kv         model.KV
	input      device.Ptr    // the input block of a step, as layout says
	inputBytes int           // of the largest
	ids        device.Tensor // I32 [max r] sampled
	logits     device.Tensor // F32 [max r, v]
}

// layout places the parts of the input block, in bytes from its start. Each step is packed anew, so that the upload is as short as the
// step is small.
type layout struct {
	tokens, positions, slots int // I32 [n]
	queryStart               int // I32 [b+1]
	kvLen                    int // I32 [b]
	table                    int // I32 [b, width]
	logitRows                int // I32 [r]
	params                   int // SampleParams [r]
	banned                   int // I32 [r, bannedWidth]
	bytes                    int // of all
}

// inputAlignment of each part: a cache line, and more than any element asks for.
const inputAlignment = 64

// layoutFor is the layout of a step of n tokens, b sequences with block tables of that width, and r logit rows.
func layoutFor(n, b, width, r, bannedWidth int) (l layout) {
	place := func(bytes int) (at int) {
		at = l.bytes
		l.bytes += (bytes + inputAlignment - 1) / inputAlignment * inputAlignment
		return at
	}
	l.tokens = place(4 * n)
	l.positions = place(4 * n)
	l.slots = place(4 * n)
	l.queryStart = place(4 * (b + 1))
	l.kvLen = place(4 * b)
	l.table = place(4 * b * width)
	l.logitRows = place(4 * r)
	l.params = place(device.SampleParamsBytes * r)
	l.banned = place(4 * r * bannedWidth)
	return l
}

// newRunner allocates what steps within l need, numBlocks KV blocks included.
func newRunner(d device.Device, m model.Model, a memory.Allocator, l model.Limits, numBlocks, blockSize int) (*runner, error) {
	buffers, err := allocate(a, l, m.KVLayout(), m.Config().Vocab, numBlocks, blockSize)
	if err != nil {
		return nil, err
	}
	words := make([]uint64, buffers.inputBytes/8) // aligned as SampleParams asks for
	host := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), buffers.inputBytes)
	return &runner{device: d, model: m, buffers: buffers, host: host, rows: make([]int32, l.MaxRows)}, nil
}

// Bytes is the device memory that New takes for an engine of these sizes, KV blocks included, where each allocation is rounded up to
// memory.Alignment.
func Bytes(l model.Limits, kv model.KVLayout, vocabulary, numBlocks, blockSize int) int64 {
	var sum tally
	_, _ = allocate(&sum, l, kv, vocabulary, numBlocks, blockSize) // sizes that cannot be are New's to refuse
	return int64(sum)
}

// tally is an allocator that only counts.
type tally int64

func (t *tally) Alloc(_ memory.Purpose, bytes int64) (device.Ptr, error) {
	*t += tally((bytes + memory.Alignment - 1) / memory.Alignment * memory.Alignment)
	return memory.Alignment, nil
}

func allocate(a memory.Allocator, l model.Limits, kv model.KVLayout, vocabulary, numBlocks, blockSize int) (b buffers, err error) {
	if b.kv, err = newKV(a, kv, numBlocks, blockSize); err != nil {
		return b, fmt.Errorf("%d KV blocks: %w", numBlocks, err)
	}
	width := min((l.Context+blockSize-1)/blockSize, numBlocks)
	b.inputBytes = layoutFor(l.MaxTokens, l.MaxSeqs, width, l.MaxRows, maxBanned).bytes
	if b.input, err = a.Alloc(memory.Input, int64(b.inputBytes)); err != nil {
		return b, fmt.Errorf("input of a step: %w", err)
	}
	if b.ids, err = memory.NewTensor(a, memory.Input, device.I32, 1, l.MaxRows); err != nil {
		return b, fmt.Errorf("sampled ids: %w", err)
	}
	if b.logits, err = memory.NewTensor(a, memory.Activations, device.F32, l.MaxRows, vocabulary); err != nil {
		return b, fmt.Errorf("logits: %w", err)
	}
	return b, nil
}

// newKV lays the cache out by block: all layers' keys and values of a block lie together. So memory that no sequence has come to is never
// touched, and a block is one piece to whoever moves it.
func newKV(a memory.Allocator, l model.KVLayout, numBlocks, blockSize int) (model.KV, error) {
	kv := model.KV{BlockSize: blockSize, K: make([]device.Tensor, l.Layers), V: make([]device.Tensor, l.Layers)}
	cols := device.KVShape{Heads: l.Heads, HeadDim: l.HeadDim, BlockSize: blockSize}.Elements()
	all, err := memory.NewTensor(a, memory.KV, l.DType, numBlocks, 2*l.Layers*cols)
	if err != nil {
		return kv, err
	}
	for i := range l.Layers {
		kv.K[i] = all.Columns(2*i*cols, (2*i+1)*cols)
		kv.V[i] = all.Columns((2*i+1)*cols, (2*i+2)*cols)
	}
	return kv, nil
}

// Launch starts the step. The batch must not change before Collect.
func (r *runner) Launch(b *batch) {
	width, bannedWidth := 0, 0
	for i := range b.items {
		item := &b.items[i]
		width = max(width, len(item.seq.table))
		if item.row >= 0 {
			bannedWidth = max(bannedWidth, item.seq.numBanned())
		}
	}
	l := layoutFor(b.tokens, len(b.items), width, b.rows, bannedWidth)
	r.write(b, &l, width, bannedWidth)
	r.device.Upload(r.input, r.host[:l.bytes])
	r.used = b.rows
	r.step = model.Batch{
		Tokens:     device.Vector(r.at(l.tokens), device.I32, b.tokens),
		Positions:  device.Vector(r.at(l.positions), device.I32, b.tokens),
		Slots:      device.Vector(r.at(l.slots), device.I32, b.tokens),
		QueryStart: device.Vector(r.at(l.queryStart), device.I32, len(b.items)+1),
		KVLen:      device.Vector(r.at(l.kvLen), device.I32, len(b.items)),
		BlockTable: device.Matrix(r.at(l.table), device.I32, len(b.items), width),
		LogitRows:  device.Vector(r.at(l.logitRows), device.I32, b.rows),
		Logits:     r.logits.Top(b.rows),
	}
	r.model.Forward(&r.step, &r.kv)
	if b.rows > 0 {
		r.sample(&l, bannedWidth)
	}
	r.device.Flush()
}

func (r *runner) vocabulary() int { return r.logits.Cols }

func (r *runner) at(offset int) device.Ptr { return r.input + device.Ptr(offset) }

func (r *runner) sample(l *layout, bannedWidth int) {
	args := device.SampleArgs{
		Logits: r.step.Logits,
		Params: device.Matrix(r.at(l.params), device.I32, r.used, device.SampleParamsBytes/4),
		IDs:    device.Vector(r.ids.Data, device.I32, r.used),
	}
	if bannedWidth > 0 {
		args.Banned = device.Matrix(r.at(l.banned), device.I32, r.used, bannedWidth)
	}
	r.device.Sample(args)
	r.device.Download(bytesOf(r.rows[:r.used]), r.ids.Data)
}

// Collect waits for the step and returns the ids sampled from its logit rows, valid until the next Launch; −1 where a row was not
// finite. The error is the device's first failure, which lasts.
func (r *runner) Collect() ([]int32, error) {
	if err := r.device.Sync(); err != nil {
		return nil, err
	}
	ids := r.rows[:r.used]
	for i, id := range ids {
		if id < -1 || int(id) >= r.vocabulary() {
			return nil, errors.Join(device.ErrLost, fmt.Errorf("row %d sampled token %d of a vocabulary of %d", i, id, r.vocabulary()))
		}
	}
	return ids, nil
}

// write fills the host's input block.
func (r *runner) write(b *batch, l *layout, width, bannedWidth int) {
	tokens := part[int32](r.host, l.tokens, b.tokens)
	positions := part[int32](r.host, l.positions, b.tokens)
	slots := part[int32](r.host, l.slots, b.tokens)
	queryStart := part[int32](r.host, l.queryStart, len(b.items)+1)
	kvLen := part[int32](r.host, l.kvLen, len(b.items))
	tables := part[int32](r.host, l.table, len(b.items)*width)
	logitRows := part[int32](r.host, l.logitRows, b.rows)
	params := part[device.SampleParams](r.host, l.params, b.rows)
	banned := part[int32](r.host, l.banned, b.rows*bannedWidth)
	n := 0
	for i := range b.items {
		item := &b.items[i]
		seq := item.seq
		queryStart[i] = int32(n)
		kvLen[i] = int32(item.start + item.count)
		table := tables[i*width : (i+1)*width]
		clear(table[copy(table, seq.table):])
		copy(tokens[n:], seq.tokens[item.start:item.start+item.count])
		for j := range item.count {
			position := item.start + j
			positions[n+j] = int32(position)
			slots[n+j] = seq.table[position/r.kv.BlockSize]*int32(r.kv.BlockSize) + int32(position%r.kv.BlockSize)
		}
		n += item.count
		if row := item.row; row >= 0 {
			logitRows[row] = int32(n - 1)
			params[row] = seq.sampleParams()
			if params[row].NumBanned > 0 {
				seq.writeBanned(banned[row*bannedWidth : (row+1)*bannedWidth])
			}
		}
	}
	queryStart[len(b.items)] = int32(n)
}

// part is the host's view of n elements of the input block.
func part[T any](host []byte, offset, n int) []T {
	if n == 0 {
		return nil
	}
	var element T
	bytes := host[offset : offset+n*int(unsafe.Sizeof(element))]
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(bytes))), n)
}

func bytesOf(v []int32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), 4*len(v))
}
