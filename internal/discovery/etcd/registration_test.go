package etcd_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"

	"github.com/inferno-serve/inferno/internal/discovery"
	"github.com/inferno-serve/inferno/internal/discovery/etcd"
	"github.com/inferno-serve/inferno/internal/discovery/etcd/etcdtest"
)

func TestAnInstanceIsOneLeaseAndItsKeysComeTogether(t *testing.T) {
	c := start(t, 1)
	eye := c.Client(t)
	r := open(t, c)
	i := instance("a/b", "llama-3", "org/other")
	i.Models = append(i.Models, discovery.Model{Name: "loading", Revision: "r2"})
	g := register(t, r, i)

	all, err := eye.Get(t.Context(), prefix, clientv3.WithPrefix())
	check(t, err)
	var keys []string
	for _, kv := range all.Kvs {
		keys = append(keys, string(kv.Key))
		if kv.Lease == 0 || kv.Lease != all.Kvs[0].Lease || kv.ModRevision != all.Kvs[0].ModRevision {
			t.Errorf("%s: lease %x, revision %d, want those of all: %x, %d",
				kv.Key, kv.Lease, kv.ModRevision, all.Kvs[0].Lease, all.Kvs[0].ModRevision)
		}
	}
	want := []string{prefix + "/endpoints/llama-3/a%2Fb", prefix + "/endpoints/org%2Fother/a%2Fb", prefix + "/instances/a%2Fb"}
	if !slices.Equal(keys, want) {
		t.Errorf("keys %q, want %q: none for a model that is not ready", keys, want)
	}

	// etcd's own naming package reads what stands there.
	naming, err := endpoints.NewManager(eye, prefix+"/endpoints/llama-3")
	check(t, err)
	stock, err := naming.List(t.Context())
	check(t, err)
	e, ok := stock[want[0]]
	metadata, _ := e.Metadata.(map[string]any)
	if !ok || e.Addr != i.Address || metadata["model"] != "llama-3" || metadata["revision"] != "r1" {
		t.Errorf("the stock reader sees %+v", stock)
	}
	// And the record is JSON that names its fields as the API does.
	var record map[string]any
	value, _, _ := stored(t, eye, want[2])
	check(t, json.Unmarshal([]byte(value), &record))
	if record["id"] != "a/b" || record["address"] != i.Address || record["state"] != "INSTANCE_STATE_SERVING" {
		t.Errorf("record %s", value)
	}

	list, err := r.List(t.Context())
	check(t, err)
	if len(list) != 1 || list[0].Generation == 0 || list[0].Load != i.Load || !slices.Equal(list[0].Models, i.Models) ||
		!list[0].StartTime.Equal(i.StartTime) || list[0].Version != i.Version || list[0].State != i.State {
		t.Errorf("listed %+v, want %+v", list, i)
	}
	withdraw(t, g, eye)
	check(t, g.Withdraw(t.Context())) // idempotent
	if err := g.Update(t.Context(), i); err == nil {
		t.Error("updated after its withdrawal")
	}
}

func TestEndpointsAreThereOnlyWhileRequestsAreTaken(t *testing.T) {
	c := start(t, 1)
	eye := c.Client(t)
	i := instance("a", "m")
	g := register(t, open(t, c), i)
	naming, err := endpoints.NewManager(eye, prefix+"/endpoints/m")
	check(t, err)
	for _, step := range []struct {
		state discovery.State
		ready bool
		want  int
	}{
		{discovery.NotServing, true, 0}, {discovery.Degraded, true, 1}, {discovery.Draining, true, 0}, {discovery.Serving, false, 0},
		{discovery.Serving, true, 1},
	} {
		i.State = step.state
		i.Models = []discovery.Model{{Name: "m", Ready: step.ready}}
		check(t, g.Update(t.Context(), i))
		list, err := naming.List(t.Context())
		check(t, err)
		if len(list) != step.want {
			t.Errorf("%v, ready %t: stock clients see %d endpoints, want %d", step.state, step.ready, len(list), step.want)
		}
	}
	// A change of load alone is no news to them.
	_, lease, _ := stored(t, eye, prefix+"/endpoints/m/a")
	before, err := eye.Get(t.Context(), prefix+"/endpoints/m/a")
	check(t, err)
	i.Load.Running++
	check(t, g.Update(t.Context(), i))
	after, err := eye.Get(t.Context(), prefix+"/endpoints/m/a")
	check(t, err)
	if after.Kvs[0].ModRevision != before.Kvs[0].ModRevision {
		t.Error("the endpoint was written again for a change of load")
	}
	if _, now, _ := stored(t, eye, prefix+"/instances/a"); now != lease {
		t.Errorf("lease %x after updates, want the one of the start, %x", now, lease)
	}
	withdraw(t, g, eye)
}

// A lease that is gone, however that came, is replaced: 1,000 times in a soak.
func TestRevokedLeaseIsReplaced(t *testing.T) {
	c := start(t, 1)
	eye := c.Client(t)
	g := register(t, open(t, c), instance("a", "m"))
	key := prefix + "/instances/a"
	var absences []time.Duration
	generation := uint64(0)
	for range rounds(20, 1000) {
		_, lease, _ := stored(t, eye, key)
		_, err := eye.Revoke(t.Context(), lease)
		check(t, err)
		absences = append(absences, eventually(t, "registered again", func() bool {
			_, now, there := stored(t, eye, key)
			return there && now != lease
		}))
		list, err := eye.Get(t.Context(), prefix+"/endpoints/m/a")
		check(t, err)
		if len(list.Kvs) != 1 {
			t.Error("the instance is back without its endpoint")
		}
		eventually(t, "held", held(g))
		value, _, _ := stored(t, eye, key)
		var record struct {
			Generation uint64 `json:",string"`
		}
		check(t, json.Unmarshal([]byte(value), &record))
		if record.Generation <= generation {
			t.Fatalf("generation %d after %d, want it to grow with each registration", record.Generation, generation)
		}
		generation = record.Generation
	}
	slices.Sort(absences)
	figure(t, "absent after a revocation, median", absences[len(absences)/2], 50*time.Millisecond)
	figure(t, "absent after a revocation, longest", absences[len(absences)-1], time.Second)
	withdraw(t, g, eye)
}

