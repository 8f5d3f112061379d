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
// #cgo noescape call_alloc
// #cgo nocallback call_alloc
// #cgo noescape call_free
// #cgo nocallback call_free
// #cgo noescape call_upload
// #cgo nocallback call_upload
// #cgo noescape call_download
// #cgo nocallback call_download
// #cgo noescape call_fill
// #cgo nocallback call_fill
// #cgo noescape call_pack_bytes
// #cgo nocallback call_pack_bytes
// #cgo noescape call_pack
// #cgo nocallback call_pack
// #cgo noescape call_capture_begin
// #cgo nocallback call_capture_begin
// #cgo noescape call_capture_end
// #cgo nocallback call_capture_end
// #cgo noescape call_graph_free
// #cgo nocallback call_graph_free
// #cgo noescape call_launch
// #cgo nocallback call_launch
// #cgo noescape call_sync
// #cgo nocallback call_sync
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
	for flag, on := range map[C.uint32_t]bool{
		C.INFERNO_EXACT: o.Exact, C.INFERNO_NO_AVX512: o.NoAVX512, C.INFERNO_NO_AVX2: o.NoAVX2,
	} {
		if on {
			args.flags |= flag
		}
	}
	d, err := open((*C.inferno_table)(cpu.Table()), "cpu", args)
	if err != nil {
		return nil, fmt.Errorf("open CPU device: %w", err)
	}
	return d, nil
}

const (
	maxThreads  = 256
	reasonBytes = 256
)

// native is an opened device. The table and dev are C's.
type native struct {
	table *C.inferno_table
	dev   *C.inferno_device // nil once closed
	kind  string
	exact bool
	// Destinations of downloads that C may still write to, until Sync.
	pinned runtime.Pinner
	// What Sync reports of; here so that a Sync allocates nothing.
	reason [reasonBytes]C.char
}

func open(table *C.inferno_table, kind string, args C.inferno_open_args) (*native, error) {
	d := &native{table: table, kind: kind, exact: args.flags&C.INFERNO_EXACT != 0}
	args.size = C.sizeof_inferno_open_args
	status := C.call_open(table, &args, &d.dev, &d.reason[0], reasonBytes)
	if status != C.INFERNO_OK {
		d.dev = nil
		return nil, d.failure(status)
	}
	return d, nil
}

