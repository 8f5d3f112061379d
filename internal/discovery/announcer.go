package discovery

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/inferno-serve/inferno/internal/event"
	"github.com/inferno-serve/inferno/internal/health"
)

// AnnouncerOptions configure an Announcer.
type AnnouncerOptions struct {
	Provider Provider
	Bus      *event.Bus
	Log      *slog.Logger
	Describe func() Instance      // this instance now; the Announcer sets its State
	Health   func() health.Report // the verdict now
	Changed  func()               // called when the registration's own health changed, usually Checker.Refresh
	Settle   time.Duration        // changes within this time become one update; 0 means 250 ms
	Refresh  time.Duration        // between looks at the load; 0 means a second
}

// Announcer registers one instance once it serves, follows its health and load, and withdraws it. It is the health.Provider of the
// registration. Its state belongs to the goroutine of Run, but for what mu guards.
type Announcer struct {
	o            AnnouncerOptions
	changes      *event.Subscription[health.StatusChanged]
	registration Registration
	told         Instance // what the registry holds
	failures     int      // in a row

	mu     sync.Mutex
	reason string // why the registry does not hold this instance as it is; empty while it does, or need not
}

// retryCap bounds the time between two tries after a failure; the first follows within Settle.
const retryCap = time.Second

// NewAnnouncer makes an Announcer that listens to health from now on.
func NewAnnouncer(o AnnouncerOptions) *Announcer {
	if o.Settle <= 0 {
		o.Settle = 250 * time.Millisecond
	}
	if o.Refresh <= 0 {
		o.Refresh = time.Second
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	return &Announcer{o: o, changes: event.Subscribe[health.StatusChanged](o.Bus, 1)}
}

// Run registers the instance as soon as it serves, and tells the registry of changes: of health at once, of load within Refresh. A
// registry that fails is tried again for ever, while requests go on without it. When ctx ends Run withdraws, for which it takes two
// seconds at most.
func (a *Announcer) Run(ctx context.Context) error {
	defer a.changes.Close()
	for {
		a.announce(ctx)
		// What changes right behind a change is told together.
		if !sleep(ctx, a.o.Settle) {
			break
		}
		look := time.NewTimer(a.pause())
		select {
		case <-ctx.Done():
		case <-a.changes.C():
		case <-look.C:
		}
		look.Stop()
		if ctx.Err() != nil {
			break
		}
	}
	return a.withdraw(context.WithoutCancel(ctx))
}

// pause is how long to wait, beside Settle, for news: full jitter after failures, so that a fleet does not come back all at once.
func (a *Announcer) pause() time.Duration {
	switch a.failures {
	case 0:
		return max(a.o.Refresh-a.o.Settle, 0)
	case 1:
		return 0
	}
	return time.Duration(rand.Int64N(int64(retryCap)))
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (a *Announcer) announce(ctx context.Context) {
	verdict := a.o.Health().State
	if a.registration == nil && !verdict.Serves() {
		return // never announced before the first token
	}
	instance := a.o.Describe()
	instance.State = stateOf(verdict)
	if a.registration != nil && a.failures == 0 && !differs(instance, a.told) {
		a.look()
		return
	}
	if err := a.put(ctx, instance); err != nil {
		if ctx.Err() != nil {
			return
		}
		if a.failures++; a.failures == 1 {
			a.o.Log.Warn("registration failed, trying on", "instance", instance.ID, "error", err)
		}
		a.setReason(err.Error())
		return
	}
	a.told, a.failures = instance, 0
	a.setReason("")
	event.Publish(a.o.Bus, Registered{Instance: instance})
}

// look asks whether the registry still holds what it was told.
func (a *Announcer) look() {
	if err := a.registration.Held(); err != nil {
		a.setReason(err.Error())
	} else {
		a.setReason("")
	}
}

func (a *Announcer) put(ctx context.Context, instance Instance) error {
	if a.registration != nil {
		return a.registration.Update(ctx, instance)
	}
	registration, err := a.o.Provider.Register(ctx, instance)
	if err != nil {
		return err
	}
	a.registration = registration
	a.o.Log.Info("instance registered", "instance", instance.ID, "address", instance.Address, "state", instance.State)
	return nil
}

// differs says whether a registry should hear of it: all but small changes of load.
func differs(now, told Instance) bool {
	l, m := now.Load, told.Load
	return now.State != told.State || now.Address != told.Address || !slices.Equal(now.Models, told.Models) ||
		l.Running != m.Running || l.Queued != m.Queued || math.Abs(l.KVUse-m.KVUse) >= 0.01 ||
		math.Abs(l.TokensPerSecond-m.TokensPerSecond) > max(1, m.TokensPerSecond/10)
}

func (a *Announcer) withdraw(ctx context.Context) error {
	if a.registration == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := a.registration.Withdraw(ctx); err != nil {
		return fmt.Errorf("withdraw instance %s: %w", a.told.ID, err)
	}
	event.Publish(a.o.Bus, Withdrawn{ID: a.told.ID})
	return nil
}

func (a *Announcer) setReason(reason string) {
	a.mu.Lock()
	changed := a.reason != reason
	a.reason = reason
	a.mu.Unlock()
	if changed {
		a.o.Changed()
	}
}

// Component names it as a health.Provider.
func (*Announcer) Component() string { return "registration" }

// Health is Degraded while the registry does not hold this instance as it is: those who know it by other ways are served all the same.
func (a *Announcer) Health(context.Context) (health.State, string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.reason != "" {
		return health.Degraded, a.reason
	}
	return health.Serving, ""
}

func stateOf(s health.State) State {
	switch s {
	case health.Serving:
		return Serving
	case health.Degraded:
		return Degraded
	case health.Draining:
		return Draining
	default:
		return NotServing
	}
}

func (s State) String() string {
	switch s {
	case Serving:
		return "SERVING"
	case Degraded:
		return "DEGRADED"
	case NotServing:
		return "NOT_SERVING"
	case Draining:
		return "DRAINING"
	}
	return fmt.Sprintf("State(%d)", int(s))
}
