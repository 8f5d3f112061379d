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

// mute is a component that does not answer before it is told to, or panics.
type mute struct {
	answer chan struct{}
	panics atomic.Bool
}

func (*mute) Component() string { return "mute" }

func (m *mute) Health(context.Context) (State, string) {
	if m.panics.Load() {
		panic("at a test's wish")
	}
	<-m.answer
	return Serving, ""
}

func TestProviderThatDoesNotAnswerHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewChecker(Options{})
		m := &mute{answer: make(chan struct{})}
		other := newPart("other", Serving)
		c.Add(other, true)
		began := time.Now()
		c.Add(m, true)
		for range 3 {
			r := c.Ask(t.Context())
			if r.State != NotServing || r.Components[0].State != NotServing || r.Components[0].Reason == "" || r.Components[1].State != Serving {
				t.Errorf("report %+v, want the silent one alone out of order", r)
			}
		}
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("four rounds took %v", took)
		}
		m.answer <- struct{}{} // it was asked once
		synctest.Wait()
		other.state.Store(int64(Degraded))
		if r := c.Ask(t.Context()); r.State != Degraded || r.Components[0].State != Serving {
			t.Errorf("after the answer: %+v", r)
		}
		m.panics.Store(true)
		if r := c.Ask(t.Context()); r.State != NotServing || r.Components[0].Reason != "its check panicked" {
			t.Errorf("after a panic: %+v", r)
		}
		m.panics.Store(false)
		close(m.answer)
		if r := c.Ask(t.Context()); r.State != Degraded {
			t.Errorf("after it came back: %+v", r)
		}
	})
}

func TestAliveUntilNothingWillBringItBack(t *testing.T) {
	now := time.Now()
	report := func(asked time.Duration, state State, since time.Duration, critical bool) Report {
		return Report{State: state, Asked: now.Add(-asked), Components: []Status{
			{Component: "a", State: Serving, Critical: true},
			{Component: "m", State: state, Since: now.Add(-since), Critical: critical},
		}}
	}
	for name, c := range map[string]struct {
		report        Report
		alive, serves bool
	}{
		"nobody asked yet":         {Report{}, true, false},
		"serves":                   {report(time.Second, Serving, time.Hour, true), true, true},
		"loads for an hour":        {report(time.Second, Starting, time.Hour, true), true, false},
		"drains for an hour":       {report(time.Second, Draining, time.Hour, true), true, false},
		"out of order for seconds": {report(time.Second, NotServing, 59*time.Second, true), true, false},
		"out of order for good":    {report(time.Second, NotServing, 61*time.Second, true), false, false},
		"beside what matters":      {report(time.Second, Degraded, time.Hour, false), true, true},
		"a round is late":          {report(5*time.Second, Serving, time.Hour, true), true, true},
		"rounds have ceased":       {report(6*time.Second, Serving, time.Hour, true), false, false},
	} {
		if alive, serves := c.report.Alive(now), c.report.Now(now).State.Serves(); alive != c.alive || serves != c.serves {
			t.Errorf("%s: alive %v, serves %v, want %v, %v", name, alive, serves, c.alive, c.serves)
		}
	}
	ceased := report(time.Minute, Draining, time.Second, true)
	if r := ceased.Now(now); r.State != Draining || len(r.Components) != 3 || r.Components[1].Component != Checks || len(ceased.Components) != 2 {
		t.Errorf("rounds ceased while it drains: %+v, of %+v", r, ceased)
	}
}
