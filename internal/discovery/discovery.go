// Package discovery makes instances known to each other. A Provider is a registry: etcd, or the in-memory one of discovery/static that
// serves a single process. A Registration is a lease as an object: it holds as long as nobody withdraws it. The Announcer ties one
// instance's registration to its health.
package discovery

import (
	"context"
	"errors"
	"time"
)

// ErrDuplicate means that another live instance is registered under the id.
var ErrDuplicate = errors.New("instance id is registered by another process")

// ErrAway means that the registry does not answer, or refuses to. Requests can do without it.
var ErrAway = errors.New("the registry does not answer")

// Provider is a registry of instances. Methods may be called from any goroutine.
type Provider interface {
	// Vacant returns nil when the id of i can be registered, after the wait for a predecessor that was killed, if there was one. The error
	// wraps ErrDuplicate when another live instance holds it; any other means that the registry does not answer.
	Vacant(ctx context.Context, i Instance) error
	// Register makes an instance known. The registration stays, through whatever happens to the registry, until Withdraw.
	Register(ctx context.Context, i Instance) (Registration, error)
	// List returns all instances by id. The error wraps ErrAway, or is that of ctx.
	List(ctx context.Context) ([]Instance, error)
	// ListWithLeases is List, and says what is left of the leases as far as the registry has any and tells in time: it is asked for each.
	ListWithLeases(ctx context.Context) ([]Instance, error)
	// Watch sends the whole list, then each change, until ctx ends; then it closes the channel. After a gap, or for a reader that fell
	// behind, the whole list comes again.
	Watch(ctx context.Context) (<-chan Event, error)
}

// Registration is the presence of one instance in a registry.
type Registration interface {
	// Update replaces what is known of the instance; its id cannot change.
	Update(ctx context.Context, i Instance) error
	// Held is nil while the registry holds the instance, and else why it does not; the Registration works on that by itself.
	Held() error
	// Withdraw ends the registration. Idempotent.
	Withdraw(ctx context.Context) error
}

// Event is one change: exactly one of the three is set.
type Event struct {
	Snapshot  *[]Instance // the whole list, by id
	Put       *Instance   // new, or changed
	RemovedID string
}

// State is whether an instance takes requests.
type State int

// The states of an instance.
const (
	Serving State = iota + 1
	Degraded
	NotServing
	Draining
)

// Instance is one server process. A value: whoever receives one may keep it; nobody changes its slices.
type Instance struct {
	ID         string // unique for each start of a process, unless configured
	Address    string // as clients reach it: "host:port" or "unix:///path"
	Models     []Model
	State      State
	Load       Load
	Version    string
	StartTime  time.Time
	Generation uint64        // grows with every registration of this instance; set by the Provider
	LeaseLeft  time.Duration // set by ListWithLeases alone; 0: not known, or the registry has no leases
}

// Model is a model that an instance holds.
type Model struct {
	Name       string
	Revision   string
	Ready      bool
	Leaving    bool // it is being unloaded; neither this nor Ready: it is coming
	MaxContext int  // tokens of one request
	MaxBatch   int  // requests that run at once
	MaxQueue   int  // requests that wait
}

// Load is how busy an instance is.
type Load struct {
	Running, Queued int     // requests
	KVUse           float64 // share of KV blocks in use, 0 to 1
	TokensPerSecond float64 // output, over the last seconds
}

// Registered is published when an instance has been registered or updated.
type Registered struct {
	Instance Instance
}

// Withdrawn is published when an instance's registration has ended.
type Withdrawn struct {
	ID string
}
