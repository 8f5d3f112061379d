package etcd_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/inferno-serve/inferno/internal/discovery"
	"github.com/inferno-serve/inferno/internal/discovery/static"
)

// What a discovery.Provider promises, of both that there are: RegistryService answers the same over either.
func TestBothRegistriesKeepTheContract(t *testing.T) {
	t.Run("static", func(t *testing.T) { testContract(t, static.New()) })
	t.Run("etcd", func(t *testing.T) { testContract(t, open(t, start(t, 1))) })
}

func testContract(t *testing.T, p discovery.Provider) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	empty, err := p.List(ctx)
	check(t, err)
	if len(empty) != 0 {
		t.Fatalf("a new registry lists %+v", empty)
	}
	a, b := instance("a", "m"), instance("b", "m", "n")
	check(t, p.Vacant(ctx, a))
	ra, err := p.Register(ctx, a)
	check(t, err)
	events, err := p.Watch(ctx)
	check(t, err)
	if e := <-events; e.Snapshot == nil || !same(*e.Snapshot, a) {
		t.Fatalf("first %+v, want a snapshot of a", e)
	}
	rb, err := p.Register(ctx, b)
	check(t, err)
	if e := <-events; e.Put == nil || !same([]discovery.Instance{*e.Put}, b) {
		t.Fatalf("%+v, want b", e)
	}
	list, err := p.List(ctx)
	check(t, err)
	if !same(list, a, b) || list[0].Generation == 0 {
		t.Fatalf("listed %+v, want a and b", list)
	}
	if _, err := p.Register(ctx, a); !errors.Is(err, discovery.ErrDuplicate) {
		t.Errorf("a registered twice: %v, want ErrDuplicate", err)
	}

	for _, state := range []discovery.State{discovery.Degraded, discovery.NotServing, discovery.Draining, discovery.Serving} {
		a.State = state
		a.Load.Running++
		check(t, ra.Update(ctx, a))
		if e := <-events; e.Put == nil || !same([]discovery.Instance{*e.Put}, a) || e.Put.Generation != list[0].Generation {
			t.Fatalf("%+v, want a in state %v and of the same generation", e, state)
		}
	}
	if err := ra.Update(ctx, b); err == nil {
		t.Error("an update changed the id")
	}
	if err := ra.Held(); err != nil {
		t.Errorf("held: %v", err)
	}
	check(t, ra.Withdraw(ctx))
	check(t, ra.Withdraw(ctx))
	if e := <-events; e.RemovedID != "a" {
		t.Fatalf("%+v, want a removed", e)
	}
	if err := ra.Update(ctx, a); err == nil {
		t.Error("updated after withdrawal")
	}
	again, err := p.Register(ctx, a)
	check(t, err)
	if e := <-events; e.Put == nil || e.Put.Generation <= list[0].Generation {
		t.Fatalf("%+v, want a of a later generation than %d", e, list[0].Generation)
	}
	check(t, again.Withdraw(ctx))
	check(t, rb.Withdraw(ctx))
	cancel()
	for range events { // closes
	}
}

// same compares what a registry holds with what it was given, but for what it sets itself.
func same(got []discovery.Instance, want ...discovery.Instance) bool {
	return slices.EqualFunc(got, want, func(g, w discovery.Instance) bool {
		return g.ID == w.ID && g.Address == w.Address && slices.Equal(g.Models, w.Models) && g.State == w.State && g.Load == w.Load &&
			g.Version == w.Version && g.StartTime.Equal(w.StartTime)
	})
}
