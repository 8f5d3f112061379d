package health

import (
	"errors"
	"fmt"
	"time"
)

// ErrCardLost means that the card has fallen off the bus, or must be reset: nothing on it works any more.
var ErrCardLost = errors.New("the card is lost")

// Card is a GPU as its driver sees it, apart from the work that is done on it. Calls may take long when the card is in trouble. Read and
// Wait may be called at the same time.
type Card interface {
	Read() (Reading, error)
	// Wait returns the next event; ok is false where none came within the time.
	Wait(limit time.Duration) (e CardEvent, ok bool, err error)
	Close()
}

// Reading is the state of a card at one moment. What a card cannot tell is zero.
type Reading struct {
	Name, UUID  string
	Temperature int      // °C
	Slowdown    int      // °C at which the card lowers its clocks
	Throttled   []string // why its clocks are lowered now, where that is heat or the supply of power

	Corrected, Uncorrected uint64 // ECC errors since the driver was loaded
	RemapPending           bool   // a row of memory is exchanged at the next reset
	RemapFailed            bool   // no spare row was left

	TotalBytes, UsedBytes int64
	OthersBytes           int64 // of what is used, by other processes; −1: not known, as in a container that sees no others
	Recovery              Recovery
}

// Recovery is what the driver says must be done to a card.
type Recovery int

// In the driver's order.
const (
	RecoveryNone Recovery = iota
	RecoveryReset
	RecoveryReboot
	RecoveryDrainPeers
	RecoveryDrainAndReset
	numRecoveries
)

var recoveryNames = [numRecoveries]string{"none", "reset the card", "reboot the node", "drain its peers", "drain and reset it"}

func (r Recovery) String() string {
	if r < 0 || r >= numRecoveries {
		return fmt.Sprintf("action %d", int(r))
	}
	return recoveryNames[r]
}

// CardEvent is what the driver reported.
type CardEvent struct {
	XID  int    // NVIDIA's number of the error; 0 for an event that has none, which
	Kind string // then names
}

func (e CardEvent) String() string {
	if e.XID == 0 {
		return e.Kind
	}
	return fmt.Sprintf("XID %d", e.XID)
}

// severity is what an event means to a server on that card.
type severity int

const (
	notice      severity = iota // the card goes on
	application                 // a process did something wrong; where that was this one, the engine's next step says so
	fatal                       // the card, or its link, does not work: end, and let a supervisor start anew or elsewhere
)

// survivable are the XIDs that are not fatal, by NVIDIA's table of them. What is not known to be less is: NVIDIA adds numbers.
var survivable = map[int]severity{
	13:  application, // graphics engine exception
	31:  application, // a kernel's page fault
	43:  application, // a process's channel was reset
	45:  application, // a process's channels were torn down
	63:  notice,      // a row of memory was remapped
	68:  application, // video processor exception
	92:  notice,      // many corrected errors
	109: application, // a process's context timed out
	154: notice,      // the recovery action changed, which readings tell
}

func (e CardEvent) severity() severity {
	if known, ok := survivable[e.XID]; ok {
		return known
	}
	return fatal
}
