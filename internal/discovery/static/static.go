// Package static is a registry in memory: what one process needs when no etcd is given, and the twin that tests of clients use. It keeps the
// contract of discovery.Provider; nothing outlives the process.
package static

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/inferno-serve/inferno/internal/discovery"
)

// watchBuffer is how many changes wait for a reader of Watch before it gets a snapshot instead.
const watchBuffer = 64

// Registry is the Provider. Its zero value is not usable; see New.
type Registry struct {
	mu          sync.Mutex
	instances   map[string]*registration
	generations map[string]uint64 // the last one given to an id
	watchers    map[*watcher]struct{}
}

// New makes an empty Registry.
func New() *Registry {
	return &Registry{
		instances: map[string]*registration{}, generations: map[string]uint64{}, watchers: map[*watcher]struct{}{},
	}
}

type registration struct {
	registry *Registry
	instance discovery.Instance
}

// A watcher's events are sent under the registry's mutex; one that finds no room marks it behind, and its reader fetches a snapshot.
type watcher struct {
	events chan discovery.Event
	wake   chan struct{} // one slot: there is something behind
	behind bool
}

// Vacant tells whether the id is free.
func (r *Registry) Vacant(_ context.Context, i discovery.Instance) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, taken := r.instances[i.ID]; taken {
		return fmt.Errorf("instance %q: %w", i.ID, discovery.ErrDuplicate)
	}
	return nil
}

// Register makes an instance known. The error wraps discovery.ErrDuplicate where its id is taken.
func (r *Registry) Register(_ context.Context, i discovery.Instance) (discovery.Registration, error) {
	if i.ID == "" {
		return nil, fmt.Errorf("register instance at %q: id is empty", i.Address)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, taken := r.instances[i.ID]; taken {
		return nil, fmt.Errorf("register instance %q: %w", i.ID, discovery.ErrDuplicate)
	}
	r.generations[i.ID]++
	i.Generation = r.generations[i.ID]
	reg := &registration{registry: r, instance: i}
	r.instances[i.ID] = reg
	r.tell(discovery.Event{Put: &i})
	return reg, nil
}

func (g *registration) Update(_ context.Context, i discovery.Instance) error {
	r := g.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if i.ID != g.instance.ID {
		return fmt.Errorf("update instance %q: id is %q, want the registered one", g.instance.ID, i.ID)
	}
	if r.instances[i.ID] != g {
		return fmt.Errorf("update instance %q: it has been withdrawn", i.ID)
	}
	i.Generation = g.instance.Generation
	g.instance = i
	r.tell(discovery.Event{Put: &i})
	return nil
}

// Held is nil: memory loses nothing.
func (*registration) Held() error { return nil }

func (g *registration) Withdraw(context.Context) error {
	r := g.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.instances[g.instance.ID] == g {
		delete(r.instances, g.instance.ID)
		r.tell(discovery.Event{RemovedID: g.instance.ID})
	}
	return nil
}

// List returns all instances by id.
func (r *Registry) List(context.Context) ([]discovery.Instance, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.list(), nil
}

// ListWithLeases is List: nothing here has a lease.
func (r *Registry) ListWithLeases(ctx context.Context) ([]discovery.Instance, error) {
	return r.List(ctx)
}

func (r *Registry) list() []discovery.Instance {
	all := make([]discovery.Instance, 0, len(r.instances))
	for _, g := range r.instances {
		all = append(all, g.instance)
	}
	slices.SortFunc(all, func(a, b discovery.Instance) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// Watch sends the list, then each change, until ctx ends.
func (r *Registry) Watch(ctx context.Context) (<-chan discovery.Event, error) {
	w := &watcher{events: make(chan discovery.Event, watchBuffer), wake: make(chan struct{}, 1)}
	r.mu.Lock()
	list := r.list()
	w.events <- discovery.Event{Snapshot: &list}
	r.watchers[w] = struct{}{}
	r.mu.Unlock()

	out := make(chan discovery.Event)
	go func() {
		defer close(out)
		defer r.forget(w)
		for {
			e, ok := w.next(ctx, r)
			if !ok {
				return
			}
			select {
			case out <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

// next is the oldest event, or a snapshot when events were lost.
func (w *watcher) next(ctx context.Context, r *Registry) (discovery.Event, bool) {
	for {
		select {
		case <-ctx.Done():
			return discovery.Event{}, false
		case e := <-w.events:
			return e, true
		case <-w.wake:
			if e, lost := r.resync(w); lost {
				return e, true
			}
		}
	}
}

// resync replaces all that waits for w by the list.
func (r *Registry) resync(w *watcher) (discovery.Event, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !w.behind {
		return discovery.Event{}, false
	}
	w.behind = false
	for len(w.events) > 0 {
		<-w.events
	}
	list := r.list()
	return discovery.Event{Snapshot: &list}, true
}

func (r *Registry) forget(w *watcher) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.watchers, w)
}

// tell sends e to every watcher; the caller holds mu.
func (r *Registry) tell(e discovery.Event) {
	for w := range r.watchers {
		if w.behind {
			continue
		}
		select {
		case w.events <- e:
		default:
			w.behind = true
			w.wake <- struct{}{} // its slot is free: behind was false
		}
	}
}
