// Package health gathers what the parts of a server say of themselves into one verdict that is true within an interval, and tells
// whoever watches. Each part is a Provider; a Checker asks them, on the goroutine of its Run, and at once when one calls Refresh.
//
// The verdict: the worst state among critical providers. One that is not critical degrades the whole at most, and does not
// while it starts or drains.
package health

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// State is how well a component works. The zero State is Unknown: nobody has asked yet.
type State int

// From best to worst: the verdict on the whole is the largest.
const (
	Unknown    State = iota
	Serving          // works
	Degraded         // works, but something needs a look
	Starting         // on its way up
	NotServing       // does not work
	Draining         // on its way down
)

var stateNames = [...]string{"UNKNOWN", "SERVING", "DEGRADED", "STARTING", "NOT_SERVING", "DRAINING"}

func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return fmt.Sprintf("State(%d)", int(s))
	}
	return stateNames[s]
}

// Serves says whether requests are answered in this state.
func (s State) Serves() bool { return s == Serving || s == Degraded }

// Provider is one component that knows its own health. Health answers at once, from what the component knows: it never waits for
// work. It has a goroutine of its own each time, but never two at once; ctx is the round's.
type Provider interface {
	Component() string // "engine/NAME", "memory", "registration": unique in a Checker
	Health(ctx context.Context) (State, string)
}

// Status is the state of one component.
type Status struct {
	Component string
	State     State
	Reason    string    // a sentence for a person; empty while all is well
	Since     time.Time // when it came into this state
	Critical  bool      // NotServing here makes the whole NotServing
}

// Report is the state of all components at one moment.
type Report struct {
	State      State
	Components []Status  // by name
	Asked      time.Time // when they were asked; zero: not yet
}

const (
	staleAfter = 5 * time.Second // without a round: what the last one found counts no more
	lostAfter  = time.Minute     // out of order: nothing in the process will bring it back
)

// Checks is the component that a report gets whose rounds have ceased.
const Checks = "checks"

// Now is the report as it counts at a moment: where no round has been for too long, the whole is NotServing, as nobody knows better.
func (r Report) Now(now time.Time) Report {
	if r.Asked.IsZero() || now.Sub(r.Asked) <= staleAfter {
		return r
	}
	since := r.Asked.Add(staleAfter)
	if r.State != Draining {
		r.State = NotServing
	}
	stale := Status{
		Component: Checks, State: NotServing, Critical: true, Since: since, Reason: "no health check since " + r.Asked.UTC().Format(time.RFC3339),
	}
	i, _ := slices.BinarySearchFunc(r.Components, Checks, func(s Status, name string) int { return cmp.Compare(s.Component, name) })
	r.Components = slices.Insert(slices.Clone(r.Components), i, stale)
	return r
}

// Alive says whether the process may still come to serve, or end well, by itself: it is not for a supervisor to restart. A model that
// loads is alive, and so is a server that drains; one whose checks have ceased, or where something critical has been out of order for
// a minute, is not. A lost device ends the process long before.
func (r Report) Alive(now time.Time) bool {
	r = r.Now(now)
	return !slices.ContainsFunc(r.Components, func(s Status) bool {
		return s.Critical && s.State == NotServing && (s.Component == Checks || now.Sub(s.Since) > lostAfter)
	})
}

// StatusChanged is published when a component's state or reason changes.
type StatusChanged struct {
	Status  Status
	Before  State
	Overall State // of the whole, after the change
}
