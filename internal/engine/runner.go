package engine

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/memory"
	"github.com/inferno-serve/inferno/internal/model"
)

// runner turns batches into device work. All its memory, on both sides, is allocated once. The host writes a step's inputs straight into
// memory that the device reaches, and the device writes the sampled ids back there; both have a slot a step that may be under way.
//
// A step of which each sequence computes one token is a captured graph, launched as one piece (graph.go); all others are enqueued op by op.
type runner struct {
	device device.Device
	model  model.Model
	dim    int // d
	buffers
	host hostMemory
	info device.Info

	tables      blockTables
	graphs      []stepGraph // by rows, ascending; nil: none
	graphOf     []uint8     // by rows: the smallest of the graphs that has as many
	padded      bool        // graphs compute rows of padding where no sequence is
	depth       int         // steps that may be under way
	launched    int64       // steps, as the device counts them
	collected   int64
	rows        [maxUnderWay]int         // ids of the steps under way
	timings     [maxUnderWay]stepTiming  // when they began
	step        model.Batch              // that is being enqueued; here so that it is not allocated for each
	ids         []int32                  // [r] of the step collected last
	ran, waited time.Duration            // in calls that compute, and in waits, since the last look
	lastEnd     time.Time                // of the last step collected
	expecter    device.Expecter          // nil: the device makes no use of it
	beforeEnd   func(*batch, *stepGraph) // called shortly before a step of a graph is expected to end; nil: nothing is
}

// buffers is the engine's memory on the device.
type buffers struct {
	kv         model.KV
	input      device.Ptr    // the input block of a step, as layout says
	inputBytes int           // of the largest, changes included
	changes    int           // offset in it of the changes of block tables that no graph has room for
	adjust     int           // offset in it of the adjustments of logits
	state      device.Tensor // I32 [max b, width + maxBanned]: block tables, then banned ids
	numbers    device.Tensor // I32 [max b + 1] 0, 1, 2, …: where each sequence has one row
	mostRows   int           // of a graph
	history    device.Tensor // I32 [B, p] the token in each slot, of sequences with penalties
	answers    device.Tensor // I32: sampled, then what a step tells beside them
	sampled    device.Tensor // I32 [max r] ids
	logits     device.Tensor // F32 [max r, v]
}

// hostMemory is the host's side, with a row a slot.
type hostMemory struct {
	input   device.HostBlock // [maxUnderWay, inputBytes]
	sampled device.HostBlock // I32 [maxUnderWay, answers]
}

// layout places the parts of the input block, in bytes from its start. Each step is packed anew, so that it is as short as the step is
// small.
type layout struct {
	tokens, positions, slots int // I32 [n]
	from                     int // I32 [fed]: where in the ids sampled last a token is; −1: it is in tokens
	queryStart               int // I32 [b+1]
	kvLen                    int // I32 [b]
	restStart                int // I32 [b − fed + 1], in room for b + 1: queryStart of those behind, from their first row on
	table                    int // I32 [b, width]
	logitRows                int // I32 [r + promptRows]
	params                   int // SampleParams [r]
	banned                   int // I32 [r, bannedWidth]
	bytes                    int // of all
}

// inputAlignment of each part: a cache line, and more than any element asks for.
const inputAlignment = 64

func aligned(bytes int) int { return (bytes + inputAlignment - 1) / inputAlignment * inputAlignment }

// layoutFor is the layout of a step of n tokens, b sequences with block tables of that width, of which the first `fed` may take their
// token from the step before, and r logit rows, with promptRows more behind them.
func layoutFor(n, fed, b, width, r, promptRows, bannedWidth int) (l layout) {
	place := func(bytes int) (at int) {
		at = l.bytes
		l.bytes += aligned(bytes)
		return at
	}
	l.tokens = place(4 * n)
	l.positions = place(4 * n)
	l.slots = place(4 * n)
	l.from = place(4 * fed)
	l.queryStart = place(4 * (b + 1))
	l.kvLen = place(4 * b)
	l.restStart = place(4 * (b + 1))
	l.table = place(4 * b * width)
	l.logitRows = place(4 * (r + promptRows))
	l.params = place(device.SampleParamsBytes * r)
	l.banned = place(4 * r * bannedWidth)
	return l
}

