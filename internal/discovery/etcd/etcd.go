// Package etcd is the registry in etcd: a discovery.Provider whose instances live as long as their leases. An instance has one lease and,
// under it, keys that appear and go together:
//
//	PREFIX/instances/ID        the whole Instance, as JSON of inferno.v1.Instance
//	PREFIX/endpoints/MODEL/ID  for each model it can answer for: etcd's stock gRPC naming record, for clients that know nothing of Inferno
//
// MODEL and ID are escaped as path segments. Endpoints are there only while the instance takes requests.
//
// The registry may be away at any time, for any time. Nothing here waits for it without a deadline, and a registration that was lost is
// made again for as long as it takes, on a goroutine of its own (registration.go). Methods may be called from any goroutine.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/inferno-serve/inferno/internal/discovery"
)

// Options configure a Registry.
type Options struct {
	Endpoints []string      // URLs, or HOST:PORT
	Prefix    string        // of all keys, without a slash at its end
	LeaseTTL  time.Duration // how long an instance that was killed stays in the registry; whole seconds
	// Secret is asked before each connection, so that a new password or certificate needs no restart.
	Secret func() (Secret, error)
	Log    *slog.Logger
}

// Secret is what a connection is made with. All of it is optional.
type Secret struct {
	TLS            *tls.Config
	User, Password string
	Token          string // a JWT, in place of user and password
}

// callTimeout bounds every call. It leaves room for a cluster that elects a leader (1 s by default) and answers then.
const callTimeout = 2 * time.Second

// Registry is the Provider. Close it after its registrations have been withdrawn.
type Registry struct {
	o      Options
	keys   keys
	counts counts
	link   *link

	mu         sync.Mutex
	registered map[string]*registration // by id
}

// Open makes a Registry. It does not connect: whether etcd is there is for the calls to find out.
func Open(o Options) (*Registry, error) {
	if len(o.Endpoints) == 0 {
		return nil, errors.New("etcd: no endpoints")
	}
	if o.LeaseTTL < time.Second {
		return nil, fmt.Errorf("etcd: lease of %v, want at least a second", o.LeaseTTL)
	}
	if o.Secret == nil {
		o.Secret = func() (Secret, error) { return Secret{}, nil }
	}
	return &Registry{o: o, keys: keys{o.Prefix}, link: newLink(&o), registered: map[string]*registration{}}, nil
}

// Close ends the connections. Registrations that have not been withdrawn are left to their leases, watches end. Idempotent.
func (r *Registry) Close() error {
	r.mu.Lock()
	var left []*registration
	for _, g := range r.registered {
		left = append(left, g)
	}
	r.mu.Unlock()
	for _, g := range left {
		g.stop()
	}
	return r.link.close()
}

// Vacant returns nil when the id of i may be registered. Where its key is there under a foreign lease, it waits as long as that of a
// killed predecessor may last; a key that is still there then is another live instance's, and the error wraps discovery.ErrDuplicate.
func (r *Registry) Vacant(ctx context.Context, i discovery.Instance) error {
	last, err := r.look(ctx, i)
	if err != nil || !last.foreign {
		return err
	}
	patience := r.o.LeaseTTL
	if granted, _, err := r.timeToLive(ctx, last.lease); err == nil {
		patience = max(patience, min(granted, longestLease))
	}
	patience += expirySlack
	r.o.Log.Info("instance id is taken, waiting for the lease of a process that may be gone",
		"instance", i.ID, "address", last.owner.Address, "patience", patience)
	for began := time.Now(); time.Since(began) < patience; {
		if !sleep(ctx, vacantEvery) {
			return ctx.Err()
		}
		var now seen
		if now, err = r.look(ctx, i); err == nil {
			if last = now; !last.foreign {
				return nil
			}
		}
	}
	if err != nil { // who holds it now, or whether anybody does, is not known
		return err
	}
	return fmt.Errorf("%w, which has kept its lease for %v: choose another instance-id, or stop that one", last.duplicate(i.ID), patience)
}

const (
	vacantEvery  = 250 * time.Millisecond
	longestLease = 10 * time.Minute // that a server asks for; a lease of years was made by hand, and is not waited for
	expirySlack  = 2 * time.Second  // etcd looks for expired leases twice a second, and a leader may change
)

// timeToLive is what the lease was granted for, 0 where there is none, and what is left of that: to etcd's whole seconds.
func (r *Registry) timeToLive(ctx context.Context, lease clientv3.LeaseID) (granted, left time.Duration, err error) {
	err = r.link.call(ctx, func(ctx context.Context, c *clientv3.Client) error {
		answer, err := c.TimeToLive(ctx, lease)
		if err != nil {
			return err
		}
		granted, left = time.Duration(answer.GrantedTTL)*time.Second, time.Duration(answer.TTL)*time.Second
		return nil
	})
	return granted, left, err
}

// List returns all instances by id.
func (r *Registry) List(ctx context.Context) ([]discovery.Instance, error) {
	f, err := r.list(ctx)
	if err != nil {
		return nil, away(ctx, err)
	}
	return f.instances(), nil
}

// ListWithLeases is List with what is left of the leases. Where etcd does not say so in time, the list comes without.
func (r *Registry) ListWithLeases(ctx context.Context) ([]discovery.Instance, error) {
	f, err := r.list(ctx)
	if err != nil {
		return nil, away(ctx, err)
	}
	f.lookAtLeases(ctx)
	return f.instances(), nil
}

// away is what a reader is told of an error. The cause is text, for a log: as a status of etcd it would be taken for one of the server that
// asked.
func away(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %s", discovery.ErrAway, err.Error())
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
