package soak

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pulse knows when this process stood still: a timer of each millisecond did not fire. Machines that others share do that, and virtual ones whose
// host stops them for a second; what is promised of a server is promised of the time in which it runs.
type pulse struct {
	mu   sync.Mutex
	gaps []gap // one after the other
}

type gap struct{ from, to time.Time }

const pulseEvery = time.Millisecond

// startPulse feels it until the test ends.
func startPulse(t testing.TB) *pulse {
	p := &pulse{}
	ctx, stop := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { p.feel(ctx) })
	t.Cleanup(func() {
		stop()
		done.Wait()
	})
	return p
}

func (p *pulse) feel(ctx context.Context) {
	for last := time.Now(); ctx.Err() == nil; {
		time.Sleep(pulseEvery)
		now := time.Now()
		if due := last.Add(2 * pulseEvery); now.After(due) {
			p.mu.Lock()
			p.gaps = append(p.gaps, gap{due, now})
			p.mu.Unlock()
		}
		last = now
	}
}

// lost is how much of a span of time the process stood still.
func (p *pulse) lost(from, to time.Time) (sum time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	first, _ := slices.BinarySearchFunc(p.gaps, from, func(g gap, t time.Time) int { return g.to.Compare(t) })
	for _, g := range p.gaps[first:] {
		if g.from.Before(from) {
			g.from = from
		}
		if g.to.After(to) {
			g.to = to
		}
		if !g.to.After(g.from) {
			break
		}
		sum += g.to.Sub(g.from)
	}
	return sum
}

// ran is the rest of it.
func (p *pulse) ran(from, to time.Time) time.Duration { return to.Sub(from) - p.lost(from, to) }

func TestPulseForgivesOnlyWhatWasLost(t *testing.T) {
	at := time.Now()
	after := func(ms int) time.Time { return at.Add(time.Duration(ms) * time.Millisecond) }
	p := &pulse{gaps: []gap{{after(10), after(20)}, {after(50), after(150)}}}
	for _, c := range []struct{ from, to, lost int }{
		{0, 10, 0}, {0, 15, 5}, {12, 15, 3}, {15, 40, 5}, {20, 50, 0}, {0, 200, 110}, {149, 300, 1}, {150, 300, 0},
	} {
		if got := p.lost(after(c.from), after(c.to)); got != time.Duration(c.lost)*time.Millisecond {
			t.Errorf("from %d to %d ms: %v were lost, want %d ms", c.from, c.to, got, c.lost)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		p, from := &pulse{}, time.Now()
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		p.feel(ctx)
		if got := p.lost(from, time.Now()); got != 0 {
			t.Errorf("%v were lost, want nothing: every timer fired", got)
		}
	})
}