// newRunner allocates what steps within l need, numBlocks KV blocks included.
func newRunner(d device.Device, m model.Model, a memory.Allocator, l model.Limits, numBlocks, blockSize int) (*runner, error) {
	b, err := allocate(a, l, m.KVLayout(), m.Config(), numBlocks, blockSize)
	if err != nil {
		return nil, err
	}
	r := &runner{
		device: d, model: m, dim: m.Config().Dim, buffers: b, info: d.Info(), depth: 1, launched: max(d.Passed(), 0),
		ids: make([]int32, l.MaxRows), tables: newBlockTables(&b, numBlocks),
	}
	r.collected = r.launched
	r.expecter, _ = d.(device.Expecter)
	r.padded = !r.info.Unified
	if r.info.Overlap {
		r.depth = maxUnderWay
	}
	if r.host.input, err = d.AllocMapped(maxUnderWay * b.inputBytes); err != nil {
		return nil, fmt.Errorf("host's input of a step: %w", err)
	}
	if r.host.sampled, err = d.AllocMapped(maxUnderWay * 4 * b.answers.Cols); err != nil {
		return nil, fmt.Errorf("host's sampled ids: %w", err)
	}
	d.Fill(b.state.Data, 0, int64(4*b.state.Len()))
	d.Fill(b.history.Data, 0, int64(4*b.history.Len()))
	count := make([]int32, b.numbers.Len())
	for i := range count {
		count[i] = int32(i)
	}
	d.Upload(b.numbers.Data, bytesOf(count))
	return r, nil
}

// Bytes is the device memory that New takes for an engine of these sizes, KV blocks included, where each allocation is rounded up to
// memory.Alignment.
func Bytes(l model.Limits, kv model.KVLayout, c *model.Config, numBlocks, blockSize int) int64 {
	var sum tally
	_, _ = allocate(&sum, l, kv, c, numBlocks, blockSize) // sizes that cannot be are New's to refuse
	return int64(sum)
}

// tally is an allocator that only counts.
type tally int64

func (t *tally) Alloc(_ memory.Purpose, bytes int64) (device.Ptr, error) {
	*t += tally((bytes + memory.Alignment - 1) / memory.Alignment * memory.Alignment)
	return memory.Alignment, nil
}

