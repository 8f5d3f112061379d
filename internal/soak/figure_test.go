package soak

import (
	"errors"
	"math"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// failures counts what went wrong, and keeps the first few.
type failures struct {
	mu    sync.Mutex
	count int
	first []error
}

func (f *failures) add(err error) {
	if err == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	if len(f.first) < 5 {
		f.first = append(f.first, err)
	}
}

func (f *failures) report(t testing.TB, of int) {
	t.Helper()
	if f.count > 0 {
		t.Errorf("%d of %d failed: %v", f.count, of, errors.Join(f.first...))
	}
}

// quantile of durations; they are put in order.
func quantile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(int(math.Ceil(q*float64(len(all)))), len(all))-1]
}

// figure prints one that docs/reliability.md has, and in the full form checks that it is within what is promised.
func figure(t testing.TB, ok bool, format string, args ...any) {
	t.Helper()
	t.Logf(format, args...)
	if full && !ok {
		t.Errorf("that is more than was promised: "+format, args...)
	}
}

// settled waits until as few goroutines run as before, and returns how many do.
func settled(before int) int {
	patience := time.Now().Add(20 * time.Second)
	for runtime.NumGoroutine() > before && time.Now().Before(patience) {
		time.Sleep(10 * time.Millisecond)
	}
	return runtime.NumGoroutine()
}

// heap is the bytes in use after a collection.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what pools held goes with the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func codeOf(err error) codes.Code { return status.Code(err) }
