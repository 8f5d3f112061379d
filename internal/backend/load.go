package backend

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime/debug"
	"strings"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/memory"
	"github.com/inferno-serve/inferno/internal/model/modeldir"
	"github.com/inferno-serve/inferno/internal/server"
)

// loader loads and unloads models of the running server (server.Loader). A load is the server's own: it goes on when its callers leave, and
// ends with the server, or with an unloading of its name.
type loader struct{ *backend }

// Load joins or begins a load and follows it to its end.
func (l loader) Load(ctx context.Context, q server.LoadRequest, progress func(server.LoadProgress) error) error {
	path, err := modeldir.Below(l.o.Config.ModelRoots, q.Path)
	switch {
	case len(l.o.Config.ModelRoots) == 0:
		return fmt.Errorf("%.100q: %w: the server was started without --model-root", q.Path, server.ErrNoPath)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%.100q: %w", q.Path, server.ErrNoPath)
	case errors.Is(err, modeldir.ErrOutside):
		return fmt.Errorf("%.100q: %w", q.Path, server.ErrBadPath)
	case err != nil:
		return fmt.Errorf("%w: %w", server.ErrLoadFailed, err)
	}
	r, err := l.admit(q, path)
	if err != nil {
		return err
	}
	return r.follow(ctx, progress)
}

// admit finds the replica that the request is about, or begins to load one.
func (b *backend) admit(q server.LoadRequest, path string) (*replica, error) {
	stamp, err := stampOf(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", server.ErrLoadFailed, b.withoutRoots(err))
	}
	rs := b.replicas
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if err := rs.mayChange(); err != nil {
		return nil, err
	}
	if r := rs.byName[q.Name]; r != nil {
		return r, r.admits(q, stamp)
	}
	r := newReplica(q.Name, path)
	r.stamp, r.model.Info.Pinned = stamp, q.Pinned
	delete(rs.past, q.Name)
	rs.byName[q.Name] = r
	b.changes.Go(func() { b.bring(r) })
	return r, nil
}

// admits says whether a load of these files under the name of r is the one that r stands for already.
func (r *replica) admits(q server.LoadRequest, stamp string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	info := &r.model.Info
	same := r.stamp == stamp
	switch {
	case info.State == server.ModelDraining:
		return fmt.Errorf("%w: %s is being unloaded", server.ErrModelNotReady, r.name)
	case info.State == server.ModelFailed:
		return fmt.Errorf("%w: %s is out of order", server.ErrModelNotReady, r.name)
	case info.State == server.ModelReady && !same:
		return fmt.Errorf("%w: %s is revision %s, of other files or of what these were: unload it first",
			server.ErrModelExists, r.name, info.Revision)
	case !same:
		return fmt.Errorf("%w: %s is being loaded from other files", server.ErrModelExists, r.name)
	}
	info.Pinned = info.Pinned || q.Pinned
	return nil
}

// bring brings a new replica up, or leaves nothing of it but a past model.
func (b *backend) bring(r *replica) {
	b.checker.Add(r, false) // beside the models that serve, one that loads is no fault
	err := b.startRecovered(r)
	if err == nil {
		b.checker.SetCritical(r.Component(), true)
		close(r.settled)
		return
	}
	b.dispose(r)
	state, reason := server.ModelFailed, b.withoutRoots(err)
	if r.outcome = b.outcome(r, err, reason); errors.Is(r.outcome, server.ErrLoadUndone) {
		state, reason = server.ModelUnloaded, "unloaded while it was loading"
	}
	b.log.Warn("model not loaded", "model", r.name, "error", err)
	r.enter(state, reason)
	b.replicas.bury(r)
	close(r.settled)
	close(r.gone)
}

// dispose frees what a replica held that the server goes on without.
func (b *backend) dispose(r *replica) {
	timeout := unloadTimeout
	if r.life.Err() != nil { // lost, and the server ends with it
		timeout = closeTimeout
	}
	r.close(b.log, timeout)
	b.engines.Forget(r.name)
	b.requests.Forget(r.name)
	b.checker.Remove(r.Component())
}

// outcome is what the callers of a load that failed are told.
func (b *backend) outcome(r *replica, err error, reason string) error {
	switch cause := context.Cause(r.loading); {
	case cause != nil:
		return cause
	case errors.Is(err, errTooLarge), errors.Is(err, errNoPlace), errors.Is(err, memory.ErrLimit), errors.Is(err, device.ErrOutOfMemory):
		return fmt.Errorf("%w: %s", server.ErrNoRoom, reason)
	case errors.Is(err, device.ErrLost):
		return err
	}
	return fmt.Errorf("%w: %s", server.ErrLoadFailed, reason)
}

// startRecovered is startInTurn, for a model that the server shares the process with others: a panic over its files ends it alone.
func (b *backend) startRecovered(r *replica) (err error) {
	defer func() {
		if p := recover(); p != nil {
			b.log.Error("panic in a load", "model", r.name, "panic", p, "stack", string(debug.Stack()))
			err = errors.New("internal error")
		}
	}()
	return b.startInTurn(r.loading, r, -1)
}

// startInTurn starts a replica once no other one is being brought up. later is how many models are still to come to its device; −1: as many
// as the configuration lets in.
func (b *backend) startInTurn(ctx context.Context, r *replica, later int) error {
	select {
	case b.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-b.turn }()
	if models := b.o.Config.Models; later >= 0 && r.name == models[len(models)-1].Name {
		b.replicas.begin() // others wait for their turn behind the last of the start, and none is refused once health says SERVING
	}
	if later < 0 {
		later = max(0, b.o.Config.MaxModels-1-len(b.replicas.heldBeside(r)))
	}
	return r.start(ctx, b, later)
}

// stopChanges ends the loads under way and takes no more. Idempotent.
func (b *backend) stopChanges() {
	for _, r := range b.replicas.close() {
		r.undo(engine.ErrDraining)
	}
}

// withoutRoots is the text of an error without the places of the model roots, which callers need not know.
func (b *backend) withoutRoots(err error) string {
	text := err.Error()
	for _, root := range b.o.Config.ModelRoots {
		text = strings.ReplaceAll(text, strings.TrimSuffix(root, "/")+"/", "")
	}
	return text
}

// progressed is a model.Options.Progress. Followers hear of each hundredth.
func (r *replica) progressed(loaded, total int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	further := loaded*100/max(total, 1) > r.loaded*100/max(r.total, 1) || r.total != total
	r.loaded, r.total = loaded, total
	if further {
		close(r.news)
		r.news = make(chan struct{})
	}
}

// follow tells how far the load has come until it has ended, and returns how.
func (r *replica) follow(ctx context.Context, progress func(server.LoadProgress) error) error {
	for {
		r.mu.Lock()
		now, news := server.LoadProgress{Model: r.model.Info, Loaded: r.loaded, Total: r.total}, r.news
		r.mu.Unlock()
		ended := false
		select {
		case <-r.settled:
			ended = true
			now.Model = r.info()
		default:
		}
		if err := progress(now); err != nil {
			return err
		}
		if ended {
			return r.outcome
		}
		select {
		case <-news:
		case <-r.settled:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
