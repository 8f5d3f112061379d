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
import "C"

import (
	"fmt"
	"runtime"
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
	if status := C.call_pack(d.table, d.dev, &args); status != C.INFERNO_OK {
		return fmt.Errorf("pack %v: %w", w, statusError(status))
	}
	return nil
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
