package engine

import (
	"sync/atomic"
	"time"
)

// FreedEdges are the upper bounds of the buckets of Freed.
var FreedEdges = [...]time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 10 * time.Second,
}

// Freed counts how long requests that left early still held their blocks: from the moment that the engine was told to the
// end of the last step that names them.
type Freed struct {
	Counts [len(FreedEdges) + 1]uint64 // [edges + 1] up to an edge and above the one before; the last has the rest
	Sum    time.Duration
}

// freedTimes is what the loop writes of it.
type freedTimes struct {
	counts [len(FreedEdges) + 1]atomic.Uint64
	sum    atomic.Int64
}

func (f *freedTimes) add(d time.Duration) {
	i := 0
	for i < len(FreedEdges) && d > FreedEdges[i] {
		i++
	}
	f.counts[i].Add(1)
	f.sum.Add(int64(d))
}

func (f *freedTimes) read() (r Freed) {
	for i := range f.counts {
		r.Counts[i] = f.counts[i].Load()
	}
	r.Sum = time.Duration(f.sum.Load())
	return r
}
