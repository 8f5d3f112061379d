// Package model turns checkpoints into models on a device: Config, Checkpoint (Hugging Face directories and GGUF files), Loader, and the
// interface that every architecture fills. The architectures themselves are siblings such as model/llama; whoever assembles the server
// gives the Loader its map of them.
package model

import (
	"github.com/inferno-serve/inferno/internal/device"
)

// Model is a loaded architecture on a device. Forward belongs to the goroutine that drives the device.
type Model interface {
	Config() *Config
	// KVLayout says what the engine must allocate for cached keys and values.
	KVLayout() KVLayout
	// Forward enqueues one step: it writes the batch's keys and values to their slots and the logits of the rows in b.LogitRows to
	// b.Logits, and sums of hidden states to b.Pooled. It does not synchronise and allocates no device memory.
	Forward(b *Batch, kv *KV)
}

// KVLayout is the shape of the cache of one layer; all layers are alike.
type KVLayout struct {
	Layers  int
	Heads   int          // g
	HeadDim int          // k
	DType   device.DType // F32 or F16 on the CPU
}

// BlockBytes is what one block of blockSize tokens takes over all layers, keys and values.
func (l KVLayout) BlockBytes(blockSize int) int64 {
	return 2 * int64(l.Layers) * int64(l.Heads) * int64(l.HeadDim) * int64(blockSize) * int64(l.DType.Size())
}

// KV is the paged cache of keys and values.
type KV struct {
	BlockSize int             // p
	K, V      []device.Tensor // a layer each: [B, g·p·k]
}

// Batch is one step on the device: prefill chunks and decode rows together. All tensors are I32 but Logits.
type Batch struct {
	Tokens     device.Tensor // [n] ids
	Positions  device.Tensor // [n] from the start of each sequence
	Slots      device.Tensor // [n] where keys and values go: block·p + offset; −1 for padding
	QueryStart device.Tensor // [b+1] first row of each sequence; QueryStart[b] = n
	KVLen      device.Tensor // [b] tokens of each sequence up to and including this step
	BlockTable device.Tensor // [b, max blocks]
	Singles    int           // sequences at the front with a row each, before others; 0: none, or they are not told apart
	RestStart  device.Tensor // [b−Singles+1] QueryStart of those others, counted from row Singles on; unread where Singles is 0
	LogitRows  device.Tensor // [r] rows whose logits are wanted
	AllRows    bool          // LogitRows is 0 .. n−1, as in a decode step; a model may then leave it unread
	Logits     device.Tensor // F32 [r, v], written

	// Sums of final hidden states, those behind the last norm, over ranges of the batch's rows; e is 0 in nearly all steps.
	PoolFrom, PoolTo device.Tensor // [e] rows PoolFrom[i] up to PoolTo[i]
	Pooled           device.Tensor // F32 [e, d], written
}

// Limits bounds a batch, so that a model can allocate its activations once.
type Limits struct {
	MaxTokens int // n
	MaxSeqs   int // b
	MaxRows   int // r
	Context   int // tokens of one sequence
}
