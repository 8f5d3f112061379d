package engine

import (
	"reflect"
	"runtime"
	"unsafe"
)

// While the loop sleeps through a step, its core's caches are lost. Afterwards nearly every access to a sequence would wait for memory, one
// after the other: of the loop's work for a step that would be the larger part. warm reads all that the work behind the step of b will need,
// many lines at a time, shortly before the step ends: in time that would be polled away. Most of what few sequences need is code. The device does the same for the launch of g, a
// graph like which the next one will be most of the time.
func (e *Engine) warm(b *batch, g *stepGraph) {
	r := e.runner
	if r.expecter != nil {
		r.expecter.Expect(g.graph)
	}
	var sum byte
	for _, c := range e.code {
		sum += touch(c.at, c.bytes)
	}
	sum += touchAll(&e.turn) + touchAll(e.scheduler) + touchAll(r) + touchAll(e.waker)
	sum += touchSlice(b.items) + touchSlice(e.waker.list[:len(b.items)]) + touchSlice(r.ids[:len(b.items)])
	for i := range b.items { // lines that lead to others come first, so that those of all sequences are on their way together
		sum += touch(unsafe.Pointer(b.items[i].seq), stepBytes)
	}
	for i := range b.items {
		seq := b.items[i].seq
		sum += touchLast(seq.tokens) + touchLast(seq.table)
		if s := seq.stream; s != nil {
			sum += touch(unsafe.Pointer(s), cacheLine)
		}
	}
	for i := range b.items {
		if s := b.items[i].seq.stream; s != nil {
			sum += touchLast(s.writing[:min(s.written+1, len(s.writing))])
		}
	}
	slot := r.slot()
	sum += touchSlice(slot[:min(len(slot), graphLayoutFor(r.mostRows).bytes)])
	e.turn.warmed = sum
}

// code is where a function's is.
type code struct {
	at    unsafe.Pointer
	bytes uintptr
}

// loopCode is what the loop runs for every step, but for what is too small to be a function of its own. One that is missing here costs time
// and nothing else.
func loopCode() (all []code) {
	for _, f := range []any{
		(*Engine).takeMail, (*Engine).turnOnce, (*Engine).launch, (*Engine).markStarts, (*Engine).publishGauges, (*Engine).collect,
		(*Engine).deliver, (*Engine).finishStep, (*counters).endStep, (*runner).Launch, (*runner).graphFor, (*runner).replay,
		(*runner).writePadding, (*runner).writeChanges, (*runner).start, (*runner).Collect, (*blockTables).seat, (*blockTables).update,
		(*scheduler).Next, (*scheduler).fits, (*scheduler).left, (*scheduler).growRunning, (*scheduler).grow, (*scheduler).fill, (*batch).add,
		(*scheduler).Commit, (*pace).observe, (*sequence).accept, (*Stream).put, (*waker).flush,
	} {
		c := code{at: reflect.ValueOf(f).UnsafePointer()}
		entry := uintptr(c.at)
		for within := runtime.FuncForPC(entry); within != nil && within.Entry() == entry; within = runtime.FuncForPC(entry + c.bytes) {
			c.bytes += cacheLine
		}
		all = append(all, c)
	}
	return all
}

// touchAll reads each cache line of an object.
func touchAll[T any](object *T) byte { return touch(unsafe.Pointer(object), unsafe.Sizeof(*object)) }

func touchSlice[T any](v []T) byte {
	return touch(unsafe.Pointer(unsafe.SliceData(v)), uintptr(len(v))*unsafe.Sizeof(*unsafe.SliceData(v)))
}

func touch(object unsafe.Pointer, bytes uintptr) (sum byte) {
	for at := uintptr(0); at < bytes; at += cacheLine {
		sum += *(*byte)(unsafe.Add(object, at))
	}
	return sum
}

// touchLast reads the last element.
func touchLast(v []int32) byte {
	if len(v) == 0 {
		return 0
	}
	return byte(v[len(v)-1])
}