func allocate(a memory.Allocator, l model.Limits, kv model.KVLayout, c *model.Config, numBlocks, blockSize int) (b buffers, err error) {
	if b.kv, err = newKV(a, kv, numBlocks, blockSize); err != nil {
		return b, fmt.Errorf("%d KV blocks: %w", numBlocks, err)
	}
	width := min((l.Context+blockSize-1)/blockSize, numBlocks)
	b.mostRows = min(l.MaxSeqs, l.MaxRows, l.MaxTokens)
	eager, captured := layoutFor(l.MaxTokens, l.MaxSeqs, l.MaxSeqs, width, l.MaxRows, 0, maxBanned), graphLayoutFor(b.mostRows)
	most := mostTold(l, eager.bytes, c.Dim)
	b.changes = max(most.bytes, mostTold(l, captured.bytes, c.Dim).bytes)
	b.adjust = b.changes + 2*aligned(4*maxChanges(numBlocks, l.MaxSeqs))
	b.inputBytes = b.adjust + aligned(4*l.MaxSeqs*adjustmentWords(c.Vocab))
	if b.input, err = a.Alloc(memory.Input, int64(b.inputBytes)); err != nil {
		return b, fmt.Errorf("input of a step: %w", err)
	}
	if b.state, err = memory.NewTensor(a, memory.Input, device.I32, l.MaxSeqs, width+maxBanned); err != nil {
		return b, fmt.Errorf("block tables: %w", err)
	}
	if b.numbers, err = memory.NewTensor(a, memory.Input, device.I32, 1, l.MaxSeqs+1); err != nil {
		return b, fmt.Errorf("row numbers: %w", err)
	}
	if b.history, err = memory.NewTensor(a, memory.Input, device.I32, numBlocks, blockSize); err != nil {
		return b, fmt.Errorf("token history: %w", err)
	}
	if err = b.allocateAnswers(a, l.MaxRows, most.words); err != nil {
		return b, err
	}
	if b.logits, err = memory.NewTensor(a, memory.Activations, device.F32, l.MaxRows, c.Vocab); err != nil {
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

// fewRows is up to how many rows of a step attention takes one at a time, whatever sequences they are of.
const fewRows = 64

// Launch starts the step after those under way. The batch must not change before its Collect.
func (r *runner) Launch(b *batch) {
	if r.launched-r.collected >= int64(r.depth) {
		panic(fmt.Sprintf("engine: launch of step %d while step %d is under way", r.launched, r.collected))
	}
	flight := &r.timings[r.launched%maxUnderWay]
	if g := r.graphFor(b); g != nil {
		*flight = stepTiming{graph: g, batch: b}
		r.replay(g, b)
	} else {
		*flight = stepTiming{atLeast: b.atLeast}
		r.enqueue(b)
	}
	flight.began = time.Now()
	r.launched++
}

// enqueue starts a step op by op.
func (r *runner) enqueue(b *batch) {
	width, bannedWidth, fed := 0, 0, b.decodes
	for i := range b.items {
		item := &b.items[i]
		item.at = item.row
		width = max(width, len(item.seq.table))
		if item.row >= 0 {
			bannedWidth = max(bannedWidth, item.seq.numBanned(item.position()))
		}
	}
	l := layoutFor(b.tokens, fed, len(b.items), width, b.rows, b.promptRows, bannedWidth)
	told, pool := r.told(b, l.bytes), r.adjusting()
	r.write(b, &l, &pool, width, bannedWidth)
	r.writeAsked(b, &told, part[int32](r.slot(), l.logitRows, b.rows+b.promptRows))
	r.pull(0, told.bytes)
	r.pullAdjustments(&pool)
	r.step = model.Batch{
		Tokens:     device.Vector(r.at(l.tokens), device.I32, b.tokens),
		Positions:  device.Vector(r.at(l.positions), device.I32, b.tokens),
		Slots:      device.Vector(r.at(l.slots), device.I32, b.tokens),
		QueryStart: device.Vector(r.at(l.queryStart), device.I32, len(b.items)+1),
		KVLen:      device.Vector(r.at(l.kvLen), device.I32, len(b.items)),
		BlockTable: device.Matrix(r.at(l.table), device.I32, len(b.items), width),
		LogitRows:  device.Vector(r.at(l.logitRows), device.I32, b.rows+b.promptRows),
		AllRows:    b.rows == b.tokens && b.promptRows == 0,
		Logits:     r.logits.Top(b.rows + b.promptRows),
	}
	if fed > 0 && fed < len(b.items) && b.tokens > fewRows {
		r.step.Singles, r.step.RestStart = fed, device.Vector(r.at(l.restStart), device.I32, len(b.items)-fed+1)
	}
	r.pooling(b, &told)
	if fed > 0 && r.launched > r.collected { // otherwise the host has all tokens
		r.device.Feed(device.Vector(r.step.Tokens.Data, device.I32, fed), device.Vector(r.at(l.from), device.I32, fed), r.sampled)
	}
	if b.penalized {
		r.remember(r.step.Tokens, r.step.Slots)
	}
	args := device.SampleArgs{Params: device.Matrix(r.at(l.params), device.I32, b.rows, device.SampleParamsBytes/4)}
	if pool.used > 0 {
		r.adjustmentArgs(&args, r.step.BlockTable)
	}
	if bannedWidth > 0 {
		args.Banned = device.Matrix(r.at(l.banned), device.I32, b.rows, bannedWidth)
	}
	r.model.Forward(&r.step, &r.kv)
	r.sample(args, b.rows)
	r.tell(b, &told)
	ends := b.rows
	if !b.asksNothing() {
		ends = told.words
	}
	r.mark(ends)
	r.rows[r.launched%maxUnderWay] = b.rows
	r.start(nil)
}

// sample enqueues the choice of a token from each of the first rows of logits.
func (r *runner) sample(args device.SampleArgs, rows int) {
	if rows == 0 {
		return
	}
	args.Logits = r.step.Logits.Top(rows)
	args.IDs = device.Vector(r.sampled.Data, device.I32, rows)
	r.device.Sample(args)
}

// mark ends the step: so many words, the sampled ids first, go to the host.
func (r *runner) mark(words int) {
	if words == 0 {
		r.device.Mark(device.Tensor{}, device.Tensor{})
		return
	}
	r.device.Mark(device.Vector(r.answers.Data, device.I32, words), device.Tensor{
		Data: r.host.sampled.Data, DType: device.I32, Rows: maxUnderWay, Cols: words, Stride: r.answers.Cols,
	})
}

// pull enqueues the copy of that piece of the step's input block.
func (r *runner) pull(offset, bytes int) {
	r.device.Pull(device.Vector(r.at(offset), device.I32, bytes/4), device.Tensor{
		Data: r.host.input.Data + device.Ptr(offset), DType: device.I32, Rows: maxUnderWay, Cols: bytes / 4, Stride: r.inputBytes / 4,
	})
}

// start lets a graph, or what was enqueued, run; a device without overlap computes it here.
func (r *runner) start(g device.Graph) {
	began := time.Now()
	if g != nil {
		r.device.Launch(g)
	}
	r.device.Flush()
	if !r.info.Overlap {
		r.ran += time.Since(began)
	}
}

// hostTime is what of a time since the last call was neither waiting nor computing.
func (r *runner) hostTime(all time.Duration) time.Duration {
	host := max(all-r.ran-r.waited, 0)
	r.ran, r.waited = 0, 0
	return host
}

func (r *runner) vocabulary() int { return r.logits.Cols }

func (r *runner) at(offset int) device.Ptr { return r.input + device.Ptr(offset) }

// slot is the host's input block of the step being launched.
func (r *runner) slot() []byte {
	at := int(r.launched%maxUnderWay) * r.inputBytes
	return r.host.input.Bytes[at : at+r.inputBytes]
}

// Collect waits for the oldest step under way, that of b, and returns the ids sampled from its logit rows, valid until the next Collect;
// −1 where a row was not finite. The error is the device's first failure, which lasts.
func (r *runner) Collect(b *batch) ([]int32, error) {
	k := r.collected
	if err := r.wait(k); err != nil {
		return nil, err
	}
	r.collected++
	sampled := r.told32(0, r.rows[k%maxUnderWay])
	ids := r.ids[:b.rows]
	for i := range b.items {
		item := &b.items[i]
		for j := range item.rows() {
			id := sampled[item.at+j]
			if id < -1 || int(id) >= r.vocabulary() {
				return nil, errors.Join(device.ErrLost, fmt.Errorf("row %d sampled token %d of a vocabulary of %d", item.row+j, id, r.vocabulary()))
			}
			ids[item.row+j] = id
		}
	}
	r.check(b)
	return ids, nil
}

// write fills the host's input block of a step that is enqueued.
func (r *runner) write(b *batch, l *layout, pool *adjustments, width, bannedWidth int) {
	host := r.slot()
	tokens := part[int32](host, l.tokens, b.tokens)
	from := part[int32](host, l.from, (l.queryStart-l.from)/4)
	positions := part[int32](host, l.positions, b.tokens)
	slots := part[int32](host, l.slots, b.tokens)
	queryStart := part[int32](host, l.queryStart, len(b.items)+1)
	kvLen := part[int32](host, l.kvLen, len(b.items))
	restStart := part[int32](host, l.restStart, len(b.items)-b.decodes+1)
	tables := part[int32](host, l.table, len(b.items)*width)
	logitRows := part[int32](host, l.logitRows, b.rows)
	params := part[device.SampleParams](host, l.params, b.rows)
	banned := part[int32](host, l.banned, b.rows*bannedWidth)
	n := 0
	for i := range b.items {
		item := &b.items[i]
		seq := item.seq
		queryStart[i] = int32(n)
		if i >= b.decodes {
			restStart[i-b.decodes] = int32(n - b.decodes)
		}
		kvLen[i] = int32(item.start + item.count)
		table := tables[i*width : (i+1)*width]
		clear(table[copy(table, seq.table):])
		if item.decode { // these come first, so that i is n
			tokens[n], from[n] = seq.input(item.start)
		} else {
			known := item.count - int(item.drafts)
			copy(tokens[n:], seq.tokens[item.start:item.start+known])
			if item.drafts > 0 {
				copy(tokens[n+known:], seq.drafter.tokens[:item.drafts])
			}
		}
		for j := range item.count {
			position := item.start + j
			positions[n+j] = int32(position)
			slots[n+j] = r.slotOf(seq, position)
		}
		n += item.count
		if item.row >= 0 {
			seq.sampled = item.at
		}
		for j := range item.rows() {
			row := item.row + j
			logitRows[row] = int32(n - item.rows() + j)
			params[row] = seq.sampleParams(item.position() + j)
			params[row].Adjustment = pool.add(seq, i, r.vocabulary())
			if params[row].NumBanned > 0 {
				seq.writeBanned(banned[row*bannedWidth : (row+1)*bannedWidth])
			}
		}
	}
	queryStart[len(b.items)] = int32(n)
	restStart[len(b.items)-b.decodes] = int32(n - b.decodes)
}

func (r *runner) slotOf(seq *sequence, position int) int32 {
	p := r.kv.BlockSize
	return seq.table[position/p]*int32(p) + int32(position%p)
}

// input is the token at that position, or where among the ids sampled last it is.
func (s *sequence) input(position int) (token, from int32) {
	if position < len(s.tokens) {
		return s.tokens[position], -1
	}
	return 0, int32(s.sampled)
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
