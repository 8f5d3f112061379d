package engine

import (
	"errors"
	"fmt"
	"time"

	"github.com/inferno-serve/inferno/internal/device"
)

// How the loop waits for a device that works beside it. A step whose length is known is slept through and polled at its end; any other is slept
// through for as long as it will take at least, and then polled at a small share of what it has taken, so that neither holds a core. Who finds the
// end of a step late delays its tokens; the device works on, if it has the next one already.
const (
	wakeBefore  = 150 * time.Microsecond // the expected end: what waking up and warm take
	pollFor     = 290 * time.Microsecond // at the shortest pauses, from wakeBefore on
	pollPause   = 5 * time.Microsecond
	pollShare   = 16 // of the time that a step has taken, between two looks at it
	minPause    = 20 * time.Microsecond
	maxPause    = 100 * time.Microsecond
	easyPause   = 250 * time.Microsecond // in place of maxPause, while the next step is under way too
	askInterval = 20 * time.Millisecond  // between questions to the driver, which knows of a failure that the device cannot tell
	smoothing   = 8                      // steps over which their length is smoothed
)

// stepTiming is what is known of a step under way.
type stepTiming struct {
	began time.Time
	graph *stepGraph // nil: no graph
	batch *batch     // of a graph
	late  bool       // it had ended when the loop woke up for it

	atLeast time.Duration // that it takes, without a graph; 0: nobody knows
}

// wait returns when step k has ended.
func (r *runner) wait(k int64) error {
	entered := time.Now()
	err := r.await(k)
	now := time.Now()
	r.waited += now.Sub(entered)
	if err != nil {
		return err
	}
	if flight := &r.timings[k%maxUnderWay]; flight.graph != nil {
		flight.graph.learn(now.Sub(r.beginning(k)), flight.late)
	}
	r.lastEnd = now
	return nil
}

// learn follows the length of a step. One that had ended when the loop woke up took less than it seems, nobody knows how much less: the loop
// wakes up earlier for the next one, and ever more so as long as that is late too.
func (g *stepGraph) learn(took time.Duration, late bool) {
	switch {
	case late:
		g.expected = max(took-wakeBefore<<min(g.lates, 5), 1)
		g.lates++
		return
	case g.expected == 0:
		g.expected = took
	}
	g.lates = 0
	g.expected += (took - g.expected) / smoothing
}

// beginning is when step k had the device to itself.
func (r *runner) beginning(k int64) time.Time {
	began := r.timings[k%maxUnderWay].began
	if r.lastEnd.After(began) {
		return r.lastEnd
	}
	return began
}

func (r *runner) await(k int64) error {
	if !r.info.Overlap {
		if err := r.device.Sync(); err != nil {
			return err
		}
		if passed := r.device.Passed(); passed <= k {
			return errors.Join(device.ErrLost, fmt.Errorf("step %d has not ended, the device counts %d", k, passed))
		}
		return nil
	}
	began, pollUntil := r.beginning(k), time.Time{}
	flight := &r.timings[k%maxUnderWay]
	if g := flight.graph; g != nil && g.expected > 0 {
		end := began.Add(g.expected)
		pollUntil = end.Add(pollFor - wakeBefore)
		if r.device.Passed() <= k {
			pause(time.Until(end.Add(-wakeBefore)))
			if flight.late = r.device.Passed() > k; !flight.late && r.beforeEnd != nil {
				r.beforeEnd(flight.batch, g)
			}
		}
	}
	if flight.atLeast > 0 && r.device.Passed() <= k {
		pause(time.Until(began.Add(flight.atLeast - wakeBefore)))
	}
	longest := maxPause
	if r.launched > k+1 {
		longest = easyPause
	}
	asked := time.Now()
	for {
		passed := r.device.Passed()
		if passed > k {
			return nil
		}
		if passed < 0 {
			return errors.Join(device.ErrLost, r.device.Sync())
		}
		now := time.Now()
		if now.Before(pollUntil) {
			pause(pollPause)
			continue
		}
		if now.Sub(asked) > askInterval {
			if err := r.device.Poll(); err != nil {
				return err
			}
			asked = now
		}
		pause(min(max(now.Sub(began)/pollShare, minPause), longest))
	}
}
