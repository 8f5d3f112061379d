package static

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/inferno-serve/inferno/internal/discovery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWatchSeesEveryChangeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := New()
		first, err := r.Register(ctx, discovery.Instance{ID: "a", State: discovery.Serving})
		check(t, err)
		events, err := r.Watch(ctx)
		check(t, err)
		if e := <-events; e.Snapshot == nil || len(*e.Snapshot) != 1 || (*e.Snapshot)[0].ID != "a" {
			t.Fatalf("first event %+v, want a snapshot of a", e)
		}
		_, err = r.Register(ctx, discovery.Instance{ID: "b"})
		check(t, err)
		check(t, first.Update(ctx, discovery.Instance{ID: "a", State: discovery.Draining}))
		check(t, first.Withdraw(ctx))
		check(t, first.Withdraw(ctx)) // idempotent: no second event
		if e := <-events; e.Put == nil || e.Put.ID != "b" || e.Put.Generation != 1 {
			t.Errorf("%+v, want b", e)
		}
		if e := <-events; e.Put == nil || e.Put.ID != "a" || e.Put.State != discovery.Draining {
			t.Errorf("%+v, want a draining", e)
		}
		if e := <-events; e.RemovedID != "a" {
			t.Errorf("%+v, want a removed", e)
		}
		synctest.Wait()
		select {
		case e := <-events:
			t.Errorf("one event too many: %+v", e)
		default:
		}
		cancel()
		if _, open := <-events; open {
			t.Error("channel open after its context ended")
		}
	})
}

func TestSlowWatcherGetsASnapshotInstead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r := New()
		events, err := r.Watch(ctx)
		check(t, err)
		<-events
		known := map[string]bool{}
		for i := range 3 * watchBuffer {
			_, err := r.Register(ctx, discovery.Instance{ID: fmt.Sprintf("i%03d", i)})
			check(t, err)
		}
		snapshots := 0
		for len(known) < 3*watchBuffer {
			switch e := <-events; {
			case e.Snapshot != nil:
				snapshots++
				for _, i := range *e.Snapshot {
					known[i.ID] = true
				}
			case e.Put != nil:
				known[e.Put.ID] = true
			}
		}
		if snapshots != 1 {
			t.Errorf("%d snapshots, want 1", snapshots)
		}
	})
}

func TestIdentityIsKept(t *testing.T) {
	ctx := context.Background()
	r := New()
	if _, err := r.Register(ctx, discovery.Instance{}); err == nil {
		t.Error("registered without an id")
	}
	a, err := r.Register(ctx, discovery.Instance{ID: "a"})
	check(t, err)
	if _, err := r.Register(ctx, discovery.Instance{ID: "a"}); !errors.Is(err, discovery.ErrDuplicate) {
		t.Errorf("second registration of one id: %v", err)
	}
	if err := a.Update(ctx, discovery.Instance{ID: "b"}); err == nil {
		t.Error("an update changed the id")
	}
	check(t, a.Withdraw(ctx))
	if err := a.Update(ctx, discovery.Instance{ID: "a"}); err == nil {
		t.Error("updated after withdrawal")
	}
	_, err = r.Register(ctx, discovery.Instance{ID: "a"})
	check(t, err)
	list, err := r.List(ctx)
	check(t, err)
	if len(list) != 1 || list[0].Generation != 2 {
		t.Errorf("%+v, want generation 2", list)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
