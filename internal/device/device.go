// Package device is what a model may ask of a chip: memory, packed weights, a dozen ops, captured graphs. It knows no implementation.
// One goroutine, locked to its thread, drives a Device (the engine's loop, or a test); Alloc, Free, PackBytes, Pack,
// PackRows, AllocHost, FreeHost and Random may also be called from others, so that a load runs beside a step.
//
// Ops enqueue and return nothing: the first failure sticks, and Sync reports it. A wrong shape or type is a bug of the caller and
// panics in the Check functions, before native code sees it.
//
// Dimension letters: n tokens in the batch, b sequences, r rows that want logits, d model dim, h query heads, g KV heads, k head dim,
// f ffn dim, v vocabulary, p block size (tokens a KV block), B KV blocks.
package device

import (
	"errors"
	"fmt"
	"time"
)

// ErrUnavailable means that the device asked for cannot be had here: no library, driver or card. The wrapping error says which.
var ErrUnavailable = errors.New("device unavailable")

// ErrOutOfMemory means that the device could not give the memory asked for.
var ErrOutOfMemory = errors.New("device out of memory")

// ErrLost means that the device failed for good: every later call fails and the replica has to be replaced.
var ErrLost = errors.New("device lost")

// Ptr is an address in device memory; 0 is none.
type Ptr uintptr

// Device is one chip, or a group that acts as one.
type Device interface {
	Info() Info
	// Close waits for what runs and frees the device; pending work is dropped. Idempotent.
	Close() error

	// Alloc returns bytes of device memory, aligned to 256, contents undefined. The error wraps ErrOutOfMemory.
	Alloc(bytes int64) (Ptr, error)
	Free(p Ptr)
	// Upload copies src to the device in order with the ops; src may be reused on return.
	Upload(dst Ptr, src []byte)
	// Download copies from the device in order with the ops; dst is valid after Sync.
	Download(dst []byte, src Ptr)
	// Fill sets bytes of device memory to b.
	Fill(dst Ptr, b byte, bytes int64)

	// PackBytes is the size of a packed weight [rows, cols] of type t.
	PackBytes(t DType, rows, cols int) int64
	// Pack copies w.Rows rows from src (host memory, rows as a file holds them, in w.DType) into w's packed form. sourceRow[i] names
	// the source row that becomes row i; nil means row i itself. Complete on return.
	Pack(w Weight, src []byte, sourceRow []int32) error
	// PackRows is Pack of rows [first, first + n) alone: src holds whole rows, and sourceRow[i] names the one that becomes row first + i.
	// first is a multiple of PackAlignment, and so is n, unless they are the last rows. Several goroutines may pack rows of one weight.
	PackRows(w Weight, first, n int, src []byte, sourceRow []int32) error
	// AllocHost returns host memory, contents undefined, that packing reads fastest; one goroutine at a time packs from it. The error
	// wraps ErrOutOfMemory. FreeHost gives the whole of it back.
	AllocHost(bytes int) ([]byte, error)
	FreeHost(b []byte)
	// Random fills a packed F32, F16 or BF16 weight with reproducible numbers, uniform in ±scale: RandomElement's. Complete on return.
	// errors.ErrUnsupported: the caller makes and packs them.
	Random(w Weight, seed uint64, scale float32) error

	// Capture records the ops that record enqueues instead of running them. Nothing may upload, download, allocate or sync inside.
	Capture(record func()) (Graph, error)
	// Launch starts a captured graph, after what is pending.
	Launch(g Graph)
	// Flush starts what is pending and does not wait.
	Flush()
	// Sync starts what is pending, waits for it and returns the first failure since the device was opened.
	Sync() error

	// AllocMapped returns host memory, zeros, that Pull and Mark reach; it lives as long as the device.
	AllocMapped(bytes int) (HostBlock, error)
	// Steps are numbered by their marks, from 0: step k is what is enqueued before Mark number k and after the one before. Pull and Mark use
	// row k mod slots of their host memory in step k, also as a graph's, so that steps may be prepared while others run.
	// Pull is dst = src[k mod slots, :].
	Pull(dst, src Tensor)
	// Scatter is dst[index[i]] = values[i], but for an index outside dst; no index comes twice.
	Scatter(dst, index, values Tensor)
	// Feed is tokens[i] = ids[from[i]] where from[i] is an index of ids; other tokens stay.
	Feed(tokens, from, ids Tensor)
	// Mark ends step k: out[k mod slots, :] = values, and then Passed is k + 1. No values: both are empty.
	Mark(values, out Tensor)
	// Passed is how many steps have ended; −1 after a failure that is known. It neither starts nor waits for anything.
	Passed() int64
	// Poll is Sync without the wait.
	Poll() error

	Embed(out Tensor, table Weight, ids Tensor)
	RMSNorm(out, x, w Tensor, eps float32)
	// MatMul computes each product of x: out = x·Wᵀ + bias, added to what out holds where Accumulate is set. At most MaxProducts.
	MatMul(x Tensor, products []Product)
	RopeTable(table, pos, freq Tensor, scale float32)
	Rope(x, table Tensor, heads int)
	StoreKV(a StoreKVArgs)
	// RopeStoreKV is Rope on q and key, then StoreKV, fused where the device has it; key's contents are undefined afterwards.
	RopeStoreKV(q, table Tensor, heads int, a StoreKVArgs)
	Attention(a AttentionArgs)
	SwiGLU(out, gate, up Tensor)
	Add(out, a, b Tensor)
	GatherRows(out, x, rows Tensor)
	Sample(a SampleArgs)
	LogProbs(a LogProbsArgs)
	// Pool is out[i,:] = Σ x[j,:] over from[i] ≤ j < to[i].
	Pool(out, x, from, to Tensor)

	// The ops between a layer's residual streams, fused where the device has it; each leaves the bits of its composition.

	// NormMatMul is RMSNorm, then MatMul of what it gives.
	NormMatMul(a Norm, products []Product)
	// NormGateUp is RMSNorm, MatMul of gate and up, and SwiGLU of the two.
	NormGateUp(a NormGateUpArgs)
	// NormQKV is RMSNorm, MatMul of q, k and v, and RopeStoreKV of the three.
	NormQKV(a NormQKVArgs)
	// Dense is what lies between the attentions of two layers: MatMul of O, NormGateUp, MatMul of Down, and NormQKV of the next layer.
	Dense(a DenseArgs)
}

