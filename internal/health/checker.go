package health

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/inferno-serve/inferno/internal/event"
)

// Options configure a Checker.
type Options struct {
	Interval time.Duration // between rounds of asking; 0 means a second
	Bus      *event.Bus    // where StatusChanged goes; may be nil
	Log      *slog.Logger  // of a provider that panicked; may be nil
}

// patience is how long a provider may take to answer. The others are asked at the same time, so that a round takes no longer.
const patience = 500 * time.Millisecond

// Checker keeps the state of every component. All methods may be called from any goroutine.
type Checker struct {
	interval time.Duration
	bus      *event.Bus
	log      *slog.Logger
	refresh  chan struct{} // one slot: a round is wanted

	asking sync.Mutex // held through a round, so that an older answer never replaces a newer one

	mu        sync.Mutex
	providers []*provider         // by component
	report    Report              // what the last round found; replaced, never changed in place
	watchers  map[chan Report]any // one slot each, holding the latest report
	draining  string              // reason; empty while the server stays
}

// provider is asked by one goroutine at a time: one that does not answer is not asked again before it has.
type provider struct {
	Provider
	critical bool
	asked    time.Time   // when the question was put that has no answer yet
	answer   chan answer // one slot; nil while nothing is asked. Both belong to the round
}

type answer struct {
	state  State
	reason string
}

// NewChecker makes a Checker without providers, whose verdict is Unknown.
func NewChecker(o Options) *Checker {
	if o.Interval <= 0 {
		o.Interval = time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Checker{interval: o.Interval, bus: o.Bus, log: o.Log, refresh: make(chan struct{}, 1), watchers: map[chan Report]any{}}
}

// Add takes p into the rounds and asks it at once. A second provider of one name is a bug and panics.
func (c *Checker) Add(p Provider, critical bool) {
	c.mu.Lock()
	i, found := c.find(p.Component())
	if found {
		c.mu.Unlock()
		panic(fmt.Sprintf("health: a second provider of component %q", p.Component()))
	}
	c.providers = slices.Insert(c.providers, i, &provider{Provider: p, critical: critical})
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
	c.asking.Lock() // a round reads it
	c.mu.Lock()
	if i, found := c.find(component); found {
		c.providers[i].critical = critical
	}
	c.mu.Unlock()
	c.asking.Unlock()
	c.Ask(context.Background())
}

func (c *Checker) find(component string) (int, bool) {
	return slices.BinarySearchFunc(c.providers, component, func(p *provider, name string) int { return cmp.Compare(p.Component(), name) })
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

	answers := c.question(ctx, providers)
	now := time.Now()
	next := Report{Asked: now, Components: make([]Status, 0, len(providers))}
	var changes []StatusChanged
	for i, p := range providers {
		status := Status{Component: p.Component(), Since: now, Critical: p.critical, State: answers[i].state, Reason: answers[i].reason}
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

// question puts the question to all providers that owe no answer, and waits for them together. One that does not answer does not work,
// whatever it last said; were it waited for, it would keep the others' states from being told.
func (c *Checker) question(ctx context.Context, providers []*provider) []answer {
	for _, p := range providers {
		if p.answer != nil {
			continue
		}
		p.asked, p.answer = time.Now(), make(chan answer, 1)
		go c.put(ctx, p.Provider, p.answer)
	}
	// A process that stood still for longer has not given them that time: it loses ticks, and they have those that are left.
	const ticks = 5
	tick := time.NewTicker(patience / ticks)
	defer tick.Stop()
	passed := 0
	answers := make([]answer, len(providers))
	for i, p := range providers {
		for p.answer != nil && passed < ticks {
			select {
			case answers[i] = <-p.answer:
				p.answer = nil
			case <-tick.C:
				passed++
			}
		}
		if p.answer == nil {
			continue
		}
		select {
		case answers[i] = <-p.answer:
			p.answer = nil
		default:
			answers[i] = answer{NotServing, "has not answered since " + p.asked.UTC().Format(time.RFC3339)}
		}
	}
	return answers
}

// put asks one provider. A panic there is its answer.
func (c *Checker) put(ctx context.Context, p Provider, to chan<- answer) {
	defer func() {
		if r := recover(); r != nil {
			c.log.Error("panic in a health check", "component", p.Component(), "panic", r, "stack", string(debug.Stack()))
			to <- answer{NotServing, "its check panicked"}
		}
	}()
	state, reason := p.Health(ctx)
	to <- answer{state, reason}
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

// component is the status of one component.
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
	chosen := Report{State: r.State, Asked: r.Asked}
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
