// Package safetensors reads tensors from safetensors files: one file, or the shards that a model.safetensors.index.json names.
//
// A file is a little-endian uint64 N, a JSON header of N bytes that names type, shape and byte range of every tensor, and the tensors'
// bytes. The format: https://github.com/huggingface/safetensors#format. The reader is strict: ranges must tile the data without hole,
// overlap or rest, and agree with type and shape, so that no two readers can understand one file differently. Tensors without elements,
// which the format allows, are refused: no model has any.
//
// Data is read with pread, not mapped: a mapped file that somebody truncates ends a Go process. Tensor data may be read from any number of
// goroutines; everything else belongs to the caller of Open.
package safetensors

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"syscall"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

// Limits on what a file may claim. The first is the format's own.
const (
	MaxHeaderBytes = 100_000_000
	MaxTensors     = 200_000
	MaxDims        = 8
)

// DType is an element type as files spell it: "F32".
type DType string

// The types that have readers here; a file may hold the others of the format too, as bytes.
const (
	F32  DType = "F32"
	F16  DType = "F16"
	BF16 DType = "BF16"
	I64  DType = "I64"
)

var dtypeBytes = map[DType]int64{
	"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
	"U16": 2, "I16": 2, F16: 2, BF16: 2,
	"U32": 4, "I32": 4, F32: 4,
	"U64": 8, I64: 8, "F64": 8, "C64": 8,
}

// Tensor is where a file keeps a tensor.
type Tensor struct {
	Name   string
	DType  DType
	Shape  []int // outermost first, no dimension 0; empty for a scalar
	Offset int64 // of its first byte, from the start of the file
	Bytes  int64
	File   *File
}

// ReadAt reads len(p) bytes of the tensor from its byte off on.
func (t *Tensor) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > t.Bytes || int64(len(p)) > t.Bytes-off {
		return 0, fmt.Errorf("%s: tensor %s: read of %d bytes at %d, it has %d", t.File.path, t.Name, len(p), off, t.Bytes)
	}
	n, err := t.File.data.ReadAt(p, t.Offset+off)
	if n == len(p) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = errors.New("the file became shorter while it was read")
	}
	return n, fmt.Errorf("%s: tensor %s: %w", t.File.path, t.Name, err)
}

// File is an open safetensors file.
type File struct {
	path     string
	file     *os.File // nil where New was given a reader
	data     io.ReaderAt
	tensors  []*Tensor // in the order of their data
	metadata map[string]string
}

// Open reads the header of the file at path and keeps the file open until Close.
func Open(path string) (*File, error) {
	// O_NONBLOCK: opening a pipe must not wait for its writer. It has no effect on regular files.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return newFile(path, f)
}

// newFile takes f over.
func newFile(path string, f *os.File) (*File, error) {
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	sf, err := New(path, f, info.Size())
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	sf.file = f
	return sf, nil
}

// New reads the header of a file of size bytes; path is for messages.
func New(path string, data io.ReaderAt, size int64) (*File, error) {
	f := &File{path: path, data: data}
	if err := f.readHeader(size); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Close closes the file. Idempotent.
func (f *File) Close() error {
	if f.file == nil {
		return nil
	}
	file := f.file
	f.file = nil
	return file.Close()
}

// Tensors lists the tensors in the order of their data; the caller must not change them.
func (f *File) Tensors() []*Tensor { return f.tensors }

// Metadata is the header's __metadata__, by key.
func (f *File) Metadata() map[string]string { return f.metadata }

// Path is what Open was given.
func (f *File) Path() string { return f.path }

const lengthBytes = 8

func (f *File) readHeader(size int64) error {
	var length [lengthBytes]byte
	if size < lengthBytes {
		return fmt.Errorf("the file has %d bytes, want at least the %d of the header's length", size, lengthBytes)
	}
	if _, err := f.data.ReadAt(length[:], 0); err != nil {
		return fmt.Errorf("read the header's length: %w", err)
	}
	headerBytes := binary.LittleEndian.Uint64(length[:])
	if headerBytes > MaxHeaderBytes {
		return fmt.Errorf("the header has %d bytes, want at most %d", headerBytes, int64(MaxHeaderBytes))
	}
	if int64(headerBytes) > size-lengthBytes {
		return fmt.Errorf("the header has %d bytes, but the file only %d after the header's length", headerBytes, size-lengthBytes)
	}
	header := make([]byte, headerBytes)
	if _, err := f.data.ReadAt(header, lengthBytes); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the header: %w", err)
	}
	if err := f.parseHeader(header); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	return f.placeTensors(lengthBytes+int64(headerBytes), size)
}

