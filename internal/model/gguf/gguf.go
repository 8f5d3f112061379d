// Package gguf reads GGUF files, versions 2 and 3, little-endian: key-values and the places of tensors.
//
// A file is a header (magic, version, counts), key-values, tensor descriptions, padding, and the tensors' data, one after the other at
// multiples of the alignment. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Everything up to the data is
// read into one buffer, in which values stay until they are asked for. The reader is strict: each size that a file claims is compared with
// what is left of it before it is used, and tensors must follow one another without hole or overlap.
//
// Data is read with pread, not mapped: a mapped file that somebody truncates ends a Go process. Tensor data may be read from any number of
// goroutines, and so may metadata.
package gguf

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"syscall"

	"github.com/inferno-serve/inferno/internal/device"
)

// Limits on what a file may claim. The largest headers in use, of vocabularies of 256,000 tokens, have some 15 MiB.
const (
	MaxHeaderBytes   = 64 << 20
	MaxStringBytes   = 16 << 20
	MaxKeyBytes      = 65535 // the format's own
	MaxKeys          = 65536
	MaxArrayElements = 16 << 20
	MaxTensors       = 200_000
	MaxNameBytes     = 64 // the format's own
	MaxDims          = 4  // the format's own
	MaxAlignment     = 64 << 10
)

const (
	magic            = "GGUF"
	alignmentKey     = "general.alignment"
	defaultAlignment = 32
	minKeyBytes      = 8 + 1 + 4 + 1            // length, one letter, type, value
	minTensorBytes   = 8 + 1 + 4 + 8 + 4 + 8    // length, one letter, number of dimensions, one of them, type, offset
	firstReadBytes   = 4 << 20                  // holds the header of most files
	wrongEndVersion2 = uint32(2) << 24          // version 2 as a big-endian file looks here
	wrongEndVersion3 = wrongEndVersion2 + 1<<24 // and version 3
)

