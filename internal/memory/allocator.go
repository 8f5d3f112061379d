package memory

import (
	"fmt"

	"github.com/inferno-serve/inferno/internal/device"
)

// Allocator is how a model and the engine get device memory. A Pool is one; the memory lives as long as the pool.
type Allocator interface {
	Alloc(purpose Purpose, bytes int64) (device.Ptr, error)
}

// maxElements keeps sizes that a broken file claims from overflowing.
const maxElements = 1 << 48

// NewTensor allocates a contiguous tensor [rows, cols], contents undefined.
func NewTensor(a Allocator, purpose Purpose, t device.DType, rows, cols int) (device.Tensor, error) {
	if !t.Valid() || t.Quantised() {
		return device.Tensor{}, fmt.Errorf("allocate tensor [%d %d]: type is %v, want one that is not quantised", rows, cols, t)
	}
	if rows < 1 || cols < 1 || rows > maxElements/cols {
		return device.Tensor{}, fmt.Errorf("allocate %v tensor [%d %d]: want 1 to %d elements", t, rows, cols, maxElements)
	}
	data, err := a.Alloc(purpose, int64(rows)*t.RowBytes(cols))
	if err != nil {
		return device.Tensor{}, fmt.Errorf("allocate %v tensor [%d %d]: %w", t, rows, cols, err)
	}
	return device.Matrix(data, t, rows, cols), nil
}

// Packer says how large a weight is in a device's own form.
type Packer interface {
	PackBytes(t device.DType, rows, cols int) int64
}

// NewWeight allocates room for a packed weight [rows, cols]; the device's Pack fills it.
func NewWeight(a Allocator, p Packer, t device.DType, rows, cols int) (device.Weight, error) {
	if !t.Valid() || t == device.I32 {
		return device.Weight{}, fmt.Errorf("allocate weight [%d %d]: type is %v, want one that weights have", rows, cols, t)
	}
	if rows < 1 || cols < 1 || rows > maxElements/cols || cols%t.Block() != 0 {
		return device.Weight{}, fmt.Errorf("allocate %v weight [%d %d]: want 1 to %d elements and a multiple of %d columns",
			t, rows, cols, maxElements, t.Block())
	}
	data, err := a.Alloc(Weights, p.PackBytes(t, rows, cols))
	if err != nil {
		return device.Weight{}, fmt.Errorf("allocate %v weight [%d %d]: %w", t, rows, cols, err)
	}
	return device.Weight{Data: data, DType: t, Rows: rows, Cols: cols}, nil
}
