package engine

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"testing"
	"time"
	"unsafe"

	"go.uber.org/goleak"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/memory"
	"github.com/inferno-serve/inferno/internal/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	fakeVocabulary = 97
	fakeDim        = 3
)

// fakeDevice is memory, and the few ops that the engine itself calls. What is enqueued takes effect when somebody waits for it, a step at a
// time where steps overlap.
type fakeDevice struct {
	device.Device
	base      device.Ptr
	arena     []uint64
	used      int
	info      device.Info
	sync      func() error         // what the wait for a step does first; nil: nothing
	marked    func(values []int32) // hears of the ids of each step, and may change them; nil: nobody does
	idle      bool                 // no op does anything: for benchmarks
	queue     []func()             // nil: the end of a step
	recording *fakeGraph
	launches  int // of graphs
	steps     int // that have ended
	failed    error
}

// fakeGraph is the ops of a capture.
type fakeGraph struct{ ops []func() }

func (*fakeGraph) Close() {}

func newFakeDevice(bytes int) *fakeDevice {
	return &fakeDevice{base: 1 << 20, arena: make([]uint64, bytes/8)}
}

// fakeMemory hands a fakeDevice's memory out.
type fakeMemory struct{ *fakeDevice }

func (d fakeMemory) Alloc(_ memory.Purpose, bytes int64) (device.Ptr, error) {
	at := d.used
	d.used += int(bytes+255) / 256 * 256
	if d.used > 8*len(d.arena) {
		return 0, device.ErrOutOfMemory
	}
	return d.base + device.Ptr(at), nil
}

func (d *fakeDevice) bytes(p device.Ptr, n int) []byte {
	all := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(d.arena))), d.used)
	return all[p-d.base:][:n]
}

func view[T any](d *fakeDevice, t device.Tensor) []T {
	if t.Len() == 0 {
		return nil
	}
	b := d.bytes(t.Data, 4*((t.Rows-1)*t.Stride+t.Cols))
	var element T
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(element)))
}

func (d *fakeDevice) Info() device.Info { return d.info }

func (d *fakeDevice) AllocMapped(bytes int) (device.HostBlock, error) {
	p, err := fakeMemory{d}.Alloc(memory.Input, int64(bytes))
	if err != nil {
		return device.HostBlock{}, err
	}
	return device.HostBlock{Data: p, Bytes: d.bytes(p, bytes)}, nil
}

// do enqueues an op, or records it.
func (d *fakeDevice) do(op func()) {
	switch {
	case d.idle:
	case d.recording != nil:
		d.recording.ops = append(d.recording.ops, op)
	default:
		d.queue = append(d.queue, op)
	}
}

func (d *fakeDevice) Upload(dst device.Ptr, src []byte) {
	must(d.recording == nil, "upload inside a capture")
	src = slices.Clone(src)
	d.do(func() { copy(d.bytes(dst, len(src)), src) })
}

func (d *fakeDevice) Fill(dst device.Ptr, b byte, bytes int64) {
	d.do(func() {
		for i := range d.bytes(dst, int(bytes)) {
			d.bytes(dst, int(bytes))[i] = b
		}
	})
}

func (d *fakeDevice) Capture(record func()) (device.Graph, error) {
	d.recording = &fakeGraph{}
	g := d.recording
	record()
	d.recording = nil
	return g, nil
}

func (d *fakeDevice) Launch(g device.Graph) {
	must(d.recording == nil, "launch inside a capture")
	d.launches++
	if d.idle {
		d.steps++
		return
	}
	d.queue = append(d.queue, g.(*fakeGraph).ops...)
}

func (d *fakeDevice) Flush() {}

// Sync runs what is enqueued.
func (d *fakeDevice) Sync() error {
	for len(d.queue) > 0 {
		if err := d.finishStep(); err != nil {
			return err
		}
	}
	return d.failed
}

// finishStep runs what is enqueued up to the end of a step.
func (d *fakeDevice) finishStep() error {
	n := slices.IndexFunc(d.queue, func(op func()) bool { return op == nil })
	if n >= 0 && d.sync != nil && d.failed == nil {
		d.failed = d.sync()
	}
	if d.failed != nil {
		return d.failed
	}
	if n < 0 {
		n = len(d.queue)
	} else {
		defer func() { d.queue = d.queue[1:]; d.steps++ }()
	}
	for _, op := range d.queue[:n] {
		op()
	}
	d.queue = d.queue[n:]
	return nil
}