// PackAlignment is where PackRows may begin: at a multiple of so many rows.
const PackAlignment = 64

// RandomElement is element i, counted row by row, of what Random makes, before it is rounded to the weight's type.
func RandomElement(seed uint64, i int64, scale float32) float32 {
	z := seed + uint64(i+1)*0x9e3779b97f4a7c15 // splitmix64
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return float32(int32((z^z>>31)>>32)) * 0x1p-31 * scale
}

// Profiler is a Device that may have been opened to time each op by itself.
type Profiler interface {
	// Profile returns what was timed since it was last called; nothing where the device was not opened for it. Like Sync, for the goroutine
	// that drives the device.
	Profile() []ProfileRow
}

// Expecter is a Device that makes use of hearing of a launch ahead of it.
type Expecter interface {
	// Expect says that a launch of g is near, which may then cost its caller less. It changes nothing and waits for nothing.
	Expect(g Graph)
}

// ProfileRow is the calls of an op with one shape.
type ProfileRow struct {
	Op, Shape string
	Rows      int // n of each call
	Count     int
	Bytes     int64         // that must be read or written, of all calls; 0 where it is not told
	Took      time.Duration // all calls, each by itself
}

// HostBlock is host memory that a device reaches: the address by which it does, and the host's view.
type HostBlock struct {
	Data  Ptr
	Bytes []byte
}

// Graph is a captured sequence of ops. Close frees it.
type Graph interface{ Close() }

// Info describes an opened device.
type Info struct {
	Kind     string // "cpu" or "cuda"
	Name     string // "AMD EPYC 9654", "NVIDIA H200"
	Features string // the kernels chosen: "avx512-vnni", "avx2", "portable", "sm_90"
	Threads  int    // CPU worker threads; 0 elsewhere
	Library  string // path of the library, and
	Table    int    // the version of its table; "" and 0 for what is compiled in
	Driver   string // CUDA versions of the driver, and
	Runtime  string // that the library was built with: "13.0"; "" on the CPU
	Unified  bool   // device memory is host memory
	Exact    bool   // quantised weights multiply activations as they are, not rounded to 8 bits
	Capture  bool   // Capture works
	Overlap  bool   // Flush and Launch return while the work runs
	KVBlock  int    // tokens in a block of keys and values as attention reads them best; it takes any number
	// The widest heads that Attention takes, and the largest vocabulary that Sample does; 0: any.
	MaxHeadDim, MaxVocab int
	// Types that a model's activations and cached keys and values have, unless all of its weights are F32: then both are F32.
	Activations, Cache DType
	TotalBytes         int64 // of the memory that Alloc draws from
	FreeBytes          int64
	OwnBytes           int64 // of that memory, what opening took for the ops' own scratch
}

