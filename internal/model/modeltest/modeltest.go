// Package modeltest runs a model.Model over token sequences: prefill in chunks, decode, any mix of sequences in a step, and blocks of the KV
// cache in an order that no engine would choose. It is for tests and belongs to the test's goroutine, which drives the device.
package modeltest

import (
	"encoding/binary"
	"math"
	"slices"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/memory"
	"github.com/inferno-serve/inferno/internal/model"
)

// Options size a Runner.
type Options struct {
	Device    device.Device
	Allocator memory.Allocator
	Limits    model.Limits
	BlockSize int // p
	NumBlocks int // B
}

// Runner steps a model.
type Runner struct {
	t       testing.TB
	model   model.Model
	options Options
	kv      model.KV
	input   device.Tensor // I32, what a step reads
	logits  device.Tensor // [max rows, v]
	free    []int32       // blocks; the next one is taken from the end
}

// Sequence is tokens whose keys and values are in the cache.
type Sequence struct {
	length int
	blocks []int32
}

// Part is what one sequence does in a step: its next tokens.
type Part struct {
	Sequence *Sequence
	Tokens   []int32
	Logits   int // of how many of its last tokens logits are wanted
}

// New allocates the cache and the inputs. Blocks are handed out shuffled, and what they held before is NaN, so that a model that reads what
// it did not write is found.
func New(t testing.TB, m model.Model, o Options) *Runner {
	t.Helper()
	r := &Runner{t: t, model: m, options: o, kv: model.KV{BlockSize: o.BlockSize}}
	layout := m.KVLayout()
	shape := device.KVShape{Heads: layout.Heads, HeadDim: layout.HeadDim, BlockSize: o.BlockSize}
	for range layout.Layers {
		r.kv.K = append(r.kv.K, r.alloc(memory.KV, layout.DType, o.NumBlocks, shape.Elements()))
		r.kv.V = append(r.kv.V, r.alloc(memory.KV, layout.DType, o.NumBlocks, shape.Elements()))
	}
	for i := range r.kv.K {
		for _, c := range []device.Tensor{r.kv.K[i], r.kv.V[i]} {
			o.Device.Fill(c.Data, 0xff, int64(c.Len()*c.DType.Size()))
		}
	}
	l := o.Limits
	r.input = r.alloc(memory.Input, device.I32, 1, 3*l.MaxTokens+3*l.MaxSeqs+2+l.MaxRows+l.MaxSeqs*r.maxBlocks()+16*8)
	r.logits = r.alloc(memory.Input, device.F32, l.MaxRows, m.Config().Vocab)
	for i := range o.NumBlocks {
		r.free = append(r.free, int32(i*7919%o.NumBlocks)) // 7919 is a prime
	}
	return r
}

func (r *Runner) alloc(p memory.Purpose, t device.DType, rows, cols int) device.Tensor {
	r.t.Helper()
	x, err := memory.NewTensor(r.options.Allocator, p, t, rows, cols)
	if err != nil {
		r.t.Fatal(err)
	}
	return x
}

func (r *Runner) maxBlocks() int {
	return (r.options.Limits.Context + r.options.BlockSize - 1) / r.options.BlockSize
}

// Release gives a sequence's blocks back.
func (r *Runner) Release(s *Sequence) {
	r.free = append(r.free, s.blocks...)
	*s = Sequence{}
}

// Step runs one batch and returns the logits that parts want, row after row.
func (r *Runner) Step(parts ...Part) [][]float32 {
	r.t.Helper()
	batch := r.Batch(parts...)
	r.model.Forward(batch, &r.kv)
	return r.Download(batch)
}

// Download waits for a step and returns its logits, row after row.
func (r *Runner) Download(batch *model.Batch) [][]float32 {
	r.t.Helper()
	rows := batch.Logits.Rows
	raw := make([]byte, 4*rows*r.logits.Cols)
	if rows > 0 {
		r.options.Device.Download(raw, r.logits.Data)
	}
	if err := r.options.Device.Sync(); err != nil {
		r.t.Fatal(err)
	}
	logits := make([][]float32, rows)
	for i := range logits {
		logits[i] = make([]float32, r.logits.Cols)
		for j := range logits[i] {
			logits[i][j] = math.Float32frombits(binary.NativeEndian.Uint32(raw[4*(i*r.logits.Cols+j):]))
		}
	}
	return logits
}

