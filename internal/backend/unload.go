package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/inferno-serve/inferno/internal/memory"
	"github.com/inferno-serve/inferno/internal/server"
)

// errNoPlace means that the server holds as many models as it may, and that none of them can make room.
var errNoPlace = errors.New("no place")

// Unload has a model leave and waits until its memory is free.
func (l loader) Unload(ctx context.Context, name string, drain *time.Duration) (server.ModelInfo, error) {
	r := l.replicas.find(name)
	if r == nil {
		return l.replicas.forget(name)
	}
	return l.unload(ctx, r, l.patience(drain), "unloaded by request")
}

// forget is an unloading of what is not there: nothing is left to do for a model that was unloaded, or whose load failed.
func (rs *replicas) forget(name string) (server.ModelInfo, error) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	info, known := rs.past[name]
	if !known {
		return info, fmt.Errorf("model %.100q: %w", name, server.ErrUnknownModel)
	}
	if info.State == server.ModelFailed {
		info.State, info.Reason, info.Since = server.ModelUnloaded, "unloaded by request", time.Now()
		rs.past[name] = info
	}
	return info, nil
}

// unload undoes a load, or has a model that is ready leave, and waits for it to be gone. Unloadings of one model are one.
func (b *backend) unload(ctx context.Context, r *replica, patience time.Duration, reason string) (server.ModelInfo, error) {
	for {
		switch r.info().State {
		case server.ModelLoading:
			r.undo(server.ErrLoadUndone) // a load of the start has none, and is waited for
			select {
			case <-r.settled:
			case <-ctx.Done():
				return server.ModelInfo{}, context.Cause(ctx)
			}
		case server.ModelReady:
			if err := b.depart(r, patience, reason); err != nil {
				return server.ModelInfo{}, err
			}
		case server.ModelFailed:
			if b.replicas.find(r.name) == r { // lost: the server ends with the reason
				return server.ModelInfo{}, fmt.Errorf("%w: %s is out of order", server.ErrModelNotReady, r.name)
			}
			return b.replicas.forget(r.name)
		case server.ModelUnloaded:
			return r.info(), nil
		case server.ModelDraining:
			select {
			case <-r.gone:
			case <-ctx.Done():
				return server.ModelInfo{}, context.Cause(ctx)
			}
		}
	}
}

// depart begins to unload a model that is ready, unless somebody else has.
func (b *backend) depart(r *replica, patience time.Duration, reason string) error {
	rs := b.replicas
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	info := &r.model.Info
	if err := rs.mayChange(); err != nil {
		return err
	}
	if info.State != server.ModelReady {
		return nil
	}
	info.State, info.Reason, info.Since = server.ModelDraining, reason, time.Now()
	r.leave()
	b.changes.Go(func() { b.finish(r, patience, reason) })
	return nil
}

// finish lets the requests of a model end and frees what it held.
func (b *backend) finish(r *replica, patience time.Duration, reason string) {
	<-r.settled // a moment at most: the load has made the model ready
	began := time.Now()
	b.checker.SetCritical(r.Component(), false)
	r.engine.Drain()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case <-r.engineDone:
	case <-timeout.C:
	case <-r.life.Done(): // lost
	}
	b.dispose(r)
	r.enter(server.ModelUnloaded, reason)
	b.replicas.bury(r)
	close(r.gone)
	b.log.Info("model unloaded", "model", r.name, "reason", reason, "took", time.Since(began))
}

// patience is how long requests of a model may go on once it is being unloaded.
func (b *backend) patience(asked *time.Duration) time.Duration {
	if asked != nil {
		return *asked
	}
	return b.o.Config.DrainTimeout
}

// makeRoom plans a model where it fits. Where it does not, models that nobody uses are unloaded, the least recently used first: none in vain.
func (b *backend) makeRoom(ctx context.Context, r *replica, later int, planIn func(room) (plan, error)) (plan, room, error) {
	for {
		has := room{info: r.device.Info(), taken: b.tracker.Snapshot().Total.Current, later: later}
		p, err := planIn(has)
		if err != nil && !errors.Is(err, errTooLarge) {
			return p, has, err
		}
		held := b.replicas.heldBeside(r)
		most := b.o.Config.MaxModels
		if err == nil && (most == 0 || len(held) < most) {
			return p, has, nil
		}
		if err == nil {
			err = fmt.Errorf("%w: this server holds %d models, as many as --max-models lets it, and none that is neither pinned nor in use",
				errNoPlace, len(held))
		} else if _, hopeless := planIn(b.emptied(has, held)); hopeless != nil {
			return p, has, err
		}
		next := nextToLeave(held)
		if next == nil {
			return p, has, err
		}
		if _, err := b.unload(ctx, next, b.patience(nil), "unloaded to make room for "+r.name); err != nil {
			return p, has, err
		}
	}
}

// heldBeside are the replicas beside r that hold memory, or are about to give it back.
func (rs *replicas) heldBeside(r *replica) (held []*replica) {
	for _, other := range rs.all() {
		if other != r && other.runs() {
			held = append(held, other)
		}
	}
	return held
}

// emptied is the room that there would be without the models that may be unloaded.
func (b *backend) emptied(has room, held []*replica) room {
	for _, owner := range b.tracker.Snapshot().Owners {
		for _, r := range held {
			if r.name != owner.Owner || !r.mayLeave() {
				continue
			}
			for purpose := range memory.NumPurposes {
				has.taken -= owner.ByPurpose[purpose].Current
				has.info.FreeBytes += owner.ByPurpose[purpose].Current
			}
		}
	}
	return has
}

// nextToLeave is the model that is leaving already, or else the one used least recently; nil where all are pinned or in use.
func nextToLeave(held []*replica) (next *replica) {
	for _, r := range held {
		if r.info().State == server.ModelDraining {
			return r
		}
		if r.mayLeave() && (next == nil || r.used.Load() < next.used.Load()) {
			next = r
		}
	}
	return next
}

// mayLeave says whether a model is leaving, or is neither pinned nor in use.
func (r *replica) mayLeave() bool {
	info, stats := r.info(), r.stats()
	return info.State == server.ModelDraining || !info.Pinned && stats.Running+stats.Queued+stats.Suspended == 0
}
