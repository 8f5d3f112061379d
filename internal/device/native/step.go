package native

// #include "trampoline.h"
// #cgo noescape call_alloc_mapped
// #cgo nocallback call_alloc_mapped
// #cgo noescape call_pull
// #cgo nocallback call_pull
// #cgo noescape call_scatter
// #cgo nocallback call_scatter
// #cgo noescape call_feed
// #cgo nocallback call_feed
// #cgo noescape call_mark
// #cgo nocallback call_mark
// #cgo noescape call_passed
// #cgo nocallback call_passed
// #cgo noescape call_poll
// #cgo nocallback call_poll
import "C"

import (
	"fmt"
	"unsafe"

	"github.com/inferno-serve/inferno/internal/device"
)

type (
	pullArgs struct {
		size, _  uint32
		dst, src device.Tensor
	}
	scatterArgs struct {
		size, _            uint32
		dst, index, values device.Tensor
	}
	feedArgs struct {
		size, _           uint32
		tokens, from, ids device.Tensor
	}
	markArgs struct {
		size, _     uint32
		values, out device.Tensor
	}
)

// Compiles only where each pair has one size.
var _ = [...][0]struct{}{
	[unsafe.Sizeof(pullArgs{}) - C.sizeof_inferno_pull_args]struct{}{},
	[unsafe.Sizeof(scatterArgs{}) - C.sizeof_inferno_scatter_args]struct{}{},
	[unsafe.Sizeof(feedArgs{}) - C.sizeof_inferno_feed_args]struct{}{},
	[unsafe.Sizeof(markArgs{}) - C.sizeof_inferno_mark_args]struct{}{},
}

// AllocMapped implements device.Device.
func (d *native) AllocMapped(bytes int) (device.HostBlock, error) {
	d.mustBeOpen()
	if bytes < 1 {
		return device.HostBlock{}, fmt.Errorf("allocate host memory: %d bytes, want at least 1", bytes)
	}
	var data unsafe.Pointer
	if status := C.call_alloc_mapped(d.table, d.dev, C.int64_t(bytes), &data); status != C.INFERNO_OK {
		return device.HostBlock{}, fmt.Errorf("allocate %d bytes of host memory for %s: %w", bytes, d.kind, statusError(status))
	}
	block := device.HostBlock{Data: device.Ptr(uintptr(data)), Bytes: unsafe.Slice((*byte)(data), bytes)}
	clear(block.Bytes)
	return block, nil
}

// Pull implements device.Device.
func (d *native) Pull(dst, src device.Tensor) {
	d.mustBeOpen()
	device.CheckPull(dst, src)
	args := pullArgs{size: C.sizeof_inferno_pull_args, dst: dst, src: src}
	C.call_pull(d.table, d.dev, unsafe.Pointer(&args))
}

// Scatter implements device.Device.
func (d *native) Scatter(dst, index, values device.Tensor) {
	d.mustBeOpen()
	device.CheckScatter(dst, index, values)
	args := scatterArgs{size: C.sizeof_inferno_scatter_args, dst: dst, index: index, values: values}
	C.call_scatter(d.table, d.dev, unsafe.Pointer(&args))
}

// Feed implements device.Device.
func (d *native) Feed(tokens, from, ids device.Tensor) {
	d.mustBeOpen()
	device.CheckFeed(tokens, from, ids)
	args := feedArgs{size: C.sizeof_inferno_feed_args, tokens: tokens, from: from, ids: ids}
	C.call_feed(d.table, d.dev, unsafe.Pointer(&args))
}

// Mark implements device.Device.
func (d *native) Mark(values, out device.Tensor) {
	d.mustBeOpen()
	device.CheckMark(values, out)
	args := markArgs{size: C.sizeof_inferno_mark_args, values: values, out: out}
	C.call_mark(d.table, d.dev, unsafe.Pointer(&args))
}

// Passed implements device.Device.
func (d *native) Passed() int64 {
	d.mustBeOpen()
	return int64(C.call_passed(d.table, d.dev))
}

// Poll implements device.Device.
func (d *native) Poll() error {
	d.mustBeOpen()
	if C.call_poll(d.table, d.dev) == C.INFERNO_OK {
		return nil
	}
	return d.Sync() // which has the reason, and a device that failed has nothing to wait for
}
