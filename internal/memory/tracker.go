package memory

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/inferno-serve/inferno/internal/event"
)

// ErrLimit means that a reservation would exceed the limit of a Tracker or of a Pool. The wrapping error gives the numbers.
var ErrLimit = errors.New("memory limit exceeded")

// Alert says that use crossed the alert threshold of a Tracker: upwards (Raised), or back below the level that clears it.
type Alert struct {
	Raised    bool
	Used      int64   // bytes, after the crossing
	Limit     int64   // bytes
	Threshold float64 // the fraction of Limit that was crossed
}

// TrackerOptions say what a Tracker allows and when it warns.
type TrackerOptions struct {
	Limit   int64      // bytes; 0 means no limit, and no alerts
	Bus     *event.Bus // where alerts go; may be nil
	AlertAt float64    // fraction of Limit from which on an alert is raised; 0 means never
	ClearAt float64    // fraction of Limit below which it is cleared; 0 means AlertAt − 0.05
}

// Tracker counts the bytes of one device by owner and purpose. The count is of what was taken from the device, so that it agrees with
// the driver's.
type Tracker struct {
	limit            int64
	bus              *event.Bus
	alertAt, clearAt float64

	mu     sync.Mutex
	total  Usage
	owners map[string]*[NumPurposes]Usage // an owner without bytes has no entry
	raised bool
}

// Usage is a number of bytes, and the largest that it has been.
type Usage struct{ Current, Peak int64 }

// OwnerUsage is what one owner holds, by Purpose.
type OwnerUsage struct {
	Owner     string
	ByPurpose [NumPurposes]Usage // indexed by Purpose
}

// Snapshot is the state of a Tracker at one moment.
type Snapshot struct {
	Limit  int64 // bytes; 0: none
	Total  Usage
	Raised bool         // an alert stands
	Owners []OwnerUsage // those that hold memory, by name
}

// NewTracker makes a Tracker that counts nothing yet.
func NewTracker(o TrackerOptions) *Tracker {
	if o.ClearAt == 0 {
		o.ClearAt = o.AlertAt - 0.05
	}
	return &Tracker{
		limit: o.Limit, bus: o.Bus, alertAt: o.AlertAt, clearAt: min(o.ClearAt, o.AlertAt),
		owners: map[string]*[NumPurposes]Usage{},
	}
}

// Reserve counts bytes that the owner is about to take from the device. The error wraps ErrLimit, and then nothing was counted.
func (t *Tracker) Reserve(owner string, p Purpose, bytes int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if bytes < 0 {
		panic(fmt.Sprintf("memory: Reserve of %d bytes for %s", bytes, owner))
	}
	if t.limit > 0 && bytes > t.limit-t.total.Current {
		return fmt.Errorf("reserve %d bytes of %v for %s, %d of %d used: %w", bytes, p, owner, t.total.Current, t.limit, ErrLimit)
	}
	t.count(owner, p, bytes)
	t.watch()
	return nil
}

// Release takes back what Reserve counted, after the device has it again.
func (t *Tracker) Release(owner string, p Purpose, bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count(owner, p, -bytes)
	t.forgetEmpty(owner)
	t.watch()
}

// Move changes the purpose of an owner's bytes.
func (t *Tracker) Move(owner string, from, to Purpose, bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count(owner, from, -bytes)
	t.count(owner, to, bytes)
}

// Snapshot copies the counts.
func (t *Tracker) Snapshot() Snapshot {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := Snapshot{Limit: t.limit, Total: t.total, Raised: t.raised}
	for _, owner := range slices.Sorted(maps.Keys(t.owners)) {
		s.Owners = append(s.Owners, OwnerUsage{Owner: owner, ByPurpose: *t.owners[owner]})
	}
	return s
}

// count changes one number and the total; the caller holds mu.
func (t *Tracker) count(owner string, p Purpose, bytes int64) {
	purposes := t.owners[owner]
	if purposes == nil {
		purposes = new([NumPurposes]Usage)
		t.owners[owner] = purposes
	}
	purposes[p].add(bytes)
	t.total.add(bytes)
	if purposes[p].Current < 0 {
		panic(fmt.Sprintf("memory: %s released %d bytes of %v, more than it held", owner, -bytes, p))
	}
}

func (u *Usage) add(bytes int64) {
	u.Current += bytes
	u.Peak = max(u.Peak, u.Current)
}

// forgetEmpty keeps models that came and went from adding up here; the caller holds mu.
func (t *Tracker) forgetEmpty(owner string) {
	for _, u := range t.owners[owner] {
		if u.Current != 0 {
			return
		}
	}
	delete(t.owners, owner)
}

// watch publishes a crossing under mu, which keeps alerts in the order of their crossings; Publish never blocks.
func (t *Tracker) watch() {
	if t.limit <= 0 || t.alertAt <= 0 {
		return
	}
	threshold := t.alertAt
	if t.raised {
		threshold = t.clearAt
	}
	if above := float64(t.total.Current) >= threshold*float64(t.limit); above == t.raised {
		return
	}
	t.raised = !t.raised
	event.Publish(t.bus, Alert{Raised: t.raised, Used: t.total.Current, Limit: t.limit, Threshold: threshold})
}
