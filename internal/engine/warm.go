package engine

import "unsafe"

// While the loop sleeps through a step, its core's caches are lost. Afterwards nearly every access to a sequence would wait for memory, one
// after the other: of the loop's work for a step that would be the larger part. warm reads all that the work behind the step of b will need,
// many lines at a time, shortly before the step ends: in time that would be polled away. The device does the same for the launch of g, a
// graph like which the next one will be most of the time.
func (e *Engine) warm(b *batch, g *stepGraph) {
	r := e.runner
	if r.expecter != nil {
		r.expecter.Expect(g.graph)
	}
	sum := touchAll(&e.turn) + touchAll(e.scheduler) + touchAll(r) + touchAll(e.waker)
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
