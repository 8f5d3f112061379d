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
	device     device.Device
	model      Model
	kv         model.KV
	vocabulary int

	input device.Ptr // the input block of a step, as layout says
	host  []byte     // the same on the host
	ids   device.Tensor
	rows  []int32 // [r] the ids on the host

	logits device.Tensor // F32 [max r, v]
	batch  model.Batch   // of the step under way
	used   int           // rows of it
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

// newRunner allocates what steps within `limits` need, numBlocks KV blocks included.
func newRunner(d device.Device, m Model, a memory.Allocator, limits model.Limits, numBlocks, blockSize int) (*runner, error) {
	r := &runner{device: d, model: m, vocabulary: m.Config().Vocab, rows: make([]int32, limits.MaxSeqs)}
	var err error
	if r.kv, err = newKV(a, m.KVLayout(), numBlocks, blockSize); err != nil {
		return nil, fmt.Errorf("allocate %d KV blocks: %w", numBlocks, err)
	}
	width := (limits.Context + blockSize - 1) / blockSize
	bytes := layoutFor(limits.MaxTokens, limits.MaxSeqs, width, limits.MaxSeqs, maxBanned).bytes
	if r.input, err = a.Alloc(memory.Input, int64(bytes)); err != nil {
		return nil, fmt.Errorf("allocate the input block: %w", err)
	}
	words := make([]uint64, bytes/8) // aligned as SampleParams asks for
	r.host = unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), bytes)
	if r.ids, err = memory.NewTensor(a, memory.Input, device.I32, 1, limits.MaxSeqs); err != nil {
		return nil, fmt.Errorf("allocate sampled ids: %w", err)
	}
	if r.logits, err = memory.NewTensor(a, memory.Activations, device.F32, limits.MaxSeqs, r.vocabulary); err != nil {
		return nil, fmt.Errorf("allocate logits: %w", err)
	}
	return r, nil
}

func newKV(a memory.Allocator, l model.KVLayout, numBlocks, blockSize int) (model.KV, error) {
	kv := model.KV{BlockSize: blockSize, K: make([]device.Tensor, l.Layers), V: make([]device.Tensor, l.Layers)}
	cols := device.KVShape{Heads: l.Heads, HeadDim: l.HeadDim, BlockSize: blockSize}.Elements()
	for i := range l.Layers {
		for _, t := range []*device.Tensor{&kv.K[i], &kv.V[i]} {
			var err error
			if *t, err = memory.NewTensor(a, memory.KV, l.DType, numBlocks, cols); err != nil {
				return kv, err
			}
		}
	}
	return kv, nil
}

// Launch starts the step. The batch must not change before Collect.
func (r *runner) Launch(b *Batch) {
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
	r.batch = model.Batch{
		Tokens:     device.Vector(r.at(l.tokens), device.I32, b.tokens),
		Positions:  device.Vector(r.at(l.positions), device.I32, b.tokens),
		Slots:      device.Vector(r.at(l.slots), device.I32, b.tokens),
		QueryStart: device.Vector(r.at(l.queryStart), device.I32, len(b.items)+1),
		KVLen:      device.Vector(r.at(l.kvLen), device.I32, len(b.items)),
		BlockTable: device.Matrix(r.at(l.table), device.I32, len(b.items), width),
		LogitRows:  device.Vector(r.at(l.logitRows), device.I32, b.rows),
		Logits:     r.logits.Top(b.rows),
	}
	r.model.Forward(&r.batch, &r.kv)
	if b.rows > 0 {
		r.sample(&l, bannedWidth)
	}
	r.device.Flush()
}

func (r *runner) at(offset int) device.Ptr { return r.input + device.Ptr(offset) }

func (r *runner) sample(l *layout, bannedWidth int) {
	args := device.SampleArgs{
		Logits: r.batch.Logits,
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
		if id < -1 || int(id) >= r.vocabulary {
			return nil, errors.Join(device.ErrLost, fmt.Errorf("row %d sampled token %d of a vocabulary of %d", i, id, r.vocabulary))
		}
	}
	return ids, nil
}

// write fills the host's input block.
func (r *runner) write(b *Batch, l *layout, width, bannedWidth int) {
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
