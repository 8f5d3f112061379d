package model

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/memory"
)

// Weights is what a builder takes of a checkpoint: it declares each tensor and where it goes, and then calls Load. It belongs to one
// goroutine. Every tensor of the checkpoint must be declared, or be one that is known not to matter.
type Weights struct {
	checkpoint *Checkpoint
	options    Options
	matrices   []matrix
	vectors    []vector
	known      map[string]bool // names that were declared or do not matter
	faults     faults
}

// matrix is a weight that the device packs.
type matrix struct {
	tensor *Tensor
	packed *device.Weight
	dtype  device.DType // as packed; rows are converted where it differs from the tensor's
	order  []int32      // [rows] which stored row each row is; nil: itself
}

// vector is a float32 constant.
type vector struct {
	tensor *Tensor // nil: values
	values []float32
	at     *device.Tensor
	n      int
	order  []int32 // [n] which stored element each element is; nil: itself
}

// NewWeights declares nothing yet.
func NewWeights(c *Checkpoint, o Options) *Weights {
	return &Weights{checkpoint: c, options: o, known: map[string]bool{}}
}

// Matrix declares the matrix [rows, cols] of a Hugging Face name, packed into *w by Load. order[i] is the stored row that becomes row
// i; nil keeps them.
func (w *Weights) Matrix(packed *device.Weight, name string, rows, cols int, order []int32) {
	t := w.find(name, []int{rows, cols})
	if t == nil {
		return
	}
	dtype := t.DType
	if w.options.DType != 0 && !dtype.Quantised() {
		dtype = w.options.DType
	}
	w.matrices = append(w.matrices, matrix{t, packed, dtype, order})
}

// Vector declares the vector [n] of a Hugging Face name, uploaded as float32 into *at by Load; order is as Matrix has it.
func (w *Weights) Vector(at *device.Tensor, name string, n int, order []int32) {
	t := w.find(name, []int{n})
	if t == nil {
		return
	}
	if t.DType.Quantised() {
		w.faults.addf("tensor %s: type %s, want F32, F16 or BF16 for a vector", t.Stored, t.Type)
		return
	}
	w.vectors = append(w.vectors, vector{tensor: t, at: at, n: n, order: order})
}

// Constant declares float32 values that no file holds, uploaded into *at by Load.
func (w *Weights) Constant(at *device.Tensor, values []float32) {
	w.vectors = append(w.vectors, vector{values: values, at: at, n: len(values)})
}

// Ignore declares a tensor that is not used, there or not.
func (w *Weights) Ignore(name string) { w.known[name] = true }

// ActivationType is the type that the model computes in: the device's choice, or F32 where all weights are.
func (w *Weights) ActivationType() device.DType {
	if w.allF32() {
		return device.F32
	}
	return w.options.Device.Info().Activations
}

// KVType is the type for cached keys and values: Options.KVType, the device's choice, or F32 where all weights are.
func (w *Weights) KVType() device.DType {
	switch {
	case w.options.KVType != 0:
		return w.options.KVType
	case w.allF32():
		return device.F32
	default:
		return w.options.Device.Info().Cache
	}
}

func (w *Weights) allF32() bool {
	return !slices.ContainsFunc(w.matrices, func(m matrix) bool { return m.dtype != device.F32 })
}

// find reports a tensor that is missing or is not what is wanted.
func (w *Weights) find(name string, shape []int) *Tensor {
	w.known[name] = true
	if w.checkpoint.random {
		return w.checkpoint.declare(name, shape)
	}
	t := w.checkpoint.Tensor(name)
	switch {
	case t == nil:
		w.faults.addf("tensor %s: missing, want shape %v", w.checkpoint.storedName(name), shape)
		return nil
	case !slices.Equal(t.Shape, shape):
		w.faults.addf("tensor %s: shape %v, want %v", t.Stored, t.Shape, shape)
		return nil
	case t.DType == 0 || t.DType == device.I32:
		w.faults.addf("tensor %s: type %s, want F32, F16 or BF16", t.Stored, t.Type)
		return nil
	}
	return t
}

// Load checks that checkpoint and declarations agree, allocates, and reads, converts, orders and packs on all cores. Constants come
// last, by Options.Upload on this goroutine.
func (w *Weights) Load(ctx context.Context) error {
	w.findUnknown()
	if err := w.faults.err(); err != nil {
		return err
	}
	constants, err := w.allocate()
	if err != nil || w.options.measure {
		return err
	}
	var digests []digest
	if w.checkpoint.random {
		err = w.randomise(ctx)
	} else {
		digests, err = w.read(ctx)
	}
	if err != nil {
		return err
	}
	upload := w.options.Upload
	if upload == nil {
		upload = w.options.Device.Upload
	}
	upload(constants.at, bytesOf(constants.values))
	w.checkpoint.setRevision(digests)
	return nil
}

// findUnknown reports tensors that nobody declared: a model that has more than its architecture is another one.
func (w *Weights) findUnknown() {
	for _, name := range sortedNames(w.checkpoint.tensors) {
		harmless := strings.HasSuffix(name, ".rotary_emb.inv_freq") || name == ropeDivisorsName // follow from the config; are in it
		if !w.known[name] && !harmless {
			t := w.checkpoint.tensors[name]
			w.faults.addf("tensor %s: %s %v is not part of a %s model of this config",
				t.Stored, t.Type, t.Shape, w.checkpoint.Config.Architecture)
		}
	}
}

// constants is the one allocation that all vectors lie in.
type constants struct {
	at     device.Ptr
	values []float32 // as on the device
}

// allocate takes all memory before anything is read.
func (w *Weights) allocate() (*constants, error) {
	for _, m := range w.matrices {
		p, err := memory.NewWeight(w.options.Allocator, w.options.Device, m.dtype, m.tensor.Shape[0], m.tensor.Shape[1])
		if err != nil {
			return nil, fmt.Errorf("tensor %s: %w", m.tensor.Stored, err)
		}
		*m.packed = p
	}
	const lane = memory.Alignment / 4
	total := 0
	for _, v := range w.vectors {
		total += (v.n + lane - 1) / lane * lane
	}
	t, err := memory.NewTensor(w.options.Allocator, memory.Weights, device.F32, 1, total)
	if err != nil {
		return nil, fmt.Errorf("constants: %w", err)
	}
	c := &constants{at: t.Data, values: make([]float32, total)}
	at := 0
	for i, v := range w.vectors {
		*v.at = t.Columns(at, at+v.n)
		v.at.Stride = v.n
		w.vectors[i].values = c.values[at : at+v.n]
		if v.tensor == nil {
			copy(c.values[at:], v.values)
		}
		at += (v.n + lane - 1) / lane * lane
	}
	return c, nil
}

// bytesOf is the memory of v, in the machine's byte order, as a device wants it.
func bytesOf(v []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), 4*len(v))
}

func sortedNames(tensors map[string]*Tensor) []string {
	names := make([]string, 0, len(tensors))
	for name := range tensors {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// RotaryOrder is the order for Matrix and Vector that brings rows of heads·k stored in halves, where rotation turns (i, i + k/2), to
// neighbours (2i, 2i+1).
func RotaryOrder(heads, k int) []int32 {
	order := make([]int32, heads*k)
	for h := 0; h < heads; h++ {
		for i := 0; i < k/2; i++ {
			order[h*k+2*i] = int32(h*k + i)
			order[h*k+2*i+1] = int32(h*k + k/2 + i)
		}
	}
	return order
}
