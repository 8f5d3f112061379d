package backend

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/server"
)

// maxPast is how many models that failed or were unloaded are remembered.
const maxPast = 64

// replicas are the models of this server; what the services know of them (server.Models).
//
// A name is that of one replica, or of one past model, or of none. A past model holds nothing but its description.
type replicas struct {
	mu      sync.Mutex
	byName  map[string]*replica
	past    map[string]server.ModelInfo // FAILED or UNLOADED, the latest of each name
	open    bool                        // the models of the start are up: others may come, and any may go
	closed  bool                        // the server stops: none may any more
	lingers time.Duration               // for how long one that was unloaded is said to be away, not unknown
}

// heardWithin is when all who follow a registry have heard of a change: the announcer's look, its write and their watches.
const heardWithin = 5 * time.Second

func newReplicas() *replicas {
	return &replicas{byName: map[string]*replica{}, past: map[string]server.ModelInfo{}}
}

// Get returns the model that takes requests under this name.
func (rs *replicas) Get(name string) (*server.Model, error) {
	rs.mu.Lock()
	r, past := rs.byName[name], rs.past[name]
	rs.mu.Unlock()
	switch {
	case r != nil:
		return r.get()
	case past.State == server.ModelFailed:
		return nil, fmt.Errorf("%w: %s could not be loaded", server.ErrModelNotReady, name)
	case past.State == server.ModelUnloaded && time.Since(past.Since) < rs.lingers: // whoever still comes may find it elsewhere
		return nil, fmt.Errorf("%w: %s has been unloaded", server.ErrModelNotReady, name)
	}
	return nil, fmt.Errorf("%w: %q", server.ErrUnknownModel, name)
}

// List returns every model by name, past ones included.
func (rs *replicas) List() []server.ModelInfo {
	rs.mu.Lock()
	list, now := slices.Collect(maps.Values(rs.past)), slices.Collect(maps.Values(rs.byName))
	rs.mu.Unlock()
	for _, r := range now {
		list = append(list, r.info())
	}
	slices.SortFunc(list, func(a, b server.ModelInfo) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// all are the replicas by name.
func (rs *replicas) all() []*replica {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return slices.SortedFunc(maps.Values(rs.byName), func(a, b *replica) int { return cmp.Compare(a.name, b.name) })
}

func (rs *replicas) find(name string) *replica {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.byName[name]
}

// stats are those of the models that are up.
func (rs *replicas) stats() map[string]engine.Stats {
	stats := map[string]engine.Stats{}
	for _, r := range rs.all() {
		if r.runs() {
			stats[r.name] = r.engine.Stats()
		}
	}
	return stats
}

// bury makes a replica that holds nothing any more a past model, so that what it knew can be collected.
func (rs *replicas) bury(r *replica) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	delete(rs.byName, r.name)
	rs.past[r.name] = r.info()
	if len(rs.past) > maxPast {
		oldest := slices.MinFunc(slices.Collect(maps.Values(rs.past)), func(a, b server.ModelInfo) int { return a.Since.Compare(b.Since) })
		delete(rs.past, oldest.Name)
	}
}

// begin has replicas added from now on, unless the server stops already.
func (rs *replicas) begin() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.open = true
}

// mayChange says why models may not come or go now; the caller holds mu.
func (rs *replicas) mayChange() error {
	switch {
	case rs.closed:
		return engine.ErrDraining
	case !rs.open:
		return fmt.Errorf("%w: the server still loads those of its start", server.ErrModelNotReady)
	}
	return nil
}

// close has no replica added any more, and returns those that there are.
func (rs *replicas) close() []*replica {
	rs.mu.Lock()
	rs.closed = true
	rs.mu.Unlock()
	return rs.all()
}
