package health

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/inferno-serve/inferno/internal/event"
)

// Options configure a Checker.
type Options struct {
	Interval time.Duration // between rounds of asking; 0 means a second
	Bus      *event.Bus    // where StatusChanged goes; may be nil
}

// Checker keeps the state of every component. All methods may be called from any goroutine.
type Checker struct {
	interval time.Duration
	bus      *event.Bus
	refresh  chan struct{} // one slot: a round is wanted

	asking sync.Mutex // held through a round, so that an older answer never replaces a newer one

	mu        sync.Mutex
	providers []provider          // by component
	report    Report              // what the last round found; replaced, never changed in place
	watchers  map[chan Report]any // one slot each, holding the latest report
	draining  string              // reason; empty while the server stays
}

type provider struct {
	Provider
	critical bool
}

// NewChecker makes a Checker without providers, whose verdict is Unknown.
func NewChecker(o Options) *Checker {
	if o.Interval <= 0 {
		o.Interval = time.Second
	}
	return &Checker{interval: o.Interval, bus: o.Bus, refresh: make(chan struct{}, 1), watchers: map[chan Report]any{}}
}

// Add takes p into the rounds and asks it at once. A second provider of one name is a bug and panics.
func (c *Checker) Add(p Provider, critical bool) {
	c.mu.Lock()
	i, found := c.find(p.Component())
	if found {
		c.mu.Unlock()
		panic(fmt.Sprintf("health: a second provider of component %q", p.Component()))
	}
	c.providers = slices.Insert(c.providers, i, provider{p, critical})
	c.mu.Unlock()
	c.Ask(context.Background())
}

// Remove forgets a component.
func (c *Checker) Remove(component string) {
	c.mu.Lock()
	if i, found := c.find(component); found {
		c.providers = slices.Delete(c.providers, i, i+1)
	}
	c.mu.Unlock()
	c.Ask(context.Background())
}

// SetCritical says anew whether a component decides on the whole; one that is unknown stays so.
func (c *Checker) SetCritical(component string, critical bool) {
	c.mu.Lock()
	if i, found := c.find(component); found {
		c.providers[i].critical = critical
	}
	c.mu.Unlock()
	c.Ask(context.Background())
}

func (c *Checker) find(component string) (int, bool) {
	return slices.BinarySearchFunc(c.providers, component, func(p provider, name string) int { return cmp.Compare(p.Component(), name) })
}

// Run asks every provider each interval and after each Refresh, until ctx ends.
func (c *Checker) Run(ctx context.Context) error {
	tick := time.NewTicker(c.interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-c.refresh:
		}
		c.Ask(ctx)
	}
}

// Refresh has Run ask at once, for a provider whose state has just changed. It never blocks.
func (c *Checker) Refresh() {
	select {
	case c.refresh <- struct{}{}:
	default: // a round is due already
	}
}

// Drain turns the whole to Draining, for good: the server stops.
func (c *Checker) Drain(reason string) {
	c.mu.Lock()
	c.draining = reason
	c.mu.Unlock()
	c.Ask(context.Background())
}

// Ask does one round now, publishes what changed and returns what it found.
func (c *Checker) Ask(ctx context.Context) Report {
	c.asking.Lock()
	defer c.asking.Unlock()

	c.mu.Lock()
	providers := slices.Clone(c.providers)
	before := c.report
	c.mu.Unlock()

	now := time.Now()
	next := Report{Components: make([]Status, 0, len(providers))}
	var changes []StatusChanged
	for _, p := range providers {
		status := Status{Component: p.Component(), Since: now, Critical: p.critical}
		status.State, status.Reason = p.Health(ctx)
		was, known := before.component(status.Component)
		if known && was.State == status.State {
			status.Since = was.Since
		}
		if !known || was.State != status.State || was.Reason != status.Reason {
			changes = append(changes, StatusChanged{Status: status, Before: was.State})
		}
		next.Components = append(next.Components, status)
	}
	next.State = verdict(next.Components)

	c.mu.Lock()
	if c.draining != "" {
		next.State = Draining
	}
	changed := len(changes) > 0 || next.State != before.State || len(next.Components) != len(before.Components)
	c.report = next
	if changed {
		for w := range c.watchers {
			offer(w, next)
		}
	}
	c.mu.Unlock()

	for _, change := range changes {
		change.Overall = next.State
		event.Publish(c.bus, change)
	}
	return next
}

// verdict is the worst state of a critical component; others degrade the whole at most, and not where they come or go. Without
// components nothing is known.
func verdict(components []Status) State {
	worst := Unknown
	for _, s := range components {
		state := s.State
		switch {
		case s.Critical:
		case state == Starting || state == Draining:
			state = Serving
		case state > Degraded:
			state = Degraded
		}
		worst = max(worst, state)
	}
	return worst
}

// Report is what the last round found.
func (c *Checker) Report() Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.report
}

// Watch sends the report now and after each change until ctx ends, then closes the channel. A slow reader gets the latest report, not
// each one.
func (c *Checker) Watch(ctx context.Context) <-chan Report {
	w := make(chan Report, 1)
	c.mu.Lock()
	w <- c.report
	c.watchers[w] = nil
	c.mu.Unlock()
	context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.watchers, w)
		close(w)
	})
	return w
}

// offer replaces what waits in w; only holders of mu send, so that the slot stays free once emptied.
func offer(w chan Report, r Report) {
	select {
	case <-w:
	default:
	}
	w <- r
}

func (r Report) component(name string) (Status, bool) {
	for _, s := range r.Components {
		if s.Component == name {
			return s, true
		}
	}
	return Status{}, false
}

// Select is the report of these components alone, and the names among them that it does not have.
func (r Report) Select(names []string) (Report, []string) {
	if len(names) == 0 {
		return r, nil
	}
	chosen := Report{State: r.State}
	var missing []string
	for _, name := range names {
		if s, ok := r.component(name); ok {
			chosen.Components = append(chosen.Components, s)
		} else {
			missing = append(missing, name)
		}
	}
	return chosen, missing
}
