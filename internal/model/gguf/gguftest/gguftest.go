// Package gguftest writes GGUF files for tests, and converts rows to and from the types that they hold. It is straightforward where
// shipped code is fast, so that the two can be compared.
package gguftest

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/inferno-serve/inferno/internal/device"
)

// Writer appends the parts of a file. Any of them may be wrong.
type Writer struct{ Data []byte }

// Raw appends bytes as they are.
func (w *Writer) Raw(b string) *Writer {
	w.Data = append(w.Data, b...)
	return w
}

// U32 appends a uint32.
func (w *Writer) U32(v uint32) *Writer {
	w.Data = binary.LittleEndian.AppendUint32(w.Data, v)
	return w
}

// U64 appends a uint64.
func (w *Writer) U64(v uint64) *Writer {
	w.Data = binary.LittleEndian.AppendUint64(w.Data, v)
	return w
}

// Str appends a length and a text.
func (w *Writer) Str(s string) *Writer { return w.U64(uint64(len(s))).Raw(s) }

// Value appends a type and a value of the Go type that fits it.
func (w *Writer) Value(v any) *Writer {
	switch v := v.(type) {
	case uint8:
		return w.U32(0).Raw(string([]byte{v}))
	case int8:
		return w.U32(1).Raw(string([]byte{byte(v)}))
	case uint32:
		return w.U32(4).U32(v)
	case int32:
		return w.U32(5).U32(uint32(v))
	case float32:
		return w.U32(6).U32(math.Float32bits(v))
	case bool:
		if v {
			return w.U32(7).Raw("\x01")
		}
		return w.U32(7).Raw("\x00")
	case string:
		return w.U32(8).Str(v)
	case uint64:
		return w.U32(10).U64(v)
	case int64:
		return w.U32(11).U64(uint64(v))
	case float64:
		return w.U32(12).U64(math.Float64bits(v))
	case []string:
		w.U32(9).U32(8).U64(uint64(len(v)))
		for _, s := range v {
			w.Str(s)
		}
		return w
	case []int32:
		w.U32(9).U32(5).U64(uint64(len(v)))
		for _, n := range v {
			w.U32(uint32(n))
		}
		return w
	case []uint32:
		w.U32(9).U32(4).U64(uint64(len(v)))
		for _, n := range v {
			w.U32(n)
		}
		return w
	case []float32:
		w.U32(9).U32(6).U64(uint64(len(v)))
		for _, n := range v {
			w.U32(math.Float32bits(n))
		}
		return w
	}
	panic(fmt.Sprintf("gguftest: no GGUF type for %T", v))
}

// Tensor is a tensor of a file.
type Tensor struct {
	Name  string
	DType device.DType
	Shape []int // outermost first
	Data  []byte
}

var typeNumbers = map[device.DType]uint32{device.F32: 0, device.F16: 1, device.Q4_0: 2, device.Q4_1: 3, device.Q8_0: 8, device.BF16: 30}

const alignment = 32

// File is a good file, version 3. Keys and values alternate; values are what Writer.Value takes.
func File(keyValues []any, tensors ...Tensor) []byte {
	w := (&Writer{}).Raw("GGUF").U32(3).U64(uint64(len(tensors))).U64(uint64(len(keyValues) / 2))
	for i := 0; i < len(keyValues); i += 2 {
		w.Str(keyValues[i].(string)).Value(keyValues[i+1])
	}
	offset := 0
	for _, t := range tensors {
		w.Str(t.Name).U32(uint32(len(t.Shape)))
		for i := len(t.Shape) - 1; i >= 0; i-- {
			w.U64(uint64(t.Shape[i]))
		}
		w.U32(typeNumbers[t.DType]).U64(uint64(offset))
		offset += (len(t.Data) + alignment - 1) / alignment * alignment
	}
	for _, t := range tensors {
		w.Pad()
		w.Data = append(w.Data, t.Data...)
	}
	w.Pad()
	return w.Data
}

// Pad appends zeros up to a multiple of 32 bytes.
func (w *Writer) Pad() *Writer {
	for len(w.Data)%alignment != 0 {
		w.Data = append(w.Data, 0)
	}
	return w
}
