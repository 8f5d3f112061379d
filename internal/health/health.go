// Package health gathers what the parts of a server say of themselves into one verdict that is true within an interval, and tells
// whoever watches. Each part is a Provider; a Checker asks them, on the goroutine of its Run, and at once when one calls Refresh.
//
// The verdict: the worst state among critical providers. One that is not critical degrades the whole at most, and does not
// while it starts or drains.
package health

import (
	"context"
	"fmt"
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
// work, and is called from the Checker's goroutine.
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
	Components []Status // by name
}

// StatusChanged is published when a component's state or reason changes.
type StatusChanged struct {
	Status  Status
	Before  State
	Overall State // of the whole, after the change
}