// Batch uploads the inputs of a step and counts it as done; Step is Batch and Forward. Parts of one token that come first are told apart.
func (r *Runner) Batch(parts ...Part) *model.Batch {
	r.t.Helper()
	var tokens, positions, slots, kvLen, logitRows []int32
	queryStart := []int32{0}
	table := make([]int32, 0, len(parts)*r.maxBlocks())
	for _, p := range parts {
		for _, id := range p.Tokens {
			tokens, positions = append(tokens, id), append(positions, int32(p.Sequence.length))
			slots = append(slots, r.slot(p.Sequence))
		}
		for i := len(tokens) - p.Logits; i < len(tokens); i++ {
			logitRows = append(logitRows, int32(i))
		}
		queryStart, kvLen = append(queryStart, int32(len(tokens))), append(kvLen, int32(p.Sequence.length))
		row := make([]int32, r.maxBlocks())
		copy(row, p.Sequence.blocks)
		table = append(table, row...)
	}
	at := 0
	up := func(values []int32, rows, cols int) device.Tensor { return r.upload(&at, values, rows, cols) }
	batch := &model.Batch{
		Tokens: up(tokens, 1, len(tokens)), Positions: up(positions, 1, len(tokens)), Slots: up(slots, 1, len(tokens)),
		QueryStart: up(queryStart, 1, len(queryStart)), KVLen: up(kvLen, 1, len(kvLen)), BlockTable: up(table, len(parts), r.maxBlocks()),
		LogitRows: up(logitRows, 1, len(logitRows)), AllRows: len(logitRows) == len(tokens), Logits: r.logits.Top(len(logitRows)),
	}
	if n := slices.IndexFunc(parts, func(p Part) bool { return len(p.Tokens) > 1 }); n > 0 {
		var rest []int32
		for _, start := range queryStart[n:] {
			rest = append(rest, start-int32(n))
		}
		batch.Singles, batch.RestStart = n, up(rest, 1, len(rest))
	}
	return batch
}

// slot is where the next token of s goes.
func (r *Runner) slot(s *Sequence) int32 {
	r.t.Helper()
	p := r.options.BlockSize
	if s.length == len(s.blocks)*p {
		if len(r.free) == 0 {
			r.t.Fatalf("modeltest: all %d blocks are taken", r.options.NumBlocks)
		}
		s.blocks = append(s.blocks, r.free[len(r.free)-1])
		r.free = r.free[:len(r.free)-1]
	}
	slot := s.blocks[s.length/p]*int32(p) + int32(s.length%p)
	s.length++
	return slot
}

// upload writes values to the input buffer from element *at on, which it moves.
func (r *Runner) upload(at *int, values []int32, rows, cols int) device.Tensor {
	raw := make([]byte, 4*len(values))
	for i, v := range values {
		binary.NativeEndian.PutUint32(raw[4*i:], uint32(v))
	}
	t := device.Matrix(r.input.Data+device.Ptr(4*(*at)), device.I32, rows, cols)
	if len(values) > 0 {
		r.options.Device.Upload(t.Data, raw)
	}
	*at += (len(values) + 15) / 16 * 16
	return t
}

// Logits runs tokens as one new sequence in steps of at most chunk tokens and returns the logits at every position.
func (r *Runner) Logits(tokens []int32, chunk int) [][]float32 {
	r.t.Helper()
	s := &Sequence{}
	defer r.Release(s)
	var all [][]float32
	for from := 0; from < len(tokens); from += chunk {
		part := tokens[from:min(from+chunk, len(tokens))]
		all = append(all, r.Step(Part{s, part, len(part)})...)
	}
	return all
}

// Greedy continues prompt by n tokens, each the most likely.
func (r *Runner) Greedy(prompt []int32, n int) []int32 {
	r.t.Helper()
	s := &Sequence{}
	defer r.Release(s)
	var all []int32
	for next := prompt; len(all) < n; next = all[len(all)-1:] {
		all = append(all, Argmax(r.Step(Part{s, next, 1})[0]))
	}
	return all
}

// Argmax is the id of the largest logit, the lowest among equals.
func Argmax(logits []float32) int32 {
	best := 0
	for i, v := range logits {
		if v > logits[best] {
			best = i
		}
	}
	return int32(best)
}

// KV is the cache.
func (r *Runner) KV() *model.KV { return &r.kv }
