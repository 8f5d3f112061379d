package discovery

import (
	"context"
	"fmt"
	"log/slog"
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
	Settle   time.Duration        // changes within this time become one update; 0 means 250 ms
}

// Announcer registers one instance once it serves, follows its health, and withdraws it. Its state belongs to the goroutine of Run.
type Announcer struct {
	o            AnnouncerOptions
	changes      *event.Subscription[health.StatusChanged]
	registration Registration
}

// NewAnnouncer makes an Announcer that listens to health from now on.
func NewAnnouncer(o AnnouncerOptions) *Announcer {
	if o.Settle <= 0 {
		o.Settle = 250 * time.Millisecond
	}
	return &Announcer{o: o, changes: event.Subscribe[health.StatusChanged](o.Bus, 1)}
}

// Run registers the instance as soon as it serves and updates it when its health changes. When ctx ends it withdraws, for which it takes
// two seconds at most. A registry that fails is logged and tried again at the next change: requests go on without it.
func (a *Announcer) Run(ctx context.Context) error {
	defer a.changes.Close()
	a.announce(ctx)
	for {
		select {
		case <-ctx.Done():
			return a.withdraw(context.WithoutCancel(ctx))
		case <-a.changes.C():
		}
		// The first change is told at once, the ones right behind it together.
		a.announce(ctx)
		settled := time.NewTimer(a.o.Settle)
		select {
		case <-ctx.Done():
			settled.Stop()
			return a.withdraw(context.WithoutCancel(ctx))
		case <-settled.C:
		}
	}
}

func (a *Announcer) announce(ctx context.Context) {
	verdict := a.o.Health().State
	if a.registration == nil && !verdict.Serves() {
		return // never announced before the first token
	}
	instance := a.o.Describe()
	instance.State = stateOf(verdict)
	if err := a.put(ctx, instance); err != nil {
		a.o.Log.Warn("registration failed", "instance", instance.ID, "error", err)
		return
	}
	event.Publish(a.o.Bus, Registered{Instance: instance})
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

func (a *Announcer) withdraw(ctx context.Context) error {
	if a.registration == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	id := a.o.Describe().ID
	if err := a.registration.Withdraw(ctx); err != nil {
		return fmt.Errorf("withdraw instance %s: %w", id, err)
	}
	event.Publish(a.o.Bus, Withdrawn{ID: id})
	return nil
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
