package model

import "syscall"

// staging is a goroutine's host memory between file and device. It is mapped and not from the Go heap, so that it is gone from the
// process when the load ends, and so that a tensor of a gigabyte does not raise the heap's goal.
type staging struct{ buffer []byte }

// keepBytes is what a staging holds on to for the next tensor.
const keepBytes = 8 << 20

// take returns n bytes, contents undefined, which hold until the next call.
func (s *staging) take(n int) ([]byte, error) {
	if len(s.buffer) >= n && (len(s.buffer) <= keepBytes || n > keepBytes) {
		return s.buffer[:n], nil
	}
	s.free()
	b, err := syscall.Mmap(-1, 0, max(n, 1<<20), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	s.buffer = b
	return b[:n], nil
}

// free gives the memory back.
func (s *staging) free() {
	if s.buffer == nil {
		return
	}
	if err := syscall.Munmap(s.buffer); err != nil {
		panic("model: unmap of memory that this process mapped: " + err.Error())
	}
	s.buffer = nil
}