// failure is a status with the reason that C left.
func (d *native) failure(status C.int32_t) error {
	reason := C.GoString(&d.reason[0])
	switch status {
	case C.INFERNO_UNAVAILABLE:
		return fmt.Errorf("%w: %s", device.ErrUnavailable, reason)
	case C.INFERNO_OUT_OF_MEMORY:
		return fmt.Errorf("%w: %s", device.ErrOutOfMemory, reason)
	case C.INFERNO_DEVICE_LOST:
		return fmt.Errorf("%w: %s", device.ErrLost, reason)
	case C.INFERNO_BAD_ARGUMENT:
		return fmt.Errorf("bad argument: %s", reason)
	}
	return fmt.Errorf("status %d: %s", status, reason)
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
	return device.Info{
		Kind:       d.kind,
		Name:       strings.TrimSpace(C.GoString(&info.name[0])),
		Features:   C.GoString(&info.features[0]),
		Threads:    int(info.threads),
		Unified:    info.unified != 0,
		Exact:      d.exact,
		TotalBytes: int64(info.total_bytes),
		FreeBytes:  int64(info.free_bytes),
	}
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

// Alloc implements device.Device.
func (d *native) Alloc(bytes int64) (device.Ptr, error) {
	d.mustBeOpen()
	if bytes < 0 {
		return 0, fmt.Errorf("allocate device memory: %d bytes, want at least 0", bytes)
	}
	var data unsafe.Pointer
	switch status := C.call_alloc(d.table, d.dev, C.int64_t(bytes), &data); status {
	case C.INFERNO_OK:
		return device.Ptr(uintptr(data)), nil
	case C.INFERNO_OUT_OF_MEMORY:
		return 0, fmt.Errorf("allocate %d bytes of %s memory: %w", bytes, d.kind, device.ErrOutOfMemory)
	case C.INFERNO_DEVICE_LOST:
		return 0, fmt.Errorf("allocate %d bytes of %s memory: %w", bytes, d.kind, device.ErrLost)
	default:
		return 0, fmt.Errorf("allocate %d bytes of %s memory: status %d", bytes, d.kind, status)
	}
}

// Free implements device.Device.
func (d *native) Free(p device.Ptr) {
	d.mustBeOpen()
	C.call_free(d.table, d.dev, pointer(p))
}

// Upload implements device.Device.
func (d *native) Upload(dst device.Ptr, src []byte) {
	d.mustBeOpen()
	if len(src) == 0 {
		return
	}
	C.call_upload(d.table, d.dev, pointer(dst), unsafe.Pointer(unsafe.SliceData(src)), C.int64_t(len(src)))
}

// Download implements device.Device.
func (d *native) Download(dst []byte, src device.Ptr) {
	d.mustBeOpen()
	if len(dst) == 0 {
		return
	}
	p := unsafe.SliceData(dst)
	d.pinned.Pin(p)
	C.call_download(d.table, d.dev, unsafe.Pointer(p), pointer(src), C.int64_t(len(dst)))
}

// Fill implements device.Device.
func (d *native) Fill(dst device.Ptr, b byte, bytes int64) {
	d.mustBeOpen()
	if bytes <= 0 {
		return
	}
	C.call_fill(d.table, d.dev, pointer(dst), C.int32_t(b), C.int64_t(bytes))
}

// PackBytes implements device.Device.
func (d *native) PackBytes(t device.DType, rows, cols int) int64 {
	d.mustBeOpen()
	return int64(C.call_pack_bytes(d.table, d.dev, C.int32_t(t), C.int64_t(rows), C.int64_t(cols)))
}

// Pack implements device.Device.
func (d *native) Pack(w device.Weight, src []byte, sourceRow []int32) error {
	d.mustBeOpen()
	if err := checkPack(w, src, sourceRow); err != nil {
		return fmt.Errorf("pack %v: %w", w, err)
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	args := C.inferno_pack_args{size: C.sizeof_inferno_pack_args, w: *(*C.inferno_weight)(unsafe.Pointer(&w))}
	pin.Pin(unsafe.SliceData(src))
	args.src = unsafe.Pointer(unsafe.SliceData(src))
	if sourceRow != nil {
		pin.Pin(unsafe.SliceData(sourceRow))
		args.source_row = (*C.int32_t)(unsafe.SliceData(sourceRow))
	}
	switch status := C.call_pack(d.table, d.dev, &args); status {
	case C.INFERNO_OK:
		return nil
	case C.INFERNO_OUT_OF_MEMORY:
		return fmt.Errorf("pack %v: %w", w, device.ErrOutOfMemory)
	case C.INFERNO_DEVICE_LOST:
		return fmt.Errorf("pack %v: %w", w, device.ErrLost)
	default:
		return fmt.Errorf("pack %v: the device refuses it (status %d)", w, status)
	}
}

// checkPack keeps C within src: file contents come this far.
func checkPack(w device.Weight, src []byte, sourceRow []int32) error {
	if w.Data == 0 || w.Rows < 1 || w.Cols < 1 || w.DType.Block() == 0 || w.Cols%w.DType.Block() != 0 {
		return fmt.Errorf("want memory, at least 1 row and a positive multiple of %d columns", max(w.DType.Block(), 1))
	}
	rowBytes := w.DType.RowBytes(w.Cols)
	if int64(len(src))%rowBytes != 0 {
		return fmt.Errorf("source has %d bytes, want a multiple of a row's %d", len(src), rowBytes)
	}
	rows := int64(len(src)) / rowBytes
	if sourceRow == nil {
		if rows < int64(w.Rows) {
			return fmt.Errorf("source has %d rows, want %d", rows, w.Rows)
		}
		return nil
	}
	if len(sourceRow) != w.Rows {
		return fmt.Errorf("%d source rows named, want %d", len(sourceRow), w.Rows)
	}
	for i, r := range sourceRow {
		if int64(r) < 0 || int64(r) >= rows {
			return fmt.Errorf("source row %d is %d, want 0 to %d", i, r, rows-1)
		}
	}
	return nil
}

// Capture implements device.Device. The goroutine stays on its thread, as CUDA wants a capture to begin and end on one.
func (d *native) Capture(record func()) (device.Graph, error) {
	d.mustBeOpen()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if status := C.call_capture_begin(d.table, d.dev); status != C.INFERNO_OK {
		return nil, fmt.Errorf("begin capture: %w", d.statusError(status))
	}
	g := &graph{device: d}
	ended := false
	end := func() error {
		ended = true
		if status := C.call_capture_end(d.table, d.dev, &g.graph); status != C.INFERNO_OK {
			return fmt.Errorf("end capture: %w", d.statusError(status))
		}
		return nil
	}
	defer func() {
		if !ended && end() == nil { // record panicked
			g.Close()
		}
	}()
	record()
	if err := end(); err != nil {
		return nil, err
	}
	return g, nil
}

// statusError is for a call that gives a status without a reason: the sticky failure says more, where there is one.
func (d *native) statusError(status C.int32_t) error {
	d.reason[0] = 0
	return d.failure(status)
}

// graph is a captured sequence of ops; nil once closed.
type graph struct {
	device *native
	graph  *C.inferno_graph
}

// Close implements device.Graph. A device that is closed has freed its graphs.
func (g *graph) Close() {
	if g.graph != nil && g.device.dev != nil {
		C.call_graph_free(g.device.table, g.device.dev, g.graph)
	}
	g.graph = nil
}

// Launch implements device.Device.
func (d *native) Launch(g device.Graph) {
	d.mustBeOpen()
	own, ok := g.(*graph)
	if !ok || own.device != d || own.graph == nil {
		panic("native: launch of a graph that is closed or another device's")
	}
	C.call_launch(d.table, d.dev, own.graph)
}

// Flush implements device.Device.
func (d *native) Flush() {
	d.mustBeOpen()
	C.call_launch(d.table, d.dev, nil)
}

// errClosed is what Sync says of a closed device.
var errClosed = errors.New("the device is closed")

// Sync implements device.Device. A failure is for good, so it wraps ErrLost whatever its cause.
func (d *native) Sync() error {
	if d.dev == nil {
		return fmt.Errorf("%w: %w", device.ErrLost, errClosed)
	}
	status := C.call_sync(d.table, d.dev, &d.reason[0], reasonBytes)
	d.pinned.Unpin()
	switch status {
	case C.INFERNO_OK:
		return nil
	case C.INFERNO_DEVICE_LOST:
		return d.failure(status)
	default:
		return fmt.Errorf("%w: %w", device.ErrLost, d.failure(status))
	}
}

// pointer is a device address as C has it. It is never dereferenced in Go and never points into Go's heap.
func pointer(p device.Ptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&p)) }
