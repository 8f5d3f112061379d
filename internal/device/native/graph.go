package native

// #include "trampoline.h"
// #cgo noescape call_capture_begin
// #cgo nocallback call_capture_begin
// #cgo noescape call_capture_end
// #cgo nocallback call_capture_end
// #cgo noescape call_graph_free
// #cgo nocallback call_graph_free
// #cgo noescape call_launch
// #cgo nocallback call_launch
// #cgo noescape call_expect
// #cgo nocallback call_expect
// #cgo noescape call_sync
// #cgo nocallback call_sync
import "C"

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/inferno-serve/inferno/internal/device"
)

// Capture implements device.Device. The goroutine stays on its thread, as CUDA wants a capture to begin and end on one.
func (d *native) Capture(record func()) (device.Graph, error) {
	d.mustBeOpen()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if status := C.call_capture_begin(d.table, d.dev); status != C.INFERNO_OK {
		return nil, fmt.Errorf("begin capture: %w", statusError(status))
	}
	g := &graph{device: d}
	ended := false
	end := func() error {
		ended = true
		if status := C.call_capture_end(d.table, d.dev, &g.graph); status != C.INFERNO_OK {
			return fmt.Errorf("end capture: %w", statusError(status))
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
	C.call_launch(d.table, d.dev, d.own(g))
}

// Expect implements device.Expecter.
func (d *native) Expect(g device.Graph) {
	d.mustBeOpen()
	C.call_expect(d.table, d.dev, d.own(g))
}

func (d *native) own(g device.Graph) *C.inferno_graph {
	own, ok := g.(*graph)
	if !ok || own.device != d || own.graph == nil {
		panic("native: a graph that is closed or another device's")
	}
	return own.graph
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
