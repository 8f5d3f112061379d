package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	readEvery    = time.Second
	readingOld   = 10 * time.Second       // the driver does not answer
	waitForEvent = 200 * time.Millisecond // how long a stop may have to wait for the driver
	eventPause   = time.Second            // after a failed wait
	eventShown   = time.Minute            // how long health names an event that the card survived
	leaveBehind  = 500 * time.Millisecond // a call into a driver that does not return
	littleFree   = 256 << 20              // bytes: the driver's kernels may find no room any more
)

// GPUOptions describe a GPU. Card, or Absent, is required.
type GPUOptions struct {
	Ordinal int
	Card    Card   // nil: it cannot be watched, and
	Absent  string // says why
	Log     *slog.Logger
	Changed func()      // called when its state may have changed, usually Checker.Refresh
	Lost    func(error) // called once, when nothing on the card works any more; the error wraps ErrCardLost
}

// GPU is the Provider of a card. A card that is not there, or has no driver that tells of it, is no fault of a server that runs without.
type GPU struct {
	o GPUOptions

	mu          sync.Mutex
	reading     Reading
	read        time.Time // when it was taken; zero: not yet
	err         error     // of the last attempt
	uncorrected uint64    // at the first reading
	lost        error
	event       CardEvent
	happened    time.Time // when that was; zero: nothing yet
	xids        map[int]uint64
}

// NewGPU makes a Provider that Run keeps up to date. What may happen more than once is counted from 0, so that whoever watches the counts sees
// the first rise too.
func NewGPU(o GPUOptions) *GPU {
	g := &GPU{o: o, xids: map[int]uint64{}}
	for xid := range survivable {
		g.xids[xid] = 0
	}
	return g
}

// Run reads the card and listens to its driver until ctx ends, and closes the card. A driver that does not answer is left behind.
func (g *GPU) Run(ctx context.Context) error {
	if g.o.Card == nil {
		return nil
	}
	var both sync.WaitGroup
	both.Go(func() { g.keepReading(ctx) })
	both.Go(func() { g.listen(ctx) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		both.Wait()
		g.o.Card.Close()
	}()
	<-ctx.Done()
	select {
	case <-done:
	case <-time.After(leaveBehind):
	}
	return nil
}

func (g *GPU) keepReading(ctx context.Context) {
	tick := time.NewTicker(readEvery)
	defer tick.Stop()
	for {
		reading, err := g.o.Card.Read()
		g.take(reading, err)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (g *GPU) take(reading Reading, err error) {
	g.mu.Lock()
	g.err = err
	if err == nil {
		if g.read.IsZero() {
			g.uncorrected = reading.Uncorrected
		}
		g.reading, g.read = reading, time.Now()
	}
	g.mu.Unlock()
	if errors.Is(err, ErrCardLost) {
		g.lose(err)
	}
}

func (g *GPU) listen(ctx context.Context) {
	failing := false
	for ctx.Err() == nil {
		e, ok, err := g.o.Card.Wait(waitForEvent)
		switch {
		case err != nil:
			if !failing {
				g.o.Log.Warn("the driver tells no events of the card", "gpu", g.o.Ordinal, "error", err)
			}
			if errors.Is(err, ErrCardLost) {
				g.lose(err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(eventPause):
			}
		case ok:
			g.hear(e)
		}
		failing = err != nil
	}
}

func (g *GPU) hear(e CardEvent) {
	g.o.Log.Warn("event of the card", "gpu", g.o.Ordinal, "event", e)
	g.mu.Lock()
	g.event, g.happened = e, time.Now()
	g.xids[e.XID]++
	g.mu.Unlock()
	if e.severity() == fatal {
		g.lose(fmt.Errorf("%w: %v", ErrCardLost, e))
		return
	}
	g.o.Changed()
}

func (g *GPU) lose(err error) {
	g.mu.Lock()
	first := g.lost == nil
	if first {
		g.lost = err
	}
	g.mu.Unlock()
	if first {
		g.o.Changed()
		g.o.Lost(err)
	}
}

// Component names it.
func (g *GPU) Component() string { return fmt.Sprintf("gpu/%d", g.o.Ordinal) }

// Health is NotServing once the card is lost, and Degraded while something about it needs a look.
func (g *GPU) Health(context.Context) (State, string) {
	if g.o.Card == nil {
		return Serving, "absent: " + g.o.Absent
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.lost != nil:
		return NotServing, g.lost.Error()
	case g.err != nil:
		return Degraded, fmt.Sprintf("the card cannot be read: %v", g.err)
	case g.read.IsZero():
		return Serving, ""
	case time.Since(g.read) > readingOld:
		return Degraded, "the card's driver has not answered since " + g.read.UTC().Format(time.RFC3339)
	}
	if complaints := g.complaints(time.Now()); len(complaints) > 0 {
		return Degraded, strings.Join(complaints, "; ")
	}
	return Serving, ""
}

// complaints are in an order from grave to slight; mu is held.
func (g *GPU) complaints(now time.Time) []string {
	r := &g.reading
	var all []string
	add := func(is bool, format string, args ...any) {
		if is {
			all = append(all, fmt.Sprintf(format, args...))
		}
	}
	add(r.Recovery != RecoveryNone, "the driver says: %v", r.Recovery)
	add(r.RemapFailed, "a row of memory could not be remapped")
	add(r.Uncorrected > g.uncorrected, "%d uncorrected ECC errors since the start", r.Uncorrected-min(g.uncorrected, r.Uncorrected))
	add(!g.happened.IsZero() && now.Sub(g.happened) <= eventShown, "%v at %s", g.event, g.happened.UTC().Format(time.RFC3339))
	add(len(r.Throttled) > 0, "clocks lowered: %s", strings.Join(r.Throttled, ", "))
	add(r.Slowdown > 0 && r.Temperature >= r.Slowdown, "%d °C, and clocks are lowered from %d °C on", r.Temperature, r.Slowdown)
	add(r.RemapPending, "a row of memory is remapped at the next reset of the card")
	add(r.OthersBytes > 0 && r.TotalBytes-r.UsedBytes < littleFree, "other processes hold %d MiB of the card's memory, and %d MiB are free",
		r.OthersBytes>>20, (r.TotalBytes-r.UsedBytes)>>20)
	return all
}

// Reading is the last one, and how often each XID was heard of (0: events that have none). ok is false before the first.
func (g *GPU) Reading() (r Reading, xids map[int]uint64, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	xids = make(map[int]uint64, len(g.xids))
	for xid, n := range g.xids {
		xids[xid] = n
	}
	return g.reading, xids, !g.read.IsZero()
}

// Ordinal is the number by which the server knows the card.
func (g *GPU) Ordinal() int { return g.o.Ordinal }
