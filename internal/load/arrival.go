package load

import (
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

// never is later than anything.
const never = time.Duration(math.MaxInt64)

// A run is one point under way. Times within it count from start.
type run struct {
	*Generator
	point  Point
	record record
	first  int64 // number of the point's first request
	start  time.Time

	mu      sync.Mutex
	issued  int64 // requests
	counted int   // of them, those that count
}

func (r *run) now() time.Duration { return time.Since(r.start) }

// ticket is the right to make one request.
type ticket struct {
	n        int64         // within the point
	intended time.Duration // when it is to start
	counts   bool          // whether it is measured
}

// next hands out the request that is to start at `at`; ok is false when the point has had all of its requests.
func (r *run) next(at time.Duration) (t ticket, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t = ticket{n: r.issued, intended: at, counts: at >= r.point.WarmUp}
	if at >= r.record.end || t.counts && r.point.Requests > 0 && r.counted == r.point.Requests {
		return t, false
	}
	r.issued++
	if t.counts {
		r.counted++
	}
	return t, true
}

// failurePause is how long a place of a closed loop stays empty behind a request that failed: a server that is gone is not to be hammered.
const failurePause = 10 * time.Millisecond

// closedLoop keeps a number of requests going.
func (r *run) closedLoop(ctx context.Context) {
	var workers sync.WaitGroup
	for range r.point.Concurrency {
		workers.Go(func() {
			for ctx.Err() == nil {
				t, ok := r.next(r.now())
				if !ok {
					return
				}
				if !r.request(ctx, t) {
					select {
					case <-time.After(failurePause):
					case <-ctx.Done():
					}
				}
			}
		})
	}
	workers.Wait()
}

// openLoop starts requests at the times of a Poisson process, whatever became of those before. Where it wakes late, those that are due start
// at once, and their latency counts from when they were due.
func (r *run) openLoop(ctx context.Context) {
	random := rand.New(rand.NewPCG(r.maker.Seed, uint64(r.first)))
	var requests sync.WaitGroup
	defer requests.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for at := time.Duration(0); ; {
		at += time.Duration(random.ExpFloat64() / r.point.Rate * float64(time.Second))
		t, ok := r.next(at)
		if !ok {
			return
		}
		if wait := at - r.now(); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
		}
		if ctx.Err() != nil {
			return
		}
		requests.Go(func() { r.request(ctx, t) })
	}
}