// Tensor is a dense matrix in device memory, or a vector. Element (i, j) is at Data + (i·Stride + j)·DType.Size().
type Tensor struct {
	Data       Ptr
	DType      DType
	Rows, Cols int
	Stride     int // elements between rows
}

// Matrix is a contiguous tensor [rows, cols] at p.
func Matrix(p Ptr, t DType, rows, cols int) Tensor {
	return Tensor{Data: p, DType: t, Rows: rows, Cols: cols, Stride: cols}
}

// Vector is a contiguous tensor of one row.
func Vector(p Ptr, t DType, n int) Tensor { return Matrix(p, t, 1, n) }

// Len is the number of elements.
func (t Tensor) Len() int { return t.Rows * t.Cols }

// Top is the first rows of t.
func (t Tensor) Top(rows int) Tensor {
	if rows < 0 || rows > t.Rows {
		panic(fmt.Sprintf("device: Top(%d) of %v", rows, t))
	}
	t.Rows = rows
	return t
}

// From is t without its first rows.
func (t Tensor) From(row int) Tensor {
	if row < 0 || row > t.Rows {
		panic(fmt.Sprintf("device: From(%d) of %v", row, t))
	}
	t.Data += Ptr(row * t.Stride * t.DType.Size())
	t.Rows -= row
	return t
}

// Columns is the columns [from, to) of t.
func (t Tensor) Columns(from, to int) Tensor {
	if from < 0 || to < from || to > t.Cols {
		panic(fmt.Sprintf("device: Columns(%d, %d) of %v", from, to, t))
	}
	t.Data += Ptr(from * t.DType.Size())
	t.Cols = to - from
	return t
}

func (t Tensor) String() string { return fmt.Sprintf("%v[%d %d]", t.DType, t.Rows, t.Cols) }

// Weight is a packed matrix [Rows, Cols] = [out, in], opaque to everyone but its device.
type Weight struct {
	Data       Ptr
	DType      DType
	Rows, Cols int
}

func (w Weight) String() string { return fmt.Sprintf("%v weight [%d %d]", w.DType, w.Rows, w.Cols) }

// MaxProducts bounds the products of one MatMul.
const MaxProducts = 3

// Product is one output of a MatMul.
type Product struct {
	W          Weight // [m, c]
	Bias       Tensor // F32 [m]; Data 0: none
	Out        Tensor // [n, m]
	Accumulate bool   // add to what Out holds
}

// KVShape is the geometry of paged keys and values.
type KVShape struct {
	Heads     int // g
	HeadDim   int // k
	BlockSize int // p
}

// Elements is the number of elements of a block of keys (as many again of values).
func (s KVShape) Elements() int { return s.Heads * s.BlockSize * s.HeadDim }

// StoreKVArgs writes keys and values of n tokens to their slots (block·p + offset); slot −1 is skipped.
type StoreKVArgs struct {
	Key, Value     Tensor // [n, g·k]
	Slots          Tensor // I32 [n]
	KCache, VCache Tensor // F32, F16 or BF16 [B, g·p·k], a block holding [g, p, k]
	Shape          KVShape
}

// Norm is an RMSNorm in front of products. Normed is scratch: its contents are undefined afterwards.
type Norm struct {
	X      Tensor // [n, d]
	W      Tensor // F32 [d]
	Normed Tensor // [n, d], not X
	Eps    float32
}

// NormGateUpArgs computes Out = SwiGLU(Gate·x + GateBias, Up·x + UpBias) for each normed row x.
type NormGateUpArgs struct {
	Norm             Norm
	Gate, Up         Weight // [f, d]
	GateBias, UpBias Tensor // F32 [f]; Data 0: none
	Out              Tensor // [n, f]
	Scratch          Tensor // [n, f]; contents undefined afterwards
}

