package engine

import "unsafe"

// While the loop sleeps through a step, its core's caches are lost. Afterwards nearly every access to a sequence would wait for memory, one
// after the other: of the loop's work for a step that is the larger part. warm reads all that it will need, many lines at a time, shortly
// before the step ends: in time that would be polled away.
func (r *runner) warm(b *batch) {
	var sum byte
	for i := range b.items { // lines that lead to others come first, so that those of all sequences are on their way together
		sum += touch(unsafe.Pointer(b.items[i].seq), unsafe.Sizeof(sequence{}))
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
	sum += touch(unsafe.Pointer(unsafe.SliceData(slot)), uintptr(min(len(slot), graphLayoutFor(r.mostRows).bytes)))
	r.warmed = sum
}

// touch reads each cache line of an object.
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
