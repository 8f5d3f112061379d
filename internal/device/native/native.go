// Package native is device.Device over the C table of kernels/inferno.h: OpenCPU over the table that is compiled into the binary, OpenCUDA
// over that of a library opened at run time. Nothing here knows what stands behind the table. Goroutines are as package device says.
package native

// #cgo CFLAGS: -I${SRCDIR}/../../../kernels
// #include "trampoline.h"
// #cgo noescape call_open
// #cgo nocallback call_open
// #cgo noescape call_close
// #cgo nocallback call_close
// #cgo noescape call_info
// #cgo nocallback call_info
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"github.com/inferno-serve/inferno/internal/device"
	_ "github.com/inferno-serve/inferno/kernels" // recompiles this package when inferno.h changes
	"github.com/inferno-serve/inferno/kernels/cpu"
)

const (
	maxThreads  = 256 // of the CPU device
	reasonBytes = 256 // of a failure, as C writes it
)

// CPUOptions says how the CPU device works.
type CPUOptions struct {
	Threads  int  // workers, the calling thread included, at most 256; 0: one a physical core that the process may use
	Exact    bool // quantised weights multiply float32 activations, not 8-bit ones
	NoAVX512 bool // leave AVX-512 unused, as on a machine without
	NoAVX2   bool // leave AVX2 unused too
}

// OpenCPU starts the CPU device's workers.
func OpenCPU(o CPUOptions) (device.Device, error) {
	if o.Threads < 0 || o.Threads > maxThreads {
		return nil, fmt.Errorf("open CPU device: Threads is %d, want 0 to %d", o.Threads, maxThreads)
	}
	args := C.inferno_open_args{threads: C.int32_t(o.Threads)}
	if o.Exact {
		args.flags |= C.INFERNO_EXACT
	}
	if o.NoAVX512 {
		args.flags |= C.INFERNO_NO_AVX512
	}
	if o.NoAVX2 {
		args.flags |= C.INFERNO_NO_AVX2
	}
	d, err := open((*C.inferno_table)(cpu.Table()), "cpu", args)
	if err != nil {
		return nil, fmt.Errorf("open CPU device: %w", err)
	}
	return d, nil
}

// native is an opened device. The table and dev are C's.
type native struct {
	table *C.inferno_table
	dev   *C.inferno_device // nil once closed
	kind  string

	library string // that the table is from; "" where it is compiled in

	pinned runtime.Pinner      // destinations of downloads that C may still write to, until Sync
	reason [reasonBytes]C.char // what the driving goroutine's last call said; here so that a Sync allocates nothing
}

func open(table *C.inferno_table, kind string, args C.inferno_open_args) (*native, error) {
	d := &native{table: table, kind: kind}
	args.size = C.sizeof_inferno_open_args
	var dev *C.inferno_device
	if status := C.call_open(table, &args, &dev, &d.reason[0], reasonBytes); status != C.INFERNO_OK {
		return nil, d.failure(status)
	}
	d.dev = dev
	return d, nil
}

var errBadArgument = errors.New("bad argument")

func statusError(status C.int32_t) error {
	switch status {
	case C.INFERNO_UNAVAILABLE:
		return device.ErrUnavailable
	case C.INFERNO_OUT_OF_MEMORY:
		return device.ErrOutOfMemory
	case C.INFERNO_DEVICE_LOST:
		return device.ErrLost
	case C.INFERNO_BAD_ARGUMENT:
		return errBadArgument
	}
	return fmt.Errorf("unknown status %d", status)
}

// failure is a status with the reason that C left.
func (d *native) failure(status C.int32_t) error {
	return fmt.Errorf("%w: %s", statusError(status), C.GoString(&d.reason[0]))
}

func (d *native) mustBeOpen() {
	if d.dev == nil {
		panic("native: use of a closed device")
	}
}

// Info implements device.Device.
func (d *native) Info() device.Info {
	d.mustBeOpen()
	var info C.inferno_info
	info.size = C.sizeof_inferno_info
	C.call_info(d.table, d.dev, &info)
	i := device.Info{
		Kind:       d.kind,
		Name:       strings.TrimSpace(C.GoString(&info.name[0])),
		Features:   C.GoString(&info.features[0]),
		Threads:    int(info.threads),
		Unified:    info.unified != 0,
		Exact:      info.exact != 0,
		Capture:    info.capture != 0,
		Overlap:    info.overlap != 0,
		KVBlock:    int(info.kv_block),
		MaxHeadDim: int(info.max_head_dim),
		MaxVocab:   int(info.max_vocab),
		TotalBytes: int64(info.total_bytes),
		FreeBytes:  int64(info.free_bytes),
		OwnBytes:   int64(info.own_bytes),
		Library:    d.library,
		Driver:     cudaVersion(int(info.driver)),
		Runtime:    cudaVersion(int(info.runtime)),

		Activations: device.DType(info.activations),
		Cache:       device.DType(info.cache),
	}
	if d.library != "" {
		i.Table = int(d.table.version)
	}
	return i
}

// cudaVersion is CUDA's 1000·major + 10·minor as people write it; "" where there is none.
func cudaVersion(v int) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%d.%d", v/1000, v%1000/10)
}

// Close implements device.Device.
func (d *native) Close() error {
	if d.dev == nil {
		return nil
	}
	C.call_close(d.table, d.dev)
	d.dev = nil
	d.pinned.Unpin()
	return nil
}

// pointer is a device address as C has it. It is never dereferenced in Go and never points into Go's heap.
func pointer(p device.Ptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&p)) }
