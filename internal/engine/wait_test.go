package engine

import (
	"testing"
	"time"
)

// Whatever a step was thought to take, the loop soon wakes up before its end, and goes on to.
func TestTheLoopLearnsHowLongAStepTakes(t *testing.T) {
	const overshoot = 60 * time.Microsecond // of a sleep
	for _, took := range []time.Duration{100 * time.Microsecond, 500 * time.Microsecond, 5 * time.Millisecond, 80 * time.Millisecond} {
		for _, thought := range []time.Duration{1, took / 2, took, took + took/8, took + 10*time.Millisecond} {
			g := stepGraph{expected: thought}
			late := 0
			for i := range 100 {
				woke := max(g.expected-wakeBefore+overshoot, 0)
				if woke > took {
					g.learn(woke, true)
					if late++; i > 40 {
						t.Errorf("a step of %v, first taken for one of %v: late again in step %d", took, thought, i)
					}
					continue
				}
				g.learn(took, false)
			}
			if late > 10 || g.expected < took*9/10 || g.expected > took+took/10+wakeBefore {
				t.Errorf("a step of %v, first taken for one of %v: late %d times, in the end taken for one of %v", took, thought, late, g.expected)
			}
		}
	}
}