// Passed lets the device get a step further each time that it is asked.
func (d *fakeDevice) Passed() int64 {
	if d.info.Overlap && slices.ContainsFunc(d.queue, func(op func()) bool { return op == nil }) && d.finishStep() != nil {
		return -1
	}
	return int64(d.steps)
}

func (d *fakeDevice) Poll() error { return d.failed }

func (d *fakeDevice) Pull(dst, src device.Tensor) {
	device.CheckPull(dst, src)
	d.do(func() { copy(view[int32](d, dst), d.slot(src)) })
}

// slot is a row of host memory for the step that runs.
func (d *fakeDevice) slot(t device.Tensor) []int32 {
	at := t.Data + device.Ptr(4*(d.steps%t.Rows)*t.Stride)
	return view[int32](d, device.Vector(at, device.I32, t.Cols))
}

func (d *fakeDevice) Scatter(dst, index, values device.Tensor) {
	device.CheckScatter(dst, index, values)
	d.do(func() {
		to, values := view[int32](d, dst), view[int32](d, values)
		for i, at := range view[int32](d, index) {
			if at >= 0 && int(at) < len(to) {
				to[at] = values[i]
			}
		}
	})
}

func (d *fakeDevice) Feed(tokens, from, ids device.Tensor) {
	device.CheckFeed(tokens, from, ids)
	d.do(func() {
		to, ids := view[int32](d, tokens), view[int32](d, ids)
		for i, at := range view[int32](d, from) {
			if at >= 0 && int(at) < len(ids) {
				to[i] = ids[at]
			}
		}
	})
}

func (d *fakeDevice) Mark(values, out device.Tensor) {
	device.CheckMark(values, out)
	if d.idle && d.recording == nil {
		d.steps++
	}
	if values.Data != 0 {
		d.do(func() {
			ids := d.slot(out)
			copy(ids, view[int32](d, values))
			if d.marked != nil {
				d.marked(ids)
			}
		})
	}
	d.do(nil) // the end of the step
}

// Sample reads the digest that fakeModel left in the first columns of a row.
func (d *fakeDevice) Sample(a device.SampleArgs) {
	device.CheckSample(a)
	d.do(func() { d.sample(a) })
}

func (d *fakeDevice) sample(a device.SampleArgs) {
	logits, params, ids := view[uint32](d, a.Logits), view[device.SampleParams](d, a.Params), view[int32](d, a.IDs)
	var banned []int32
	if a.Banned.Data != 0 {
		banned = view[int32](d, a.Banned)
	}
	pool := view[uint32](d, a.Adjustments)
	for r := range ids {
		row, p := logits[r*a.Logits.Stride:], &params[r]
		if math.IsNaN(float64(math.Float32frombits(row[2]))) {
			ids[r] = -1
			continue
		}
		digest, banned := uint64(row[0])|uint64(row[1])<<32, banned[r*a.Banned.Stride:][:p.NumBanned]
		if p.Adjustment > 0 {
			adjustment := (*device.Adjustment)(unsafe.Pointer(&pool[p.Adjustment-1]))
			rest := pool[int(p.Adjustment)-1+device.AdjustmentBytes/4:]
			digest = adjusted(digest, adjustment, d.tokensOf(&a, adjustment, p), rest)
			banned = append(slices.Clone(banned), leftOut(adjustment, rest)...)
			row[0], row[1] = ^row[0], ^row[1] // nobody finds in the row what was there
		}
		ids[r] = choose(digest, *p, banned)
	}
}

