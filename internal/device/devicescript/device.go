// Package devicescript is a device for tests, whose steps take the time that a test says and whose model writes what can be checked: the next
// token follows from all tokens before it, as they lie in the blocks of the cache. What is served with it is everything but arithmetic: the
// engine, the services and their clients. Only tests import it.
package devicescript

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/inferno-serve/inferno/internal/device"
)

// Options say what a device is like.
type Options struct {
	Bytes int64         // of its memory, which is not Go's; the host pays for it when it is touched first, or
	Paid  bool          // from the start
	Step  time.Duration // that each step takes, and
	Row   time.Duration // for each row of it beside that
	Chunk time.Duration // for each row but a sequence's first, in place of Row; 0: as Row
	Alone bool          // the host waits for each step: no graphs, nothing beside one
}

// Device counts what it computes. Steps end by the clock, one after the other; what they do to its memory happens when the host looks.
type Device struct {
	device.Device // nil: an op that no script has is a panic with its name in the stack

	options Options
	ends    time.Duration // of the latest step, since born
	born    time.Time

	rows   atomic.Int64 // computed, padding left out
	marked atomic.Int64 // of them, those of MarkedToken
	steps  atomic.Int64 // that have ended

	arena []byte
	used  int64 // bytes

	queue     []op
	recording *graph

	mu   sync.Mutex
	held chan struct{} // closed by Release; nil: steps end
}

// op is a piece of work that is enqueued.
type op struct {
	do   func()        // nil: the end of a step
	took time.Duration // by rows of a model
	ends time.Duration
}

type graph struct{ ops []op }

func (*graph) Close() {}

// base is the first address.
const base device.Ptr = 1 << 20

// alignment of allocations, as the interface promises.
const alignment = 256

// New makes a device.
func New(o Options) *Device {
	arena, err := syscall.Mmap(-1, 0, int(o.Bytes), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		panic(fmt.Sprintf("devicescript: map %d bytes: %v", o.Bytes, err))
	}
	d := &Device{options: o, born: time.Now(), arena: arena}
	if o.Paid {
		for i := 0; i < len(d.arena); i += 4096 { // a page
			d.arena[i] = 1
		}
	}
	return d
}

// Rows is how many rows of models it has computed, padding left out, and how many of those were of MarkedToken. From any goroutine.
func (d *Device) Rows() (all, marked int64) { return d.rows.Load(), d.marked.Load() }

// Steps is how many have ended. From any goroutine.
func (d *Device) Steps() int64 { return d.steps.Load() }

// Hold keeps steps from ending until Release. From any goroutine.
func (d *Device) Hold() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held == nil {
		d.held = make(chan struct{})
	}
}

// Release lets steps end again, at once those whose time has come.
func (d *Device) Release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held != nil {
		close(d.held)
		d.held = nil
	}
}

func (d *Device) holding() chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.held
}

// Info says that it is a CPU, so that memory is planned as a test asks, with what the fastest devices do: graphs, and steps beside the host.
func (d *Device) Info() device.Info {
	return device.Info{
		Kind: "cpu", Name: "script", Features: "script", KVBlock: 16, Activations: device.F32, Cache: device.F32,
		Capture: !d.options.Alone, Overlap: !d.options.Alone, TotalBytes: d.options.Bytes, FreeBytes: d.options.Bytes - d.used,
	}
}

// Close gives the memory back.
func (d *Device) Close() error {
	arena := d.arena
	d.arena = nil
	if arena == nil {
		return nil
	}
	return syscall.Munmap(arena)
}

// Alloc takes the next bytes; Free gives none back.
func (d *Device) Alloc(bytes int64) (device.Ptr, error) {
	at := d.used
	if at+bytes > d.options.Bytes {
		return 0, fmt.Errorf("%w: %d bytes asked for, %d of %d taken", device.ErrOutOfMemory, bytes, at, d.options.Bytes)
	}
	d.used += (bytes + alignment - 1) / alignment * alignment
	return base + device.Ptr(at), nil
}

// Free does nothing: a server's pools live as long as its device.
func (d *Device) Free(device.Ptr) {}

// AllocMapped is memory as any other.
func (d *Device) AllocMapped(bytes int) (device.HostBlock, error) {
	p, err := d.Alloc(int64(bytes))
	if err != nil {
		return device.HostBlock{}, err
	}
	return device.HostBlock{Data: p, Bytes: d.bytes(p, bytes)}, nil
}

func (d *Device) bytes(p device.Ptr, n int) []byte {
	return d.arena[p-base:][:n:n]
}

// view is a tensor of 4-byte elements, as numbers of type T.
func view[T int32 | uint32 | float32](d *Device, t device.Tensor) []T {
	if t.Len() == 0 {
		return nil
	}
	n := (t.Rows-1)*t.Stride + t.Cols
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(d.bytes(t.Data, 4*n)))), n)
}

// enqueue adds work to the step, or to the graph being recorded.
func (d *Device) enqueue(o op) {
	if d.recording != nil {
		d.recording.ops = append(d.recording.ops, o)
		return
	}
	d.append(o)
}

// append adds to the step, whose time is known with its end: it begins when the one before has ended.
func (d *Device) append(o op) {
	d.queue = append(d.queue, o)
	if o.do != nil {
		return
	}
	took := d.options.Step
	for i := len(d.queue) - 2; i >= 0 && d.queue[i].do != nil; i-- {
		took += d.queue[i].took
	}
	d.ends = max(d.ends, time.Since(d.born)) + took
	d.queue[len(d.queue)-1].ends = d.ends
}

// take is how long that many rows of a model take, of so many sequences.
func (d *Device) take(rows, sequences int) time.Duration {
	chunk := d.options.Chunk
	if chunk == 0 {
		chunk = d.options.Row
	}
	return time.Duration(sequences)*d.options.Row + time.Duration(rows-sequences)*chunk
}

// Capture records a graph.
func (d *Device) Capture(record func()) (device.Graph, error) {
	g := &graph{}
	d.recording = g
	record()
	d.recording = nil
	return g, nil
}

// Launch enqueues a graph's ops.
func (d *Device) Launch(g device.Graph) {
	for _, o := range g.(*graph).ops {
		d.append(o)
	}
}

// Flush does nothing: what is enqueued runs.
func (d *Device) Flush() {}

// Sync waits for all that is enqueued.
func (d *Device) Sync() error {
	for len(d.queue) > 0 {
		if held := d.holding(); held != nil {
			<-held
		}
		end := slices.IndexFunc(d.queue, func(o op) bool { return o.do == nil })
		if end < 0 {
			d.run(len(d.queue))
			break
		}
		time.Sleep(d.queue[end].ends - time.Since(d.born))
		d.run(end + 1)
	}
	return nil
}

// Poll finds no failure.
func (d *Device) Poll() error { return nil }

// Passed runs the steps whose time is over.
func (d *Device) Passed() int64 {
	for d.holding() == nil {
		end := slices.IndexFunc(d.queue, func(o op) bool { return o.do == nil })
		if end < 0 || d.queue[end].ends > time.Since(d.born) {
			break
		}
		d.run(end + 1)
	}
	return d.steps.Load()
}

// run does the first n ops.
func (d *Device) run(n int) {
	for _, o := range d.queue[:n] {
		if o.do == nil {
			d.steps.Add(1)
			continue
		}
		o.do()
	}
	d.queue = append(d.queue[:0], d.queue[n:]...)
}