func (f *File) parseHeader(header []byte) error {
	if len(header) == 0 || header[0] != '{' {
		return fmt.Errorf("starts with %.1q, want '{'", header)
	}
	r, err := strictjson.NewReader(header)
	if err != nil {
		return err
	}
	err = r.Object(func(name string) error {
		if name == "__metadata__" {
			return f.parseMetadata(r)
		}
		if len(f.tensors) == MaxTensors {
			return fmt.Errorf("more than %d tensors", MaxTensors)
		}
		t, err := parseTensor(r, name)
		if err != nil {
			return err
		}
		t.File = f
		f.tensors = append(f.tensors, t)
		return nil
	})
	if err != nil {
		return err
	}
	return r.End()
}

func (f *File) parseMetadata(r *strictjson.Reader) error {
	f.metadata = map[string]string{}
	return r.Object(func(key string) (err error) {
		f.metadata[key], err = r.String()
		return err
	})
}

// parseTensor reads {"dtype": …, "shape": […], "data_offsets": [begin, end]}; the offsets count from the end of the header.
func parseTensor(r *strictjson.Reader, name string) (*Tensor, error) {
	t := &Tensor{Name: name}
	var end int64
	var hasShape, hasOffsets bool
	err := r.Object(func(key string) (err error) {
		switch key {
		case "dtype":
			var s string
			s, err = r.String()
			t.DType = DType(s)
		case "shape":
			hasShape = true
			t.Shape, err = parseShape(r)
		case "data_offsets":
			hasOffsets = true
			t.Offset, end, err = parseOffsets(r)
		default:
			return errors.New("unknown key")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if t.DType == "" || !hasShape || !hasOffsets {
		return nil, errors.New("incomplete, want dtype, shape and data_offsets")
	}
	t.Bytes = end - t.Offset
	return t, t.checkSize()
}

func parseShape(r *strictjson.Reader) ([]int, error) {
	shape := make([]int, 0, 2)
	err := r.Array(func(i int) error {
		if i == MaxDims {
			return fmt.Errorf("more than %d dimensions", MaxDims)
		}
		n, err := r.Int()
		if err == nil && (n < 1 || n > math.MaxInt) {
			err = fmt.Errorf("dimension %d, want 1 to %d", n, math.MaxInt)
		}
		shape = append(shape, int(n))
		return err
	})
	return shape, err
}

func parseOffsets(r *strictjson.Reader) (begin, end int64, err error) {
	var offsets [2]int64
	count := 0
	err = r.Array(func(i int) (err error) {
		if i == len(offsets) {
			return errors.New("more than 2 offsets")
		}
		count++
		offsets[i], err = r.Int()
		return err
	})
	begin, end = offsets[0], offsets[1]
	switch {
	case err != nil:
		return 0, 0, err
	case count != len(offsets):
		return 0, 0, fmt.Errorf("%d offsets, want 2", count)
	case begin < 0 || end < begin:
		return 0, 0, fmt.Errorf("[%d, %d] is no range", begin, end)
	}
	return begin, end, nil
}

// checkSize compares the range with type and shape.
func (t *Tensor) checkSize() error {
	size, ok := dtypeBytes[t.DType]
	if !ok {
		return fmt.Errorf("unknown dtype %.32q", string(t.DType))
	}
	for _, n := range t.Shape {
		if size > math.MaxInt64/int64(n) {
			return fmt.Errorf("shape %v of %s has more than 2^63 bytes", t.Shape, t.DType)
		}
		size *= int64(n)
	}
	if size != t.Bytes {
		return fmt.Errorf("shape %v of %s takes %d bytes, data_offsets span %d", t.Shape, t.DType, size, t.Bytes)
	}
	return nil
}

// placeTensors sorts the tensors by offset and demands that they tile the data, which begins at byte start of the file.
func (f *File) placeTensors(start, size int64) error {
	slices.SortFunc(f.tensors, func(a, b *Tensor) int { return cmp.Compare(a.Offset, b.Offset) })
	dataBytes := size - start
	var next int64
	for _, t := range f.tensors {
		switch {
		case t.Bytes > dataBytes || t.Offset > dataBytes-t.Bytes:
			return fmt.Errorf("tensor %q: its data ends at %d, the file's at %d", t.Name, t.Offset+min(t.Bytes, dataBytes), dataBytes)
		case t.Offset > next:
			return fmt.Errorf("tensor %q: its data begins at %d, which leaves a hole from %d", t.Name, t.Offset, next)
		case t.Offset < next:
			return fmt.Errorf("tensor %q: its data begins at %d and overlaps what ends at %d", t.Name, t.Offset, next)
		}
		next += t.Bytes
		t.Offset += start
	}
	if next != dataBytes {
		return fmt.Errorf("%d bytes after the last tensor", dataBytes-next)
	}
	return nil
}
