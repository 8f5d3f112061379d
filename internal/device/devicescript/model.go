package devicescript

import (
	"context"
	"fmt"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/memory"
	"github.com/inferno-serve/inferno/internal/model"
)

// Architectures are what a backend loads a checkpoint of Checkpoint by.
func Architectures() map[string]model.Builder {
	return map[string]model.Builder{architecture: build}
}

// scripted is the model. The cache holds, where keys would be, a token, its position, and a digest of all tokens up to it.
type scripted struct {
	device *Device // nil: only measured
	config *model.Config
}

func build(_ context.Context, c *model.Checkpoint, o model.Options) (model.Model, error) {
	m := &scripted{config: c.Config}
	if _, err := o.Allocator.Alloc(memory.Activations, alignment); err != nil {
		return nil, err
	}
	m.device, _ = o.Device.(*Device)
	return m, nil
}

func (m *scripted) Config() *model.Config { return m.config }

func (m *scripted) KVLayout() model.KVLayout {
	return model.KVLayout{Layers: 1, Heads: 1, HeadDim: m.config.HeadDim, DType: device.F32}
}

// entryWords are those of a token in the cache: id, position, digest. They stand at the start of its key.
const entryWords = 4

// Forward enqueues a step.
func (m *scripted) Forward(b *model.Batch, kv *model.KV) {
	step := *b
	m.device.enqueue(op{took: m.device.take(b.Tokens.Len(), b.KVLen.Len()), do: func() { m.compute(&step, kv) }})
}

func (m *scripted) compute(b *model.Batch, kv *model.KV) {
	d := m.device
	tokens, positions, slots := view[int32](d, b.Tokens), view[int32](d, b.Positions), view[int32](d, b.Slots)
	starts, tables := view[int32](d, b.QueryStart), view[int32](d, b.BlockTable)
	cache, width := view[uint32](d, kv.K[0]), m.config.HeadDim
	seq, computed, marked := 0, int64(0), int64(0)
	for i, slot := range slots {
		for int(starts[seq+1]) <= i {
			seq++
		}
		if slot < 0 {
			continue // padding
		}
		before := uint64(0)
		if p := positions[i] - 1; p >= 0 {
			block := tables[seq*b.BlockTable.Stride+int(p)/kv.BlockSize]
			entry := cache[width*(int(block)*kv.BlockSize+int(p)%kv.BlockSize):][:entryWords]
			if entry[1] != uint32(p) {
				panic(fmt.Sprintf("devicescript: row %d of position %d finds position %d before it", i, positions[i], int32(entry[1])))
			}
			before = uint64(entry[2]) | uint64(entry[3])<<32
		}
		digest := extend(before, tokens[i])
		copy(cache[width*int(slot):], []uint32{uint32(tokens[i]), uint32(positions[i]), uint32(digest), uint32(digest >> 32)})
		computed++
		if tokens[i] == MarkedToken {
			marked++
		}
	}
	d.rows.Add(computed)
	d.marked.Add(marked)
	logits := view[uint32](d, b.Logits)
	for r, row := range view[int32](d, b.LogitRows) {
		if slot := slots[row]; slot >= 0 {
			entry := cache[width*int(slot):][:entryWords]
			logits[r*b.Logits.Stride] = uint32(nextOf(uint64(entry[2]) | uint64(entry[3])<<32))
		}
	}
}

// loud is the bit of a digest whose sequence began with LoudToken.
const loud = 1 << 63

// extend is the digest of a sequence with one more token; 0 is that of none.
func extend(digest uint64, token int32) uint64 {
	if digest == 0 && token == LoudToken {
		return loud
	}
	z := digest&^loud + uint64(token+1)*0x9e3779b97f4a7c15 // splitmix64's mixing
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return (z^z>>31)&^loud | digest&loud | 1
}

// nextOf is the token that follows: a word, or one that is long where the sequence began so.
func nextOf(digest uint64) int32 {
	if digest&loud != 0 {
		return firstLong + int32((digest&^loud)>>32%numLong)
	}
	return firstWord + int32((digest&^loud)>>32%numWords)
}

// Continue is what the model says after these tokens, n tokens of it.
func Continue(prompt []int32, n int) []int32 {
	digest, out := uint64(0), make([]int32, 0, n)
	for _, token := range prompt {
		digest = extend(digest, token)
	}
	for range n {
		out = append(out, nextOf(digest))
		digest = extend(digest, out[len(out)-1])
	}
	return out
}
