package backend

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/inferno-serve/inferno/internal/engine"
)

// DefaultStuckStep is how long a step may run at least before it counts as one that never ends.
const DefaultStuckStep = 10 * time.Second

// stuckFactor times the 99th percentile of the steps so far is what a step may take beyond that, and as many times the longest step that the
// engine foresees: a device whose steps are slow is not taken for a dead one, not even before it has made many.
const stuckFactor = 20

// Buckets of step durations: bucketsPerOctave of them for each doubling, from a microsecond up to half an hour.
const (
	bucketsPerOctave = 4
	numBuckets       = 31*bucketsPerOctave + 1
)

// lookAgain is after which silence of its own a watchdog counts as dead.
const lookAgain = 5 * time.Second

// watchdog finds the step that never ends, and the loop that hangs between steps. It hears of each step from the engine's loop, which may
// hang, and watches from a goroutine of its own.
type watchdog struct {
	least     time.Duration
	longest   func() time.Duration // that the engine foresees a step to take
	born      time.Time
	looked    atomic.Int64      // when, since born
	held      atomic.Int64      // for how long the loop had been silent then
	observers []engine.Observer // hear of all that the watchdog hears of
	steps     [numBuckets]atomic.Uint64
}

func newWatchdog(least time.Duration, observers ...engine.Observer) *watchdog {
	w := &watchdog{least: least, longest: func() time.Duration { return 0 }, born: time.Now()}
	if w.least <= 0 {
		w.least = DefaultStuckStep
	}
	for _, o := range observers {
		if o != nil {
			w.observers = append(w.observers, o)
		}
	}
	return w
}

// ObserveStep implements engine.Observer.
func (w *watchdog) ObserveStep(s *engine.StepInfo) {
	w.steps[bucketOf(s.Duration)].Add(1)
	for _, o := range w.observers {
		o.ObserveStep(s)
	}
}

// ObserveRequest implements engine.Observer.
func (w *watchdog) ObserveRequest(r *engine.RequestInfo) {
	for _, o := range w.observers {
		o.ObserveRequest(r)
	}
}

// watch looks at the loop until ctx ends or the loop hangs, and returns for how long it has been silent. A time in which the whole process
// stood still, watchdog included, says nothing about the loop and is not counted.
func (w *watchdog) watch(ctx context.Context, silence func() time.Duration) (silent time.Duration, stuck bool) {
	every := min(max(w.least/20, time.Millisecond), time.Second) // far more often than lookAgain, whatever a step may take
	tick := time.NewTicker(every)
	defer tick.Stop()
	held := time.Duration(0)
	for last := time.Now(); ; {
		w.looked.Store(int64(last.Sub(w.born)))
		select {
		case <-ctx.Done():
			return 0, false
		case <-tick.C:
		}
		now := time.Now()
		passed := now.Sub(last)
		last = now
		silent := silence()
		held = min(silent, held+min(passed, 2*every)) // a step that began since the last look has been running for less
		w.held.Store(int64(held))
		if held > w.limit() {
			return silent, true
		}
	}
}

// doubt is why nobody can say that tokens are made: the loop is half way to being taken for hung, or the watchdog itself is.
func (w *watchdog) doubt() string {
	if unseen := time.Since(w.born) - time.Duration(w.looked.Load()); unseen > lookAgain {
		return fmt.Sprintf("nobody has looked after the engine's loop for %v", unseen.Round(time.Second))
	}
	if held := time.Duration(w.held.Load()); held > w.limit()/2 {
		return fmt.Sprintf("the engine's loop has been silent for %v", held.Round(time.Second))
	}
	return ""
}

// limit is how long a step may run.
func (w *watchdog) limit() time.Duration {
	least := max(w.least, stuckFactor*w.longest())
	var counts [numBuckets]uint64
	total := uint64(0)
	for i := range w.steps {
		counts[i] = w.steps[i].Load()
		total += counts[i]
	}
	above := uint64(0)
	for i := numBuckets - 1; i >= 0; i-- {
		if above += counts[i]; 100*above > total {
			return max(least, stuckFactor*upperBound(i))
		}
	}
	return least
}

// bucketOf is the bucket of a duration: i holds what is at most upperBound(i) and more than upperBound(i−1).
func bucketOf(d time.Duration) int {
	octaves := math.Log2(max(float64(d)/float64(time.Microsecond), 1))
	return min(int(math.Ceil(bucketsPerOctave*octaves)), numBuckets-1)
}

func upperBound(bucket int) time.Duration {
	return time.Duration(float64(time.Microsecond) * math.Exp2(float64(bucket)/bucketsPerOctave))
}