// LogProbs reads the digest as Sample does.
func (d *fakeDevice) LogProbs(a device.LogProbsArgs) {
	device.CheckLogProbs(a)
	d.do(func() {
		logits, out := view[uint32](d, a.Logits), view[int32](d, a.Out)
		rows, chosen := view[int32](d, a.Rows), view[int32](d, a.Chosen)
		for q, row := range rows {
			x := logits[int(row)*a.Logits.Stride:]
			to := out[q*a.Out.Stride:][:a.Out.Cols]
			h := uint64(x[0]) | uint64(x[1])<<32
			m := a.IDs.Cols
			to[0], to[1] = wordOf(fakeLogprob(h, chosen[q])), fakeRank(h, chosen[q])
			for i := range m {
				to[2+i] = wordOf(fakeLogprob(h, view[int32](d, a.IDs)[q*a.IDs.Stride+i]))
			}
			for i := range a.Top {
				to[2+m+i] = fakeTop(h, i)
				to[2+m+a.Top+i] = wordOf(fakeLogprob(h, fakeTop(h, i)))
			}
			if math.IsNaN(float64(math.Float32frombits(x[2]))) {
				fill(to, wordOf(float32(math.NaN())))
				to[1] = 0
			}
		}
	})
}

func wordOf(v float32) int32 { return int32(math.Float32bits(v)) }

// fakeLogprob, fakeRank and fakeTop are what the fake says of a token behind those of a digest.
func fakeLogprob(digest uint64, id int32) float32 { return -float32((digest^uint64(id)*31)%1000) / 8 }
func fakeRank(digest uint64, id int32) int32      { return int32((digest^uint64(id))%fakeVocabulary) + 1 }
func fakeTop(digest uint64, i int) int32          { return int32((digest>>8 + uint64(i)) % fakeVocabulary) }

// Pool sums the fake's hidden states.
func (d *fakeDevice) Pool(out, x, from, to device.Tensor) {
	device.CheckPool(out, x, from, to)
	d.do(func() {
		sums, values := view[float32](d, out), view[float32](d, x)
		for i := range out.Rows {
			for c := range out.Cols {
				sums[i*out.Stride+c] = 0
				for j := view[int32](d, from)[i]; j < view[int32](d, to)[i]; j++ {
					sums[i*out.Stride+c] += values[int(j)*x.Stride+c]
				}
			}
		}
	})
}

// tokensOf is the history of a row.
func (d *fakeDevice) tokensOf(a *device.SampleArgs, adjustment *device.Adjustment, p *device.SampleParams) []int32 {
	if adjustment.Repetition == 1 && adjustment.Presence == 0 && adjustment.Frequency == 0 {
		return nil
	}
	history, table := view[int32](d, a.History), view[int32](d, a.BlockTable)[int(adjustment.Sequence)*a.BlockTable.Stride:]
	tokens := make([]int32, p.Position)
	for i := range tokens {
		tokens[i] = history[int(table[i/a.History.Cols])*a.History.Cols+i%a.History.Cols]
	}
	return tokens
}

// adjusted is what the fake does instead of changing logits: all that the change depends on goes into the digest.
func adjusted(digest uint64, a *device.Adjustment, tokens []int32, biases []uint32) uint64 {
	h := fnv.New64a()
	for _, part := range []any{digest, a.Repetition, a.Presence, a.Frequency, a.Window, a.Prompt, tokens, biases[:2*a.NumBias]} {
		_ = binary.Write(h, binary.LittleEndian, part)
	}
	return h.Sum64()
}

