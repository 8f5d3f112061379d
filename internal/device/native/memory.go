package native

// #include "trampoline.h"
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
// #cgo noescape call_alloc_host
// #cgo nocallback call_alloc_host
// #cgo noescape call_free_host
// #cgo nocallback call_free_host
// #cgo noescape call_random
// #cgo nocallback call_random
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/inferno-serve/inferno/internal/device"
)

// Alloc implements device.Device.
func (d *native) Alloc(bytes int64) (device.Ptr, error) {
	d.mustBeOpen()
	if bytes < 0 {
		return 0, fmt.Errorf("allocate device memory: %d bytes, want at least 0", bytes)
	}
	var data unsafe.Pointer
	if status := C.call_alloc(d.table, d.dev, C.int64_t(bytes), &data); status != C.INFERNO_OK {
		return 0, fmt.Errorf("allocate %d bytes of %s memory: %w", bytes, d.kind, statusError(status))
	}
	return device.Ptr(uintptr(data)), nil
}

// Free implements device.Device.
func (d *native) Free(p device.Ptr) {
	d.mustBeOpen()
	if p == 0 {
		return
	}
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
	return d.PackRows(w, 0, w.Rows, src, sourceRow)
}

// PackRows implements device.Device.
func (d *native) PackRows(w device.Weight, first, n int, src []byte, sourceRow []int32) error {
	d.mustBeOpen()
	sourceRows, err := checkPack(w, first, n, src, sourceRow)
	if err != nil {
		return fmt.Errorf("pack %v: %w", w, err)
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	args := C.inferno_pack_args{
		size: C.sizeof_inferno_pack_args, w: *(*C.inferno_weight)(unsafe.Pointer(&w)),
		first_row: C.int64_t(first), rows: C.int64_t(n), source_rows: C.int64_t(sourceRows),
	}
	pin.Pin(unsafe.SliceData(src))
	args.src = unsafe.Pointer(unsafe.SliceData(src))
	if sourceRow != nil {
		pin.Pin(unsafe.SliceData(sourceRow))
		args.source_row = (*C.int32_t)(unsafe.SliceData(sourceRow))
	}
	if status := C.call_pack(d.table, d.dev, &args); status != C.INFERNO_OK {
		return fmt.Errorf("pack %v: %w", w, statusError(status))
	}
	return nil
}

// checkPack keeps C within src: file contents come this far. It returns how many rows src has.
func checkPack(w device.Weight, first, n int, src []byte, sourceRow []int32) (rows int64, err error) {
	if w.Data == 0 || w.Rows < 1 || w.Cols < 1 || w.DType.Block() == 0 || w.Cols%w.DType.Block() != 0 {
		return 0, fmt.Errorf("want memory, at least 1 row and a positive multiple of %d columns", max(w.DType.Block(), 1))
	}
	if first < 0 || n < 1 || n > w.Rows-first || first%device.PackAlignment != 0 || n%device.PackAlignment != 0 && first+n != w.Rows {
		return 0, fmt.Errorf("%d rows from row %d on, want multiples of %d within %d", n, first, device.PackAlignment, w.Rows)
	}
	rowBytes := w.DType.RowBytes(w.Cols)
	if int64(len(src))%rowBytes != 0 {
		return 0, fmt.Errorf("source has %d bytes, want a multiple of a row's %d", len(src), rowBytes)
	}
	rows = int64(len(src)) / rowBytes
	if sourceRow == nil {
		if rows < int64(n) {
			return 0, fmt.Errorf("source has %d rows, want %d", rows, n)
		}
		return rows, nil
	}
	if len(sourceRow) != n {
		return 0, fmt.Errorf("%d source rows named, want %d", len(sourceRow), n)
	}
	for i, r := range sourceRow {
		if int64(r) < 0 || int64(r) >= rows {
			return 0, fmt.Errorf("source row %d is %d, want 0 to %d", i, r, rows-1)
		}
	}
	return rows, nil
}

// AllocHost implements device.Device. Where the device has no memory of its own for it, it is mapped and not from the Go heap, so that
// it is gone from the process when the load ends.
func (d *native) AllocHost(bytes int) ([]byte, error) {
	d.mustBeOpen()
	if bytes < 1 {
		return nil, fmt.Errorf("allocate host memory: %d bytes, want at least 1", bytes)
	}
	if d.table.alloc_host == nil {
		b, err := syscall.Mmap(-1, 0, bytes, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
		if err != nil {
			return nil, fmt.Errorf("allocate %d bytes of host memory: %w: %w", bytes, device.ErrOutOfMemory, err)
		}
		return b, nil
	}
	var data unsafe.Pointer
	if status := C.call_alloc_host(d.table, d.dev, C.int64_t(bytes), &data); status != C.INFERNO_OK {
		return nil, fmt.Errorf("allocate %d bytes of host memory: %w", bytes, statusError(status))
	}
	return unsafe.Slice((*byte)(data), bytes), nil
}

// FreeHost implements device.Device.
func (d *native) FreeHost(b []byte) {
	d.mustBeOpen()
	if len(b) == 0 {
		return
	}
	if d.table.alloc_host != nil {
		C.call_free_host(d.table, d.dev, unsafe.Pointer(unsafe.SliceData(b)))
		return
	}
	if err := syscall.Munmap(b); err != nil {
		panic("native: unmap of memory that this process mapped: " + err.Error())
	}
}

// Random implements device.Device.
func (d *native) Random(w device.Weight, seed uint64, scale float32) error {
	d.mustBeOpen()
	if w.DType != device.F32 && w.DType != device.F16 && w.DType != device.BF16 {
		return fmt.Errorf("random numbers for %v: want F32, F16 or BF16", w)
	}
	if d.table.random == nil {
		return errors.ErrUnsupported
	}
	if status := C.call_random(d.table, d.dev, (*C.inferno_weight)(unsafe.Pointer(&w)), C.uint64_t(seed), C.float(scale)); status != C.INFERNO_OK {
		return fmt.Errorf("random numbers for %v: %w", w, statusError(status))
	}
	return nil
}
