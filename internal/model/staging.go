package model

import "github.com/inferno-serve/inferno/internal/device"

// staging is a goroutine's host memory between file and device, from the device, which copies from it fastest.
type staging struct {
	device device.Device
	buffer []byte
}

// take returns n bytes, contents undefined, which hold until the next call.
func (s *staging) take(n int64) ([]byte, error) {
	if int64(len(s.buffer)) >= n {
		return s.buffer[:n], nil
	}
	s.free()
	b, err := s.device.AllocHost(int(n))
	if err != nil {
		return nil, err
	}
	s.buffer = b
	return b, nil
}

// free gives the memory back.
func (s *staging) free() {
	if s.buffer != nil {
		s.device.FreeHost(s.buffer)
	}
	s.buffer = nil
}
