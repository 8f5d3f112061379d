package discovery_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/inferno-serve/inferno/internal/discovery"
	"github.com/inferno-serve/inferno/internal/discovery/static"
	"github.com/inferno-serve/inferno/internal/event"
	"github.com/inferno-serve/inferno/internal/health"
	"github.com/inferno-serve/inferno/internal/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type engine struct{ state atomic.Int64 }

func (*engine) Component() string { return "engine/m" }
func (e *engine) Health(context.Context) (health.State, string) {
	return health.State(e.state.Load()), ""
}

// The chain that the parts form over the bus: memory alert → health → registry, with nothing else between them.
func TestMemoryAlertReachesTheRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		bus := event.New()
		checker := health.NewChecker(health.Options{Interval: time.Hour, Bus: bus})
		pool := health.NewMemory(bus, checker.Refresh)
		e := &engine{}
		e.state.Store(int64(health.Starting))
		checker.Add(e, true)
		checker.Add(pool, false)

		registry := static.New()
		announcer := discovery.NewAnnouncer(discovery.AnnouncerOptions{
			Provider: registry, Bus: bus, Log: slog.New(slog.DiscardHandler), Health: checker.Report,
			Describe: func() discovery.Instance { return discovery.Instance{ID: "a", Address: "h:1"} },
		})
		registered := event.Subscribe[discovery.Registered](bus, 16)
		defer registered.Close()
		done := make(chan error, 3)
		for _, run := range []func(context.Context) error{checker.Run, pool.Run, announcer.Run} {
			go func() { done <- run(ctx) }()
		}
		expect := func(when string, want ...discovery.State) {
			t.Helper()
			time.Sleep(time.Second) // past the announcer's settling, on the test's own clock
			list, err := registry.List(ctx)
			if err != nil || len(list) != len(want) || len(want) == 1 && list[0].State != want[0] {
				t.Fatalf("%s: registry holds %+v (%v), want %v", when, list, err, want)
			}
		}
		expect("while starting")
		e.state.Store(int64(health.Serving))
		checker.Refresh()
		expect("serving", discovery.Serving)

		tracker := memory.NewTracker(memory.TrackerOptions{Limit: 100, AlertAt: 0.9, Bus: bus})
		if err := tracker.Reserve("m", memory.KV, 95); err != nil {
			t.Fatal(err)
		}
		expect("after the alert", discovery.Degraded)
		tracker.Release("m", memory.KV, 95)
		expect("after the alert cleared", discovery.Serving)
		e.state.Store(int64(health.NotServing))
		checker.Refresh()
		expect("engine broken", discovery.NotServing)
		checker.Drain("stopping")
		if len(registered.C()) != 4 {
			t.Errorf("%d events told of the registration, want one for each of its 4 states", len(registered.C()))
		}

		cancel()
		for range 3 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if list, err := registry.List(context.Background()); err != nil || len(list) != 0 {
			t.Errorf("after the end the registry holds %+v (%v)", list, err)
		}
	})
}

// flaky is a registry that fails as often as it is told to.
type flaky struct {
	*static.Registry
	failures atomic.Int64
}

func (f *flaky) Register(ctx context.Context, i discovery.Instance) (discovery.Registration, error) {
	if f.failures.Add(-1) >= 0 {
		return nil, errors.New("registry is away")
	}
	return f.Registry.Register(ctx, i)
}

func TestRegistryFollowsLoadAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		registry := &flaky{Registry: static.New()}
		registry.failures.Store(5)
		var load atomic.Int64
		var changes atomic.Int64
		announcer := discovery.NewAnnouncer(discovery.AnnouncerOptions{
			Provider: registry, Bus: event.New(), Log: slog.New(slog.DiscardHandler),
			Health:  func() health.Report { return health.Report{State: health.Serving} },
			Changed: func() { changes.Add(1) },
			Describe: func() discovery.Instance {
				return discovery.Instance{ID: "a", Load: discovery.Load{Running: int(load.Load())}}
			},
		})
		done := make(chan error, 1)
		go func() { done <- announcer.Run(ctx) }()
		synctest.Wait()
		if state, reason := announcer.Health(ctx); state != health.Degraded || reason != "registry is away" {
			t.Errorf("while the registry is away: %v %q", state, reason)
		}
		time.Sleep(10 * time.Second) // five failures, each tried again within a second and a quarter
		list, err := registry.List(ctx)
		if err != nil || len(list) != 1 {
			t.Fatalf("after its return the registry holds %v (%v)", list, err)
		}
		if state, reason := announcer.Health(ctx); state != health.Serving || reason != "" || changes.Load() != 2 {
			t.Errorf("after its return: %v %q, %d changes told, want 2", state, reason, changes.Load())
		}
		events, err := registry.Watch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		<-events
		load.Store(3)
		time.Sleep(2 * time.Second)
		if e := <-events; e.Put == nil || e.Put.Load.Running != 3 {
			t.Errorf("%+v, want the load within two seconds", e)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		select {
		case e := <-events:
			t.Errorf("told %+v without a change", e)
		default:
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// losing is a registry that takes everything, and loses it when it is told to.
type losing struct {
	*static.Registry
	lost atomic.Pointer[string] // why
}

type losingRegistration struct {
	discovery.Registration
	from *losing
}

func (l *losing) Register(ctx context.Context, i discovery.Instance) (discovery.Registration, error) {
	g, err := l.Registry.Register(ctx, i)
	return losingRegistration{g, l}, err
}

func (g losingRegistration) Held() error {
	if why := g.from.lost.Load(); why != nil {
		return errors.New(*why)
	}
	return nil
}

// A registration that is lost shows in Health without anything to tell the registry, and while requests are served.
func TestHealthSaysThatARegistrationIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		registry := &losing{Registry: static.New()}
		announcer := discovery.NewAnnouncer(discovery.AnnouncerOptions{
			Provider: registry, Bus: event.New(), Log: slog.New(slog.DiscardHandler),
			Health:   func() health.Report { return health.Report{State: health.Serving} },
			Describe: func() discovery.Instance { return discovery.Instance{ID: "a"} },
		})
		done := make(chan error, 1)
		go func() { done <- announcer.Run(ctx) }()
		expect := func(when string, want health.State, reason string) {
			t.Helper()
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if state, got := announcer.Health(ctx); state != want || got != reason {
				t.Errorf("%s: %v %q, want %v %q", when, state, got, want, reason)
			}
		}
		expect("registered", health.Serving, "")
		why := "etcd is away"
		registry.lost.Store(&why)
		expect("lost", health.Degraded, why)
		registry.lost.Store(nil)
		expect("held again", health.Serving, "")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