// leftOut is the ids that a mask leaves out.
func leftOut(a *device.Adjustment, rest []uint32) (ids []int32) {
	for id := range int32(fakeVocabulary) {
		if mask := rest[2*a.NumBias:]; a.Masked != 0 && mask[id/32]>>(id%32)&1 == 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// choose is the fake's way from a digest of all tokens to the next one.
func choose(digest uint64, p device.SampleParams, banned []int32) int32 {
	if p.Temperature > 0 {
		digest ^= (p.Seed + uint64(p.Position)*0x9e3779b97f4a7c15) * 0xd1342543de82ef95
	}
	id := int32(digest % poison)
	for slices.Contains(banned, id) {
		id = (id + 1) % poison
	}
	return id
}

func digest(tokens []int32) uint64 {
	h := fnv.New64a()
	for _, t := range tokens {
		_ = binary.Write(h, binary.LittleEndian, t)
	}
	return h.Sum64()
}

// poison makes the logits of every row that sees it a NaN. It is the last token, and the only one that is never generated.
const poison = fakeVocabulary - 1

// fakeModel keeps ids and positions in the KV blocks, and what it generates depends on everything that a sequence finds there: a slot
// that another sequence wrote, or a row out of place, changes the output or panics.
type fakeModel struct {
	device  *fakeDevice
	hidden  device.Tensor        // F32 [n, 3]
	forward func(b *model.Batch) // called first; nil: nothing
	broken  bool                 // all logits are NaN
}

func (m *fakeModel) Config() *model.Config { return &model.Config{Vocab: fakeVocabulary, Dim: fakeDim} }

func (m *fakeModel) KVLayout() model.KVLayout {
	return model.KVLayout{Layers: 1, Heads: 1, HeadDim: 2, DType: device.F32}
}

func (m *fakeModel) Forward(b *model.Batch, kv *model.KV) {
	if m.forward != nil {
		m.forward(b)
	}
	step := *b
	m.device.do(func() { m.compute(&step, kv) })
	if b.Pooled.Rows > 0 {
		m.device.do(func() { m.hide(&step) })
		m.device.Pool(b.Pooled, m.hidden.Top(b.Tokens.Len()), b.PoolFrom, b.PoolTo)
	}
}

// hide makes hidden states of tokens and positions, which are whole numbers, so that a sum of them is exact.
func (m *fakeModel) hide(b *model.Batch) {
	tokens, positions := view[int32](m.device, b.Tokens), view[int32](m.device, b.Positions)
	hidden := view[float32](m.device, m.hidden)
	for i := range tokens {
		copy(hidden[i*fakeDim:], fakeHidden(tokens[i], positions[i]))
	}
}

func fakeHidden(token, position int32) []float32 {
	if token == poison {
		return []float32{float32(math.NaN()), 0, 0}
	}
	return []float32{float32(token), float32(position), float32(token*position) - 50}
}

func (m *fakeModel) compute(b *model.Batch, kv *model.KV) {
	d := m.device
	tokens, positions, slots := view[int32](d, b.Tokens), view[int32](d, b.Positions), view[int32](d, b.Slots)
	starts, lens := view[int32](d, b.QueryStart), view[int32](d, b.KVLen)
	tables, rows := view[int32](d, b.BlockTable), view[int32](d, b.LogitRows)
	logits := view[uint32](d, b.Logits)
	cache := view[int32](d, kv.K[0])
	for i, slot := range slots {
		if slot < 0 {
			continue
		}
		cache[2*slot], cache[2*slot+1] = tokens[i], positions[i]
	}
	must(int(starts[len(lens)]) == len(tokens), "%d rows, the last sequence ends at %d", len(tokens), starts[len(lens)])
	for r, row := range rows {
		seq := 0
		for starts[seq+1] <= row {
			seq++
		}
		if slots[row] < 0 { // padding, of which attention sees the one key that is surely there
			block := tables[seq*b.BlockTable.Stride]
			must(lens[seq] == 1 && block >= 0 && int(block) < kv.K[0].Rows, "padding sees %d keys from block %d on", lens[seq], block)
			clear(logits[r*b.Logits.Stride:][:3])
			continue
		}
		last := lens[seq] - starts[seq+1] + row
		must(positions[row] == last, "row %d has position %d, its sequence says %d", row, positions[row], last)
		seen := make([]int32, last+1)
		for p := range seen {
			block := tables[seq*b.BlockTable.Stride+p/kv.BlockSize]
			slot := int(block)*kv.BlockSize + p%kv.BlockSize
			seen[p] = cache[2*slot]
			must(int(cache[2*slot+1]) == p, "position %d of sequence %d lies where %d is wanted", cache[2*slot+1], seq, p)
		}
		out := logits[r*b.Logits.Cols:]
		h := digest(seen)
		out[0], out[1], out[2] = uint32(h), uint32(h>>32), 0
		if m.broken || slices.Contains(seen, poison) {
			out[2] = math.Float32bits(float32(math.NaN()))
		}
	}
}

func must(ok bool, format string, args ...any) {
	if !ok {
		panic(fmt.Sprintf(format, args...))
	}
}

// reference generates what a request should get, from its tokens alone.
func reference(r *Request, context int) (out []int32, reason FinishReason) {
	return referenceOf(r, r.Sampling.Seed, context)
}

// referenceOf is that of the continuation which has this seed.
func referenceOf(r *Request, seed uint64, context int) (out []int32, reason FinishReason) {
	tokens := slices.Clone(r.Prompt)
	var masker Masker
	if r.Mask != nil {
		masker = r.Mask()
	}
	for {
		p := device.SampleParams{Seed: seed, Temperature: r.Sampling.Temperature, Position: uint32(len(tokens))}
		banned := forbidden(r, masker)
		if masker != nil && len(out) > 0 && len(banned) == fakeVocabulary {
			return out, MaskDone
		}
		if len(out) < r.Stop.MinTokens {
			banned = append(banned, r.Stop.StopTokens...)
			if !r.Stop.IgnoreEOS {
				banned = append(banned, r.Stop.EndTokens...)
			}
		}
		id := choose(adjustedReference(r, tokens), p, banned)
		tokens, out = append(tokens, id), append(out, id)
		if masker != nil {
			masker.Accept(id)
		}
		switch {
		case slices.Contains(r.Stop.EndTokens, id) && !r.Stop.IgnoreEOS:
			return out, EndToken
		case slices.Contains(r.Stop.StopTokens, id):
			return out, StopToken
		case r.Stop.Loop.MaxPeriod > 0 && loops(out, r.Stop.Loop):
			return out, Loop
		case len(out) == r.Stop.MaxTokens:
			return out, MaxTokens
		case len(tokens) == context:
			return out, ContextFull
		}
	}
}

// forbidden are the ids that the request's lists and its mask leave out.
func forbidden(r *Request, masker Masker) []int32 {
	banned := slices.Clone(r.Sampling.Banned)
	for id := range int32(fakeVocabulary) {
		out := len(r.Sampling.Allowed) > 0 && !slices.Contains(r.Sampling.Allowed, id)
		if out || masker != nil && masker.Mask() != nil && masker.Mask()[id/32]>>(id%32)&1 == 0 {
			banned = append(banned, id)
		}
	}
	slices.Sort(banned)
	return slices.Compact(banned)
}

// adjustedReference is the digest of what the next token of a request depends on.
func adjustedReference(r *Request, tokens []int32) uint64 {
	s := &r.Sampling
	a := device.Adjustment{
		Repetition: s.RepetitionPenalty, Presence: s.PresencePenalty, Frequency: s.FrequencyPenalty, Window: int32(s.PenaltyWindow),
		Prompt: int32(len(r.Prompt)), NumBias: int32(len(s.LogitBias)),
	}
	if a.Repetition == 0 {
		a.Repetition = 1
	}
	var biases []uint32
	for _, b := range s.LogitBias {
		biases = append(biases, uint32(b.ID), math.Float32bits(b.Value))
	}
	penalized := a.Repetition != 1 || a.Presence != 0 || a.Frequency != 0
	switch {
	case !penalized && len(biases) == 0 && len(s.Allowed) == 0 && len(s.Banned) == 0 && r.Mask == nil:
		return digest(tokens)
	case !penalized:
		return adjusted(digest(tokens), &a, nil, biases)
	}
	return adjusted(digest(tokens), &a, tokens, biases)
}

// loops says whether output ends with one sequence of tokens over and over.
func loops(output []int32, d LoopDetection) bool {
	for period := 1; period <= d.MaxPeriod && period*d.MinRepeats <= len(output); period++ {
		tail := output[len(output)-period*d.MinRepeats:]
		if slices.Equal(tail[period:], tail[:len(tail)-period]) {
			return true
		}
	}
	return false
}

// prompt is n tokens that differ by seed; none is the poison.
func prompt(n, seed int) []int32 {
	p := make([]int32, n)
	for i := range p {
		p[i] = int32((i*31 + seed*17 + i*i*seed) % poison)
	}
	return p
}

// rig is an engine on a fake device.
type rig struct {
	*Engine
	device *fakeDevice
	model  *fakeModel
	done   chan error // what Run returned
}

// modes of a device: what it can do beyond the least, and what an engine on it does.
var modes = map[string]device.Info{
	"plain":              {},
	"graphs":             {Capture: true},
	"overlap":            {Overlap: true},
	"graphs and overlap": {Capture: true, Overlap: true},
}

// rigMaker is newRig for one of the modes.
type rigMaker func(testing.TB, Options) *rig

// inEveryMode runs a test with rigs on each kind of device.
func inEveryMode(t *testing.T, test func(t *testing.T, newRig rigMaker)) {
	for name, info := range modes {
		t.Run(name, func(t *testing.T) {
			test(t, func(t testing.TB, o Options) *rig {
				t.Helper()
				r := newRigOn(t, o, info)
				if err := r.Warmup(t.Context()); err != nil {
					t.Fatal(err)
				}
				return r
			})
		})
	}
}

func newRig(t testing.TB, o Options) *rig {
	t.Helper()
	return newRigOn(t, o, device.Info{})
}

func newRigOn(t testing.TB, o Options, info device.Info) *rig {
	t.Helper()
	d := newFakeDevice(4 << 20)
	d.info = info
	r := &rig{device: d, model: &fakeModel{device: d}, done: make(chan error, 1)}
	o.Model, o.Device, o.Memory = r.model, d, fakeMemory{d}
	if o.Limits == (model.Limits{}) {
		o.Limits = model.Limits{MaxTokens: 64, MaxSeqs: 32, MaxRows: 32, Context: 256}
	}
	setDefault(&o.BlockSize, 4)
	setDefault(&o.NumBlocks, 256)
	o.CheckIntegrity = true
	var err error
	if r.model.hidden, err = memory.NewTensor(o.Memory, memory.Activations, device.F32, o.Limits.MaxTokens, fakeDim); err != nil {
		t.Fatal(err)
	}
	if r.Engine, err = New(o); err != nil {
		t.Fatal(err)
	}
	return r
}

// run starts the loop, and closes the engine when the test ends.
func (r *rig) run(t testing.TB) *rig {
	go func() { r.done <- r.Run(context.Background()) }()
	t.Cleanup(func() {
		r.Close()
		if used := r.Stats().BlocksUsed; used != 0 {
			t.Errorf("%d blocks used after Close", used)
		}
	})
	return r
}

// slow makes every step take that long; in a synctest bubble.
func (r *rig) slow(d time.Duration) *rig {
	r.device.sync = func() error { time.Sleep(d); return nil }
	return r
}

func (r *rig) submit(ctx context.Context, t testing.TB, q *Request) *Stream {
	t.Helper()
	return r.submitAll(ctx, t, q)[0]
}

// submitAll returns the stream of each continuation.
func (r *rig) submitAll(ctx context.Context, t testing.TB, q *Request) []*Stream {
	t.Helper()
	streams, err := r.Submit(ctx, q)
	if err != nil {
		t.Fatalf("submit %s: %v", q.ID, err)
	}
	return streams
}

// readAll reads a stream to its end.
func readAll(s *Stream) (tokens []int32, fin *Finish, err error) {
	for {
		more, fin, err := s.Next(context.Background())
		tokens = append(tokens, more...)
		if fin != nil || err != nil {
			return tokens, fin, err
		}
	}
}

// wantReference compares a stream with what its request should get.
func wantReference(t testing.TB, r *rig, q *Request, s *Stream) {
	t.Helper()
	wantReferenceOf(t, r, q, s, q.Sampling.Seed)
}

// wantReferenceOf does so with that of the continuation which has this seed.
func wantReferenceOf(t testing.TB, r *rig, q *Request, s *Stream, seed uint64) {
	t.Helper()
	got, fin, err := readAll(s)
	if err != nil {
		t.Errorf("%s: %v", q.ID, err)
		return
	}
	want, reason := referenceOf(q, seed, r.Context())
	if !slices.Equal(got, want) || fin.Reason != reason || fin.Token != want[len(want)-1] {
		t.Errorf("%s: got %v (%v, last %d), want %v (%v)", q.ID, got, fin.Reason, fin.Token, want, reason)
	}
	if u := fin.Usage; u.PromptTokens != len(q.Prompt) || u.CompletionTokens != len(want) || u.CachedTokens >= len(q.Prompt) {
		t.Errorf("%s: usage %+v of a prompt of %d and %d new tokens", q.ID, u, len(q.Prompt), len(want))
	}
}
