package gguf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// cursor reads the start of a file front to back. data grows by reading on, so that positions in it stay good and slices of it do not.
type cursor struct {
	source io.ReaderAt
	size   int64 // of the file
	data   []byte
	pos    int
}

// left is how many bytes the file has after pos.
func (c *cursor) left() int64 { return c.size - int64(c.pos) }

// bytes returns the next n bytes, which hold until the next call.
func (c *cursor) bytes(n int) ([]byte, error) {
	if n > len(c.data)-c.pos {
		if err := c.fetch(n); err != nil {
			return nil, err
		}
	}
	c.pos += n
	return c.data[c.pos-n : c.pos], nil
}

// fetch reads on until n bytes are there after pos.
func (c *cursor) fetch(n int) error {
	if int64(n) > c.left() {
		return fmt.Errorf("%d bytes at %d, but the file ends at %d", n, c.pos, c.size)
	}
	if n > MaxHeaderBytes-c.pos {
		return fmt.Errorf("what comes before the tensors' data has more than %d bytes", MaxHeaderBytes)
	}
	grown := make([]byte, min(max(int64(c.pos+n), 2*int64(len(c.data)), firstReadBytes), c.size, MaxHeaderBytes))
	have := copy(grown, c.data)
	if got, err := c.source.ReadAt(grown[have:], int64(have)); got < len(grown)-have {
		if err == nil || errors.Is(err, io.EOF) {
			err = errors.New("the file became shorter while it was read")
		}
		return err
	}
	c.data = grown
	return nil
}

func (c *cursor) uint32() (uint32, error) {
	b, err := c.bytes(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (c *cursor) uint64() (uint64, error) {
	b, err := c.bytes(8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

// count reads how many things follow, of at least `each` bytes.
func (c *cursor) count(what string, limit, each uint64) (int, error) {
	n, err := c.uint64()
	if err != nil {
		return 0, fmt.Errorf("number of %s: %w", what, err)
	}
	if n > limit {
		return 0, fmt.Errorf("%d %s, want at most %d", n, what, limit)
	}
	if left := uint64(c.left()); n > left/each {
		return 0, fmt.Errorf("%d %s, but only %d bytes are left in the file", n, what, left)
	}
	return int(n), nil
}

// string reads a length and so many bytes, which hold until the next call.
func (c *cursor) string(limit uint64) ([]byte, error) {
	n, err := c.count("bytes of a string", limit, 1)
	if err != nil {
		return nil, err
	}
	return c.bytes(n)
}
