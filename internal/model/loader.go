package model

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/memory"
)

// Builder makes a model of a checkpoint: it declares Weights, allocates what a step needs, and loads. What it takes comes from the
// Allocator and returns with it, after a failure too.
type Builder func(ctx context.Context, c *Checkpoint, o Options) (Model, error)

// Loader loads checkpoints of the architectures that it is given.
type Loader struct {
	Architectures map[string]Builder // by Config.Architecture
}

// Options say where and how a checkpoint is loaded.
type Options struct {
	Device    device.Device
	Allocator memory.Allocator
	Limits    Limits
	DType     device.DType // F32, F16 or BF16: weights of these types are converted to it; 0: they stay. Quantised ones stay anyway
	KVType    device.DType // of cached keys and values; 0: F32 where all weights are F32, else what the device prefers

	// Progress is told how many bytes of weights were packed, of how many, after each piece of them; from several goroutines, one at a
	// time, loaded never falls. May be nil.
	Progress func(loaded, total int64)

	// Upload writes the constants (norms, biases, frequencies) to the device, once, on the goroutine that called Load. nil means
	// Device.Upload, which is right where nothing else drives the device; a load beside a running engine hands the call to its loop.
	Upload func(dst device.Ptr, src []byte)

	measure bool // allocate, but read nothing
}

// Load makes a model of an open checkpoint. Nothing is read before all memory was found to be there. Cancelling ctx stops it within the
// time of packing a few MiB.
func (l *Loader) Load(ctx context.Context, c *Checkpoint, o Options) (Model, error) {
	build, ok := l.Architectures[c.Config.Architecture]
	if !ok {
		return nil, fmt.Errorf("load %s: %w %.100q; supported here: %s",
			c.path, ErrUnsupported, c.Config.Architecture, strings.Join(slices.Sorted(maps.Keys(l.Architectures)), ", "))
	}
	if err := o.validate(c.Config); err != nil {
		return nil, fmt.Errorf("load %s: %w", c.path, err)
	}
	m, err := build(ctx, c, o)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", c.path, err)
	}
	return m, nil
}

// Need is the device memory that a model takes, in bytes by memory.Purpose.
type Need [memory.NumPurposes]int64

// Total is the sum over all purposes: what a pool for the model must have besides KV blocks and inputs.
func (n Need) Total() (bytes int64) {
	for _, b := range n {
		bytes += b
	}
	return bytes
}

// Measure finds what Load would allocate and how the model caches keys and values, without allocating or reading; o.Allocator is not used.
// It runs the builder itself, so that the two cannot differ.
func (l *Loader) Measure(ctx context.Context, c *Checkpoint, o Options) (Need, KVLayout, error) {
	scale := &scales{}
	o.Allocator, o.measure = scale, true
	m, err := l.Load(ctx, c, o)
	if err != nil {
		return Need{}, KVLayout{}, err
	}
	return scale.need, m.KVLayout(), nil
}

// scales is an Allocator that only counts, as a memory.Pool would.
type scales struct {
	need Need
	next device.Ptr
}

func (s *scales) Alloc(p memory.Purpose, bytes int64) (device.Ptr, error) {
	bytes = (bytes + memory.Alignment - 1) / memory.Alignment * memory.Alignment
	s.need[p] += bytes
	s.next += device.Ptr(bytes)
	return s.next, nil
}

func (o *Options) validate(c *Config) error {
	f := &faults{}
	floating := []device.DType{0, device.F32, device.F16, device.BF16}
	if !slices.Contains(floating, o.DType) {
		f.addf("dtype %v, want F32, F16 or BF16", o.DType)
	}
	if !slices.Contains(floating, o.KVType) {
		f.addf("KV type %v, want F32, F16 or BF16", o.KVType)
	}
	l := o.Limits
	if l.MaxTokens < 1 || l.MaxSeqs < 1 || l.MaxRows < 1 || l.MaxRows > l.MaxTokens {
		f.addf("limits %d tokens, %d sequences, %d rows of logits: want at least 1 of each, and not more rows than tokens",
			l.MaxTokens, l.MaxSeqs, l.MaxRows)
	}
	if l.Context < 1 || l.Context > c.Context {
		f.addf("context %d, want 1 to the model's %d", l.Context, c.Context)
	}
	d := o.Device.Info()
	if d.MaxHeadDim > 0 && c.HeadDim > d.MaxHeadDim {
		f.addf("heads are %d wide, want at most %d on %s", c.HeadDim, d.MaxHeadDim, d.Name)
	}
	if d.MaxVocab > 0 && c.Vocab > d.MaxVocab {
		f.addf("the vocabulary has %d tokens, want at most %d on %s", c.Vocab, d.MaxVocab, d.Name)
	}
	return f.err()
}