// NormQKVArgs leaves rotated queries in Q.Out, and writes rotated keys and values to their slots.
type NormQKVArgs struct {
	Norm           Norm
	Q, K, V        Product // of [h·k, d], [g·k, d], [g·k, d]; none accumulates; the contents of K.Out and V.Out are undefined afterwards
	Table          Tensor  // F32 [n, k]
	Heads          int     // h
	Slots          Tensor  // I32 [n]
	KCache, VCache Tensor  // [B, g·p·k]
	Shape          KVShape
}

// Store is how the keys and values reach the cache.
func (a *NormQKVArgs) Store() StoreKVArgs {
	return StoreKVArgs{Key: a.K.Out, Value: a.V.Out, Slots: a.Slots, KCache: a.KCache, VCache: a.VCache, Shape: a.Shape}
}

// DenseArgs is one layer behind its attention, and the next up to its own. The residual stream is what O and Down add to, and what MLP and
// Next normalise: one tensor.
type DenseArgs struct {
	Attended Tensor         // [n, h·k]
	O        Product        // [d, h·k]; accumulates
	MLP      NormGateUpArgs // the contents of its Out are undefined afterwards
	Down     Product        // [d, f]; accumulates
	Next     *NormQKVArgs   // nil: this was the last layer
}

// AttentionArgs is causal attention of a ragged batch over paged keys and values. Rows QueryStart[i] up to QueryStart[i+1] belong to
// sequence i and are its last positions; KVLen[i] counts them and all before.
type AttentionArgs struct {
	Out, Q         Tensor // [n, h·k]
	KCache, VCache Tensor // [B, g·p·k]
	BlockTable     Tensor // I32 [b, max blocks a sequence]
	QueryStart     Tensor // I32 [b+1]
	KVLen          Tensor // I32 [b]
	Heads          int    // h
	Shape          KVShape
	Scale          float32
}

// SampleParams is what one row of logits is sampled with: inferno_sample_params of kernels/inferno.h, which defines the arithmetic.
type SampleParams struct {
	Seed        uint64
	Position    uint32  // of the token being chosen, counted from the start of the prompt
	TopK        int32   // 0: off
	Temperature float32 // 0: greedy
	TopP        float32 // 1: off
	MinP        float32 // 0: off
	NumBanned   int32
	TypicalP    float32 // 0 or 1: off
	Adjustment  int32   // 1 + where in Adjustments it begins, in words; 0: none
	_           int64
}

// Adjustment is what changes a row of logits before it is sampled: inferno_adjustment of kernels/inferno.h. It is followed by NumBias pairs
// of an id and a float32, and, where Masked, by a bit for each id that may be chosen in words of 32.
type Adjustment struct {
	Repetition          float32 // 1: off
	Presence, Frequency float32 // 0: off
	Window              int32   // of the last tokens, which Repetition looks at; 0: all
	Prompt              int32   // tokens of the prompt; what follows was generated
	Sequence            int32   // row of BlockTable
	NumBias             int32
	Masked              int32
}

// AdjustmentBytes is the size of an Adjustment.
const AdjustmentBytes = 32

// SampleParamsBytes is the size of a SampleParams.
const SampleParamsBytes = 48

// MaxTopLogProbs bounds LogProbsArgs.Top.
const MaxTopLogProbs = 20

// LogProbsArgs asks for log-probabilities of rows of logits; kernels/inferno.h has the arithmetic, and what a row of Out holds: the
// chosen id's and its rank, those of IDs, then the Top likeliest ids and theirs.
type LogProbsArgs struct {
	Logits Tensor // F32 [r, v]
	Rows   Tensor // I32 [q] of Logits
	Chosen Tensor // I32 [q]
	IDs    Tensor // I32 [q, m]; Data 0: m = 0
	Top    int
	Out    Tensor // I32 [q, 2 + m + 2·Top], written; floats by their bits
}

// SampleArgs chooses an id a row; −1 where a row holds a NaN or +Inf, or every id is banned.
type SampleArgs struct {
	Logits Tensor // F32 [r, v]
	Params Tensor // SampleParams [r], declared as I32 [r, 12]
	Banned Tensor // I32 [r, max banned]; Data 0: none
	IDs    Tensor // I32 [r], written

	Adjustments Tensor // I32 [any], contiguous: those that Params name; Data 0: none
	History     Tensor // I32 [B, p], contiguous: the token in each slot, where an adjustment has penalties; Data 0: none has
	BlockTable  Tensor // I32 [b, max blocks a sequence]; with History
}
