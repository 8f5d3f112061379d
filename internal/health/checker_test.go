package health

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/inferno-serve/inferno/internal/event"
	"github.com/inferno-serve/inferno/internal/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// part is a component whose state a test sets.
type part struct {
	name  string
	state atomic.Int64
}

func newPart(name string, s State) *part {
	p := &part{name: name}
	p.state.Store(int64(s))
	return p
}

func (p *part) Component() string { return p.name }

func (p *part) Health(context.Context) (State, string) {
	s := State(p.state.Load())
	if s == Serving {
		return s, ""
	}
	return s, "set to " + s.String()
}

func TestVerdictIsTheWorstCriticalState(t *testing.T) {
	tests := []struct {
		critical, other []State
		want            State
	}{
		{nil, nil, Unknown},
		{[]State{Serving}, nil, Serving},
		{[]State{Serving, Degraded}, nil, Degraded},
		{[]State{Degraded, Starting}, nil, Starting},
		{[]State{Starting, NotServing}, nil, NotServing},
		{[]State{Serving}, []State{NotServing}, Degraded},
		{[]State{NotServing}, []State{Serving}, NotServing},
		{[]State{Serving}, []State{Starting, Draining}, Serving},
		{nil, []State{Starting}, Serving},
		{[]State{Unknown}, nil, Unknown},
	}
	for _, test := range tests {
		c := NewChecker(Options{})
		for i, s := range test.critical {
			c.Add(newPart("critical"+string(rune('a'+i)), s), true)
		}
		for i, s := range test.other {
			c.Add(newPart("other"+string(rune('a'+i)), s), false)
		}
		if got := c.Report().State; got != test.want {
			t.Errorf("critical %v, other %v: %v, want %v", test.critical, test.other, got, test.want)
		}
	}
}

func TestChangesAreToldOnceWithTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		bus := event.New()
		told := event.Subscribe[StatusChanged](bus, 16)
		defer told.Close()
		c := NewChecker(Options{Interval: time.Second, Bus: bus})
		engine := newPart("engine/m", Starting)
		c.Add(engine, true)
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()

		if e := <-told.C(); e.Status.State != Starting || e.Before != Unknown || e.Overall != Starting {
			t.Errorf("first event %+v", e)
		}
		time.Sleep(10 * time.Second) // rounds without change
		if n := len(told.C()); n != 0 {
			t.Errorf("%d events without a change", n)
		}
		since := c.Report().Components[0].Since

		engine.state.Store(int64(Serving))
		before := time.Now()
		e := <-told.C()
		if waited := time.Since(before); waited > time.Second {
			t.Errorf("the change was found after %v, want within the interval", waited)
		}
		if e.Status.State != Serving || e.Before != Starting || e.Overall != Serving || !e.Status.Since.After(since) {
			t.Errorf("second event %+v, component was starting since %v", e, since)
		}

		engine.state.Store(int64(NotServing))
		before = time.Now()
		c.Refresh()
		synctest.Wait()
		if e := <-told.C(); e.Status.State != NotServing || time.Since(before) != 0 {
			t.Errorf("after Refresh: %+v in %v, want NOT_SERVING at once", e, time.Since(before))
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestWatchGivesASlowReaderTheLatest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewChecker(Options{})
		engine := newPart("engine/m", Starting)
		c.Add(engine, true)
		ctx, cancel := context.WithCancel(t.Context())
		reports := c.Watch(ctx)
		for _, s := range []State{Serving, Degraded, NotServing} {
			engine.state.Store(int64(s))
			c.Ask(ctx)
		}
		if r := <-reports; r.State != NotServing {
			t.Errorf("slow reader got %v, want the latest", r.State)
		}
		c.Ask(ctx)
		select {
		case r := <-reports:
			t.Errorf("told %v without a change", r.State)
		default:
		}
		c.Drain("stopping")
		if r := <-reports; r.State != Draining {
			t.Errorf("draining told as %v", r.State)
		}
		cancel()
		synctest.Wait()
		if _, open := <-reports; open {
			t.Error("channel open after its context ended")
		}
		c.Ask(t.Context()) // must not send on the closed channel
	})
}

func TestSelectNamesUnknownComponents(t *testing.T) {
	c := NewChecker(Options{})
	c.Add(newPart("a", Serving), true)
	c.Add(newPart("b", Degraded), false)
	got, missing := c.Report().Select([]string{"b", "x"})
	if len(got.Components) != 1 || got.Components[0].Component != "b" || got.State != Degraded || len(missing) != 1 || missing[0] != "x" {
		t.Errorf("%+v, missing %v", got, missing)
	}
	c.Remove("b")
	if r := c.Report(); r.State != Serving || len(r.Components) != 1 {
		t.Errorf("after Remove: %+v", r)
	}
}

func TestMemoryAlertDegrades(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		bus := event.New()
		c := NewChecker(Options{Interval: time.Hour, Bus: bus})
		m := NewMemory(bus, c.Refresh)
		c.Add(m, false)
		done := make(chan error, 2)
		go func() { done <- c.Run(ctx) }()
		go func() { done <- m.Run(ctx) }()

		tracker := memory.NewTracker(memory.TrackerOptions{Limit: 100, AlertAt: 0.9, Bus: bus})
		steps := []struct {
			change int64
			want   State
		}{{50, Serving}, {45, Degraded}, {-2, Degraded}, {-50, Serving}}
		for _, step := range steps {
			if step.change > 0 {
				if err := tracker.Reserve("m", memory.KV, step.change); err != nil {
					t.Fatal(err)
				}
			} else {
				tracker.Release("m", memory.KV, -step.change)
			}
			synctest.Wait()
			if got := c.Report().State; got != step.want {
				t.Errorf("after %+d bytes: %v, want %v", step.change, got, step.want)
			}
		}
		cancel()
		<-done
		<-done
	})
}
