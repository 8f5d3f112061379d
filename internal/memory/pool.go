package memory

import (
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/inferno-serve/inferno/internal/device"
)

// Alignment of every allocation, in bytes; sizes are rounded up to it.
const Alignment = 256

// ErrClosed means that a Pool was asked for memory after its Close.
var ErrClosed = errors.New("memory pool closed")

// Source is the device as a Pool sees it. Both methods may be called from any goroutine; what Alloc returns is aligned to 256 bytes.
type Source interface {
	Alloc(bytes int64) (device.Ptr, error)
	Free(p device.Ptr)
}

// PoolOptions describe the budget of one model on one device.
type PoolOptions struct {
	Source  Source
	Tracker *Tracker // counts the reservation; required
	Owner   string   // the model's name, for errors and counts
	Limit   int64    // bytes to reserve, rounded up to Alignment
}

// Pool is one reservation on a device, handed out front to back and freed as a whole.
//
// What was handed out and what is left add up to the limit, and the tracker holds the same numbers under the pool's owner.
type Pool struct {
	source  Source
	tracker *Tracker
	owner   string
	base    device.Ptr
	limit   int64

	mu     sync.Mutex
	used   int64              // bytes handed out, from base on
	held   [NumPurposes]int64 // used, by purpose; Reserved is what is left
	closed bool
}

// NewPool reserves the whole budget at once, so that a model that does not fit fails before it loads. The error wraps ErrLimit, or
// what the source said (device.ErrOutOfMemory).
func NewPool(o PoolOptions) (*Pool, error) {
	if o.Limit <= 0 || o.Limit > math.MaxInt64-Alignment {
		return nil, fmt.Errorf("memory pool of %s: limit is %d bytes, want more than 0", o.Owner, o.Limit)
	}
	limit := align(o.Limit)
	if err := o.Tracker.Reserve(o.Owner, Reserved, limit); err != nil {
		return nil, fmt.Errorf("memory pool of %s: %w", o.Owner, err)
	}
	base, err := o.Source.Alloc(limit)
	if err != nil {
		o.Tracker.Release(o.Owner, Reserved, limit)
		return nil, fmt.Errorf("memory pool of %s: reserve %d bytes: %w", o.Owner, limit, err)
	}
	p := &Pool{source: o.Source, tracker: o.Tracker, owner: o.Owner, base: base, limit: limit}
	p.held[Reserved] = limit
	return p, nil
}

// Alloc hands out bytes of the reservation, aligned to 256, contents undefined; they return with Close. The error wraps ErrLimit or
// ErrClosed.
func (p *Pool) Alloc(purpose Purpose, bytes int64) (device.Ptr, error) {
	if bytes <= 0 || purpose == Reserved || int(purpose) >= NumPurposes {
		return 0, fmt.Errorf("memory pool of %s: %v asks for %d bytes, want more than 0 for a use", p.owner, purpose, bytes)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, fmt.Errorf("memory pool of %s: %v asks for %d bytes: %w", p.owner, purpose, bytes, ErrClosed)
	}
	if bytes > p.limit-p.used { // what is left is a multiple of Alignment: what fits, fits rounded up
		return 0, fmt.Errorf("memory pool of %s: %v asks for %d bytes, %d of %d used: %w",
			p.owner, purpose, bytes, p.used, p.limit, ErrLimit)
	}
	data := p.base + device.Ptr(p.used)
	bytes = align(bytes)
	p.used += bytes
	p.held[Reserved] -= bytes
	p.held[purpose] += bytes
	p.tracker.Move(p.owner, Reserved, purpose, bytes)
	return data, nil
}

// Available is how many bytes are left.
func (p *Pool) Available() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held[Reserved]
}

// Close gives the reservation back to the device; nothing that lies in it may still be in use. Idempotent.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	p.source.Free(p.base)
	for purpose, bytes := range p.held {
		p.tracker.Release(p.owner, Purpose(purpose), bytes)
	}
	p.held = [NumPurposes]int64{}
}

func align(bytes int64) int64 { return (bytes + Alignment - 1) / Alignment * Alignment }
