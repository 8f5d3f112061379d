package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/inferno-serve/inferno/internal/engine"
)

// liveRequests are the requests whose calls are open, over all models, by id. An id has one entry, and every entry's call ends when its
// context does. Once closed it takes no more.
type liveRequests struct {
	mu      sync.Mutex
	entries map[string]liveRequest
	closed  bool
	idle    chan struct{} // closed once there are none and will be none
}

// liveRequest is one of them.
type liveRequest struct {
	owner  string // by the key of an identity
	cancel context.CancelCauseFunc
}

func newLiveRequests() liveRequests {
	return liveRequests{entries: map[string]liveRequest{}, idle: make(chan struct{})}
}

// begin registers a request and returns the context of its work. Each begin without an error has an end.
func (l *liveRequests) begin(ctx context.Context, id string) (context.Context, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errStopping
	}
	if _, taken := l.entries[id]; taken {
		return nil, engine.ErrDuplicateID
	}
	owner := ownerOf(ctx)
	ctx, cancel := context.WithCancelCause(ctx)
	l.entries[id] = liveRequest{owner, cancel}
	return ctx, nil
}

// end ends the request's work and forgets it.
func (l *liveRequests) end(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries[id].cancel(context.Canceled)
	delete(l.entries, id)
	if l.closed && len(l.entries) == 0 {
		close(l.idle)
	}
}

// cancel ends the requests of these ids with cause, and returns which were live, in order. Others' than those that mine says yes to are not.
func (l *liveRequests) cancel(ids []string, cause error, mine func(owner string) bool) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for _, id := range ids {
		if r, live := l.entries[id]; live && mine(r.owner) {
			r.cancel(cause)
			found = append(found, id)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// cancelAll ends every live request of such an owner with cause, and returns their ids in order.
func (l *liveRequests) cancelAll(cause error, mine func(owner string) bool) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := make([]string, 0, len(l.entries))
	for id, r := range l.entries {
		if mine(r.owner) {
			r.cancel(cause)
			found = append(found, id)
		}
	}
	slices.Sort(found)
	return found
}

// close refuses all further requests; those at hand go on. Called once.
func (l *liveRequests) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if len(l.entries) == 0 {
		close(l.idle)
	}
}

// why tells apart the ways in which a call ends from outside: the engine, and gRPC, only see that its context did.
func (l *liveRequests) why(ctx context.Context, model *Model, err error) error {
	if errors.Is(err, engine.ErrDeviceLost) || errors.Is(err, engine.ErrNotFinite) {
		return err
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if errors.Is(err, engine.ErrAborted) && l.isClosed() {
		return errCut // the engine was closed, and nobody asked to abort this request
	}
	if model.isLeaving() && (errors.Is(err, engine.ErrAborted) || errors.Is(err, engine.ErrDraining)) {
		return fmt.Errorf("%w: %s is being unloaded", ErrModelNotReady, model.Info.Name)
	}
	return err
}

func (l *liveRequests) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}