func TestKeysThatOthersTouchArePutRight(t *testing.T) {
	c := start(t, 1)
	eye := c.Client(t)
	r := open(t, c)
	i := instance("a", "m", "n")
	g := register(t, r, i)
	key, endpoint := prefix+"/instances/a", prefix+"/endpoints/m/a"
	original := map[string]string{}
	for _, k := range []string{key, endpoint} {
		original[k], _, _ = stored(t, eye, k)
	}
	_, lease, _ := stored(t, eye, key)
	var longest time.Duration
	for n := range rounds(3, 100) {
		for k, value := range original {
			for _, touch := range []func() error{
				func() error { _, err := eye.Delete(t.Context(), k); return err },
				func() error { _, err := eye.Put(t.Context(), k, fmt.Sprint("nonsense ", n)); return err },
				func() error { _, err := eye.Delete(t.Context(), prefix, clientv3.WithPrefix()); return err },
			} {
				check(t, touch())
				longest = max(longest, eventually(t, k+" as it was", func() bool {
					now, _, there := stored(t, eye, k)
					return there && now == value
				}))
				if _, now, _ := stored(t, eye, k); now != lease {
					t.Fatalf("%s is under lease %x, want %x, which lives", k, now, lease)
				}
			}
		}
	}
	figure(t, "wrong after a key was touched, longest", longest, time.Second)
	eventually(t, "held", held(g))
	withdraw(t, g, eye)
}

func TestAnIDThatAnotherProcessHoldsIsLeftToIt(t *testing.T) {
	c := start(t, 1)
	eye := c.Client(t)
	r, other := open(t, c, ttl(2*time.Second)), open(t, c, ttl(2*time.Second))
	first := register(t, r, instance("a", "m"))
	second := instance("a", "m")
	second.Address = "127.0.0.2:1"
	_, err := other.Register(t.Context(), second)
	if !errors.Is(err, discovery.ErrDuplicate) || !strings.Contains(err.Error(), "127.0.0.1:50051") {
		t.Errorf("registered beside a live instance: %v, want ErrDuplicate and the other's address", err)
	}
	if _, err := r.Register(t.Context(), instance("a")); !errors.Is(err, discovery.ErrDuplicate) {
		t.Errorf("registered twice by one process: %v", err)
	}
	began := time.Now()
	if err := other.Vacant(t.Context(), second); !errors.Is(err, discovery.ErrDuplicate) {
		t.Errorf("vacant beside a live instance: %v, want ErrDuplicate", err)
	}
	t.Logf("refused after %v", time.Since(began).Round(time.Millisecond))
	if first.Held() != nil {
		t.Errorf("the first instance lost its key: %v", first.Held())
	}
	if leases, err := eye.Leases(t.Context()); err != nil || len(leases.Leases) != 1 {
		t.Errorf("%v leases (%v), want the first instance's alone", leases, err)
	}

	// A live instance whose key another one takes tells so and does not fight for it; when the other leaves, it is there again.
	_, lease, _ := stored(t, eye, prefix+"/instances/a")
	foreign, err := eye.Grant(t.Context(), 60)
	check(t, err)
	_, err = eye.Put(t.Context(), prefix+"/instances/a", "someone else", clientv3.WithLease(foreign.ID))
	check(t, err)
	eventually(t, "the first instance says so", func() bool { return errors.Is(first.Held(), discovery.ErrDuplicate) })
	_, err = eye.Revoke(t.Context(), foreign.ID)
	check(t, err)
	eventually(t, "held again", held(first))
	if _, now, _ := stored(t, eye, prefix+"/instances/a"); now != lease {
		t.Errorf("lease %x, want %x, which lived all the time", now, lease)
	}
	withdraw(t, first, eye)
	check(t, other.Vacant(t.Context(), second))
}

// A predecessor's lease may end while etcd is away: then nobody can say that the id is taken.
func TestAnIDIsNotCalledTakenWhileEtcdIsAway(t *testing.T) {
	c := start(t, 1)
	eye := c.Client(t)
	predecessor, err := eye.Grant(t.Context(), 2)
	check(t, err)
	_, err = eye.Put(t.Context(), prefix+"/instances/a", "of a process that was killed", clientv3.WithLease(predecessor.ID))
	check(t, err)
	waits := make(chan struct{}, 1)
	r := open(t, c, ttl(2*time.Second), func(o *etcd.Options) { o.Log = slog.New(hears(waits)) })
	ended := make(chan error, 1)
	go func() { ended <- r.Vacant(t.Context(), instance("a")) }()
	<-waits
	c.Members[0].Proxy.Set(etcdtest.Fault{Cut: true})
	if err := <-ended; err == nil || errors.Is(err, discovery.ErrDuplicate) || !strings.Contains(err.Error(), "etcd at ") {
		t.Errorf("%v, want that etcd is away", err)
	}
	c.Members[0].Proxy.Set(etcdtest.Fault{})
	check(t, r.Vacant(t.Context(), instance("a")))
}

// hears is a log whose lines are signals.
type hears chan struct{}

func (hears) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (h hears) Handle(context.Context, slog.Record) error {
	select {
	case h <- struct{}{}:
	default:
	}
	return nil
}

func (h hears) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h hears) WithGroup(string) slog.Handler      { return h }