// Tensor is where a file keeps a tensor.
type Tensor struct {
	Name   string
	DType  device.DType
	Shape  []int // outermost first: the reverse of the file's order
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

// File is an open GGUF file.
type File struct {
	path     string
	file     *os.File // nil where New was given a reader
	data     io.ReaderAt
	version  uint32
	header   []byte
	metadata Metadata
	tensors  []*Tensor // in the order of their data
	byName   map[string]*Tensor
}

// Open reads the file at path up to its tensors' data and keeps it open until Close.
func Open(path string) (*File, error) {
	// O_NONBLOCK: opening a pipe must not wait for its writer. It has no effect on regular files.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file", path)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	f, err := New(path, file, info.Size())
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	f.file = file
	return f, nil
}

// New reads a file of size bytes up to its tensors' data; path is for messages.
func New(path string, data io.ReaderAt, size int64) (*File, error) {
	f := &File{path: path, data: data, byName: map[string]*Tensor{}}
	if err := f.read(size); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Close closes the file; its metadata stays. Idempotent.
func (f *File) Close() error {
	if f.file == nil {
		return nil
	}
	file := f.file
	f.file = nil
	return file.Close()
}

// Path is what Open was given.
func (f *File) Path() string { return f.path }

// Header is everything before the tensors' data; the caller must not change it.
func (f *File) Header() []byte { return f.header }

// Metadata is the key-values.
func (f *File) Metadata() *Metadata { return &f.metadata }

// Tensors lists the tensors in the order of their data; the caller must not change them.
func (f *File) Tensors() []*Tensor { return f.tensors }

// Tensor finds a tensor by name; nil where there is none.
func (f *File) Tensor(name string) *Tensor { return f.byName[name] }

func (f *File) read(size int64) error {
	c := &cursor{source: f.data, size: size}
	numTensors, numKeys, err := f.readCounts(c)
	if err != nil {
		return err
	}
	if err := f.metadata.read(c, numKeys); err != nil {
		return err
	}
	alignment, err := f.alignment()
	if err != nil {
		return err
	}
	f.tensors = make([]*Tensor, 0, numTensors)
	var next int64 // where the next tensor's data must begin, from the start of all data
	for i := range numTensors {
		t, err := f.readTensor(c, next)
		if err != nil {
			return fmt.Errorf("tensor %d of %d: %w", i+1, numTensors, err)
		}
		if t.Bytes > size-t.Offset {
			return fmt.Errorf("tensor %q: its %d bytes at %d end beyond the file's %d", t.Name, t.Bytes, t.Offset, size)
		}
		next = alignUp(t.Offset+t.Bytes, alignment)
	}
	f.header = c.data[:c.pos:c.pos]
	return f.placeTensors(alignUp(int64(c.pos), alignment), size, alignment)
}

func (f *File) readCounts(c *cursor) (numTensors, numKeys int, err error) {
	start, err := c.bytes(len(magic))
	if err != nil || string(start) != magic {
		return 0, 0, fmt.Errorf("starts with %q, want %q: not a GGUF file", start, magic)
	}
	if f.version, err = c.uint32(); err != nil {
		return 0, 0, fmt.Errorf("version: %w", err)
	}
	switch f.version {
	case 2, 3:
	case wrongEndVersion2, wrongEndVersion3:
		return 0, 0, errors.New("a big-endian file, want a little-endian one")
	default:
		return 0, 0, fmt.Errorf("version is %d, want 2 or 3", f.version)
	}
	if numTensors, err = c.count("tensors", MaxTensors, minTensorBytes); err != nil {
		return 0, 0, err
	}
	numKeys, err = c.count("key-values", MaxKeys, minKeyBytes)
	return numTensors, numKeys, err
}

func (f *File) alignment() (int64, error) {
	if !f.metadata.Has(alignmentKey) {
		return defaultAlignment, nil
	}
	v := f.metadata.values[alignmentKey]
	a, ok := f.metadata.Uint(alignmentKey)
	if v.kind != Uint32 || !ok {
		return 0, fmt.Errorf("%s is of type %v, want %v", alignmentKey, v.kind, Uint32)
	}
	if a < 8 || a > MaxAlignment || a&(a-1) != 0 {
		return 0, fmt.Errorf("%s is %d, want a power of two from 8 to %d", alignmentKey, a, MaxAlignment)
	}
	return int64(a), nil
}

// readTensor reads a description; the offset stays relative to the start of all data.
func (f *File) readTensor(c *cursor, want int64) (*Tensor, error) {
	name, err := c.string(MaxNameBytes)
	if err != nil {
		return nil, fmt.Errorf("name: %w", err)
	}
	if !plain(name) {
		return nil, fmt.Errorf("name %q, want 1 to %d printable ASCII characters", name, MaxNameBytes)
	}
	t := &Tensor{Name: string(name), File: f}
	if f.byName[t.Name] != nil {
		return nil, fmt.Errorf("name %q occurs twice", t.Name)
	}
	if err := t.readShape(c); err != nil {
		return nil, fmt.Errorf("%q: %w", t.Name, err)
	}
	offset, err := c.uint64()
	if err != nil {
		return nil, fmt.Errorf("%q: offset: %w", t.Name, err)
	}
	if offset != uint64(want) {
		return nil, fmt.Errorf("%q: its data begins at %d, want %d, right after the tensor before", t.Name, offset, want)
	}
	t.Offset = want
	f.tensors = append(f.tensors, t)
	f.byName[t.Name] = t
	return t, nil
}

// readShape reads dimensions and type, and computes the size from them.
func (t *Tensor) readShape(c *cursor) error {
	numDims, err := c.uint32()
	if err != nil {
		return fmt.Errorf("number of dimensions: %w", err)
	}
	if numDims < 1 || numDims > MaxDims {
		return fmt.Errorf("%d dimensions, want 1 to %d", numDims, MaxDims)
	}
	t.Shape = make([]int, numDims)
	for i := int(numDims) - 1; i >= 0; i-- {
		n, err := c.uint64()
		if err != nil {
			return fmt.Errorf("shape: %w", err)
		}
		if n < 1 || n > math.MaxInt {
			return fmt.Errorf("dimension %d, want 1 to %d", n, math.MaxInt)
		}
		t.Shape[i] = int(n)
	}
	number, err := c.uint32()
	if err != nil {
		return fmt.Errorf("type: %w", err)
	}
	if t.DType, err = dtypeOf(number); err != nil {
		return err
	}
	return t.measure()
}

func (t *Tensor) measure() error {
	cols := t.Shape[len(t.Shape)-1]
	if cols%t.DType.Block() != 0 {
		return fmt.Errorf("shape %v: rows of %d elements, want a multiple of the %d of a block of %v", t.Shape, cols, t.DType.Block(), t.DType)
	}
	if cols > math.MaxInt64/8 {
		return fmt.Errorf("shape %v has more than 2^63 bytes", t.Shape)
	}
	t.Bytes = t.DType.RowBytes(cols)
	for _, n := range t.Shape[:len(t.Shape)-1] {
		if t.Bytes > math.MaxInt64/int64(n) {
			return fmt.Errorf("shape %v has more than 2^63 bytes", t.Shape)
		}
		t.Bytes *= int64(n)
	}
	return nil
}

// placeTensors makes offsets count from the start of the file, whose data begins at start, and compares them with its size.
func (f *File) placeTensors(start, size, alignment int64) error {
	if len(f.tensors) == 0 {
		return nil
	}
	for _, t := range f.tensors {
		if start > size || t.Offset > size-start || t.Bytes > size-start-t.Offset {
			return fmt.Errorf("tensor %q: its %d bytes at %d end beyond the file's %d", t.Name, t.Bytes, t.Offset, size)
		}
		t.Offset += start
	}
	last := f.tensors[len(f.tensors)-1]
	if rest := size - last.Offset - last.Bytes; rest >= alignment {
		return fmt.Errorf("%d bytes after the last tensor, want less than the %d of the alignment", rest, alignment)
	}
	return nil
}

func alignUp(n, alignment int64) int64 { return (n + alignment - 1) / alignment * alignment }

// plain says whether a key or name is not empty and can be printed as it is.
func plain(s []byte) bool {
	for _, c := range s {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(s) > 0
}
