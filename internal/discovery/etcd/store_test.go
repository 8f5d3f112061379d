package etcd_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/inferno-serve/inferno/internal/discovery/etcd/etcdtest"
)

// etcd's database is full: it takes no keys and no leases, but renews the lease that is there.
func TestFullDatabaseCostsUpdatesAlone(t *testing.T) {
	c := start(t, 1, "--quota-backend-bytes", "2097152")
	eye := c.Client(t)
	i := instance("a", "m")
	g := register(t, open(t, c, ttl(2*time.Second)), i)
	filler := strings.Repeat("x", 64<<10)
	for n := 0; ; n++ {
		if _, err := eye.Put(t.Context(), fmt.Sprint("filler/", n), filler); err != nil {
			t.Logf("full after %d values: %v", n, err)
			break
		}
	}
	i.Load.Running = 77
	if err := g.Update(t.Context(), i); err == nil || !strings.Contains(err.Error(), "space") {
		t.Errorf("update while etcd is full: %v, want its reason", err)
	}
	_, lease, _ := stored(t, eye, prefix+"/instances/a")
	time.Sleep(3 * time.Second) // longer than the lease
	if _, now, there := stored(t, eye, prefix+"/instances/a"); !there || now != lease {
		t.Error("the key went while etcd was full")
	}
	if g.Held() == nil {
		t.Error("etcd does not hold the last state, and the registration does not say so")
	}

	// And a lease lost meanwhile can only be replaced when there is room again.
	_, err := eye.Revoke(t.Context(), lease)
	check(t, err)
	eventually(t, "lost", lost(g))
	_, err = eye.Delete(t.Context(), "filler/", clientv3.WithPrefix())
	check(t, err)
	status, err := eye.Status(t.Context(), c.Members[0].Proxy.Address())
	check(t, err)
	_, err = eye.Compact(t.Context(), status.Header.Revision, clientv3.WithCompactPhysical())
	check(t, err)
	_, err = eye.Defragment(t.Context(), c.Members[0].Proxy.Address())
	check(t, err)
	_, err = eye.AlarmDisarm(t.Context(), &clientv3.AlarmMember{})
	check(t, err)
	back := eventually(t, "held", func() bool {
		value, _, there := stored(t, eye, prefix+"/instances/a")
		return there && strings.Contains(value, "77") && g.Held() == nil
	})
	figure(t, "registered again once etcd has room", back, 2*time.Second)
	withdraw(t, g, eye)
}

// What the registration watches is compacted away while it cannot read on.
func TestCompactionPastTheWatchIsNoticed(t *testing.T) {
	c := start(t, 1)
	eye := c.Client(t)
	r := open(t, c)
	g := register(t, r, instance("a", "m"))
	events, err := r.Watch(t.Context())
	check(t, err)
	if e := <-events; e.Snapshot == nil || len(*e.Snapshot) != 1 {
		t.Fatalf("%+v, want a snapshot of one", e)
	}
	for range rounds(2, 20) {
		c.Members[0].Proxy.Set(etcdtest.Fault{Cut: true})
		// While nobody listens the endpoint goes, another instance comes, and the history with them.
		_, err = eye.Delete(t.Context(), prefix+"/endpoints/m/a")
		check(t, err)
		value, _, _ := stored(t, eye, prefix+"/instances/a")
		_, err = eye.Put(t.Context(), prefix+"/instances/b", strings.Replace(value, `"a"`, `"b"`, 1))
		check(t, err)
		last, err := eye.Put(t.Context(), "elsewhere", "x")
		check(t, err)
		_, err = eye.Compact(t.Context(), last.Header.Revision, clientv3.WithCompactPhysical())
		check(t, err)
		c.Members[0].Proxy.Set(etcdtest.Fault{})
		back := eventually(t, "the endpoint is there again", func() bool {
			_, _, there := stored(t, eye, prefix+"/endpoints/m/a")
			return there && g.Held() == nil
		})
		figure(t, "put right after a compaction past the watch", back, 2*time.Second)
		for known := false; !known; { // the whole list comes again
			e := <-events
			known = e.Snapshot != nil && len(*e.Snapshot) == 2
		}
		_, err = eye.Delete(t.Context(), prefix+"/instances/b")
		check(t, err)
		for gone := false; !gone; {
			e := <-events
			gone = e.RemovedID == "b" || e.Snapshot != nil && len(*e.Snapshot) == 1
		}
	}
	withdraw(t, g, eye)
}
