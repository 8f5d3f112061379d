package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/inferno-serve/inferno/internal/discovery"
)

// registration keeps one instance in etcd: grant a lease, put the keys, renew and watch; and again from the start when the lease is lost.
// The goroutine of keep owns all but what mu guards.
type registration struct {
	r       *Registry
	id      string
	updates chan update // taken by keep at once, or with the next try

	end  context.CancelFunc
	done chan struct{} // closed when keep has returned, or will never run

	wanted     discovery.Instance // what etcd shall hold
	generation uint64             // the last one given

	mu     sync.Mutex
	lease  clientv3.LeaseID // the last one under which keys were put
	ends   time.Time        // when it does, unless it is renewed
	reason error            // why etcd does not hold wanted; nil while it does
}

type update struct {
	instance discovery.Instance
	done     chan error // one slot
}

// Causes of a loss, as the metric names them.
const (
	causeGone   = "lease_gone" // revoked, or expired on etcd's side
	causeSilent = "no_answer"  // not renewed for as long as it lasts
)

var lossReasons = map[string]string{
	causeGone:   "the lease was revoked or has expired",
	causeSilent: "no answer for as long as the lease lasts",
}

// retryCap bounds the time from one try to the next; the second follows the first at once.
const retryCap = time.Second

// Register puts the instance into etcd, once: a failure is the caller's to try again. From then on it is kept there. The error wraps
// discovery.ErrDuplicate where another process holds the id.
func (r *Registry) Register(ctx context.Context, i discovery.Instance) (discovery.Registration, error) {
	if i.StartTime.IsZero() {
		return nil, fmt.Errorf("register instance %q: its start time is not set", i.ID)
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	g := &registration{r: r, id: i.ID, updates: make(chan update), end: end, done: make(chan struct{}), wanted: i}
	if !r.add(g) {
		end()
		return nil, fmt.Errorf("register instance %q: %w", i.ID, discovery.ErrDuplicate)
	}
	h, err := r.establish(ctx, i, 0)
	if err != nil {
		end()
		r.remove(g)
		close(g.done)
		return nil, fmt.Errorf("register instance %q: %w", i.ID, err)
	}
	g.holds(h)
	go g.keep(life, h)
	return g, nil
}

func (r *Registry) add(g *registration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, taken := r.registered[g.id]; taken {
		return false
	}
	r.registered[g.id] = g
	return true
}

func (r *Registry) remove(g *registration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.registered[g.id] == g {
		delete(r.registered, g.id)
	}
}

// Update replaces what is known of the instance. After an error the new state is kept, and put as soon as etcd takes it.
func (g *registration) Update(ctx context.Context, i discovery.Instance) error {
	if i.ID != g.id {
		return fmt.Errorf("update instance %q: id is %q, want the registered one", g.id, i.ID)
	}
	u := update{i, make(chan error, 1)}
	select {
	case g.updates <- u:
	case <-ctx.Done():
		return ctx.Err()
	case <-g.done:
		return fmt.Errorf("update instance %q: it has been withdrawn", g.id)
	}
	select {
	case err := <-u.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-g.done:
		return fmt.Errorf("update instance %q: it has been withdrawn", g.id)
	}
}

// Held is nil while etcd holds the instance as it was last updated, and else why not.
func (g *registration) Held() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reason
}

// established tells a registration that etcd has held from one that is being made for the first time.
func (g *registration) established() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lease != clientv3.NoLease
}

// Withdraw ends the registration: its keys go with its lease, at once. Idempotent; where etcd does not answer they go when the lease ends.
func (g *registration) Withdraw(ctx context.Context) error {
	g.stop()
	g.r.remove(g)
	g.mu.Lock()
	lease := g.lease
	g.mu.Unlock()
	return g.r.revoke(ctx, lease)
}

func (g *registration) stop() {
	g.end()
	<-g.done
}

// keep holds the registration until ctx ends.
func (g *registration) keep(ctx context.Context, h *held) {
	defer close(g.done)
	for {
		cause := g.hold(ctx, h)
		if ctx.Err() != nil {
			return
		}
		lost := h
		g.r.counts.lose(cause)
		g.r.o.Log.Warn("registration lost, registering again", "instance", g.id, "cause", cause)
		if h = g.regain(ctx, cause); h == nil {
			return
		}
		g.holds(h)
		g.r.o.Log.Info("registered again", "instance", g.id, "generation", g.generation)
		if cause == causeSilent { // it may live yet; no key hangs on it any more
			_ = g.r.revoke(ctx, lost.lease) // else it ends by itself
		}
	}
}

// regain registers the instance again, for as long as it takes; nil once ctx has ended.
func (g *registration) regain(ctx context.Context, cause string) *held {
	g.setReason(fmt.Errorf("etcd at %s: %s", strings.Join(g.r.o.Endpoints, ", "), lossReasons[cause]))
	for try := 1; ; try++ {
		began := time.Now()
		h, err := g.r.establish(ctx, g.wanted, g.generation)
		if err == nil {
			return h
		}
		g.setReason(err)
		if errors.Is(err, errNoAnswer) { // one member of several may be the reason, and the client would come back to it
			g.r.link.abandon()
		}
		if !g.rest(ctx, pause(try)-time.Since(began)) {
			return nil
		}
	}
}

// pause is from the start of a failed try to the next: full jitter, so that a fleet does not come back all at once.
func pause(try int) time.Duration {
	if try == 1 {
		return 0
	}
	return time.Duration(rand.Int64N(int64(retryCap)))
}

// rest waits for d, at which updates are noted for the next try.
func (g *registration) rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(max(d, 0))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case u := <-g.updates:
			g.wanted = u.instance
			u.done <- g.Held()
		}
	}
}

func (g *registration) holds(h *held) {
	g.generation = h.generation
	g.mu.Lock()
	g.lease = h.lease
	g.ends = h.renewed.Add(h.ttl)
	g.mu.Unlock()
	g.setReason(nil)
	g.r.counts.registrations.Add(1)
}

func (g *registration) renewed(ends time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ends = ends
}

// left is how long etcd will hold the instance without hearing of it; 0 where it holds none.
func (g *registration) left() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(0, time.Until(g.ends))
}

func (g *registration) setReason(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reason = err
}

// hold renews the lease, watches the keys and puts updates until the lease is lost, for which it returns the cause, or ctx ends.
func (g *registration) hold(ctx context.Context, h *held) (cause string) {
	k := &keeping{g: g, h: h, retry: time.NewTimer(0), silence: time.NewTimer(0)}
	k.retry.Stop()
	defer k.retry.Stop()
	defer k.silence.Stop()
	for {
		again := false
		if cause, again = k.run(ctx); !again {
			return cause
		}
	}
}

// leaseGone tells that etcd has never heard of the lease, or no longer.
func leaseGone(err error) bool { return errors.Is(err, rpctypes.ErrLeaseNotFound) }
