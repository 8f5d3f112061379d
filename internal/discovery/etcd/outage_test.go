package etcd_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/inferno-serve/inferno/internal/discovery/etcd/etcdtest"
)

// watchKey reports each change of an instance's key from now on: true for put, false for removed. It ends with the test.
func watchKey(t *testing.T, c *clientv3.Client) <-chan clientv3.WatchResponse {
	t.Helper()
	return c.Watch(t.Context(), prefix+"/instances/a", clientv3.WithCreatedNotify())
}

func removals(changes <-chan clientv3.WatchResponse) (n int) {
	for {
		select {
		case answer := <-changes:
			for _, e := range answer.Events {
				if e.Type == clientv3.EventTypeDelete {
					n++
				}
			}
		default:
			return n
		}
	}
}

// etcd is killed and comes back: after less than the lease lasts, and after more. The data outlives it, and so does the key: etcd gives
// leases their whole time again when it starts, so that instances are never absent.
func TestRegistrationOutlivesAnOutage(t *testing.T) {
	outages := []time.Duration{time.Second, 3 * time.Second, 8 * time.Second}
	if *soak {
		outages = append(outages, 20*time.Second, 10*time.Minute)
	}
	c := start(t, 1)
	eye := c.Client(t)
	i := instance("a", "m")
	g := register(t, open(t, c), i)
	for n, outage := range outages {
		changes := watchKey(t, eye)
		<-changes
		c.Members[0].Kill()
		time.Sleep(outage)
		if outage >= 5*time.Second && g.Held() == nil {
			t.Errorf("after %v without etcd the registration says that it is held", outage)
		}
		c.Members[0].Start()
		c.Members[0].WaitReady()
		// What changed meanwhile is told, and the key's lease is renewed again.
		i.Load.Running = 100 + n
		back := eventually(t, "held after the outage", func() bool {
			return g.Update(t.Context(), i) == nil && g.Held() == nil
		})
		value, lease, _ := stored(t, eye, prefix+"/instances/a")
		if !strings.Contains(value, fmt.Sprint(i.Load.Running)) {
			t.Errorf("after an outage of %v etcd holds %s", outage, value)
		}
		if left, err := eye.TimeToLive(t.Context(), lease); err != nil || left.TTL <= 0 {
			t.Errorf("after an outage of %v the key's lease has %v left (%v)", outage, left, err)
		}
		if absent := removals(changes); absent > 0 {
			t.Errorf("the key went %d times in an outage of %v, want never", absent, outage)
		}
		figure(t, fmt.Sprintf("registered again after %v without etcd", outage), back, 2*time.Second)
	}
	withdraw(t, g, eye)
}

// Data that did not survive is put anew.
func TestRegistrationOutlivesTheLossOfAllData(t *testing.T) {
	first, second := start(t, 1), etcdtest.Start(t, 1)
	proxy := first.Members[0].Proxy
	g := register(t, open(t, first), instance("a", "m"))
	first.Members[0].Kill()
	proxy.Redirect(second.Members[0])
	eye := second.Client(t)
	back := eventually(t, "registered with the new etcd", func() bool {
		_, _, there := stored(t, eye, prefix+"/endpoints/m/a")
		return there && g.Held() == nil
	})
	figure(t, "registered with an etcd that has lost all", back, 2*time.Second)
	withdraw(t, g, eye)
}

func TestRegistrationOutlivesItsLeader(t *testing.T) {
	c := start(t, 3)
	eye := c.Client(t)
	i := instance("a", "m")
	g := register(t, open(t, c), i)
	changes := watchKey(t, eye)
	<-changes
	for n := range rounds(2, 50) {
		leader := c.Leader(t)
		leader.Kill()
		i.Load.Running = 100 + n
		took := eventually(t, "updated without the leader", func() bool { return g.Update(t.Context(), i) == nil })
		figure(t, "an update is taken after the leader's death", took, 10*time.Second)
		leader.Start()
		leader.WaitReady()
	}
	eventually(t, "held", held(g))
	if absent := removals(changes); absent > 0 {
		t.Errorf("the key went %d times, want never: a majority was there all the time", absent)
	}
	withdraw(t, g, eye)
}

// The leader stands still, with its connections open, for longer than the lease lasts, and comes back as one that still thinks it leads.
func TestRegistrationOutlivesALeaderThatStandsStill(t *testing.T) {
	c := start(t, 3)
	eye := c.Client(t)
	i := instance("a", "m")
	g := register(t, open(t, c), i)
	changes := watchKey(t, eye)
	<-changes
	for n := range rounds(1, 20) {
		leader := c.Leader(t)
		leader.Pause()
		i.Load.Running = 100 + n
		took := eventually(t, "updated without the leader", func() bool { return g.Update(t.Context(), i) == nil })
		figure(t, "an update is taken while the leader stands still", took, 10*time.Second)
		time.Sleep(6 * time.Second) // more than the lease
		leader.Resume()
		leader.WaitReady()
	}
	eventually(t, "held", func() bool { return g.Update(t.Context(), i) == nil && g.Held() == nil })
	if absent := removals(changes); absent > 0 {
		t.Errorf("the key went %d times, want never: a majority was there all the time", absent)
	}
	withdraw(t, g, eye)
}

// The member that the instance is connected to falls silent, while a majority is there: the way to the others is found before the lease ends.
func TestSilentMemberIsLeftForAnother(t *testing.T) {
	c := start(t, 3)
	eye := c.Client(t)
	i := instance("a", "m")
	g := register(t, open(t, c), i)
	changes := watchKey(t, eye)
	<-changes
	for n := range rounds(1, 50) {
		silent := c.Members[n%3]
		silent.Proxy.Set(etcdtest.Fault{Silent: true})
		i.Load.Running = 100 + n
		took := eventually(t, "updated past the silent member", func() bool { return g.Update(t.Context(), i) == nil })
		figure(t, "an update is taken beside a silent member", took, 10*time.Second)
		time.Sleep(6 * time.Second) // more than the lease
		silent.Proxy.Set(etcdtest.Fault{})
	}
	eventually(t, "held", held(g))
	if absent := removals(changes); absent > 0 {
		t.Errorf("the key went %d times, want never: a majority was within reach all the time", absent)
	}
	withdraw(t, g, eye)
}

// All members fall silent for longer than the lease lasts: that the registration was lost is known here, and made good afterwards.
func TestRegistrationReturnsAfterASilence(t *testing.T) {
	c := start(t, 1)
	eye := c.Client(t)
	g := register(t, open(t, c, ttl(2*time.Second)), instance("a", "m"))
	for range rounds(1, 20) {
		c.Members[0].Proxy.Set(etcdtest.Fault{Silent: true})
		eventually(t, "said to be lost", lost(g))
		t.Logf("while it lasts: %v", g.Held())
		eventually(t, "the key is gone", func() bool {
			_, _, there := stored(t, eye, prefix+"/instances/a")
			return !there
		})
		c.Members[0].Proxy.Set(etcdtest.Fault{})
		back := eventually(t, "registered again", func() bool {
			_, _, there := stored(t, eye, prefix+"/instances/a")
			return there && g.Held() == nil
		})
		figure(t, "registered again after a silence", back, 2*time.Second)
	}
	withdraw(t, g, eye)
}

func TestRegistrationLivesOnABadLine(t *testing.T) {
	for name, fault := range map[string]etcdtest.Fault{
		"half of all segments lost": {Loss: 0.5},
		"500 ms late":               {Delay: 500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, 1)
			eye := c.Client(t)
			c.Members[0].Proxy.Set(fault)
			i := instance("a", "m")
			began := time.Now()
			g := register(t, open(t, c, ttl(10*time.Second)), i)
			t.Logf("registered after %v", time.Since(began).Round(time.Millisecond))
			changes := watchKey(t, eye)
			<-changes
			updates, refused := 0, 0
			for end := time.Now().Add(time.Duration(rounds(6, 120)) * time.Second); time.Now().Before(end); {
				i.Load.Running++
				if g.Update(t.Context(), i) == nil {
					updates++
				} else {
					refused++
				}
			}
			absent := removals(changes)
			t.Logf("%d updates taken, %d to be tried again; the key went %d times", updates, refused, absent)
			if updates == 0 {
				t.Error("no update was taken")
			}
			if fault.Loss == 0 && absent > 0 {
				t.Errorf("the key went %d times, want never: every renewal arrives in time", absent)
			}
			c.Members[0].Proxy.Set(etcdtest.Fault{})
			eventually(t, "the last state is there", func() bool {
				value, _, _ := stored(t, eye, prefix+"/instances/a")
				return strings.Contains(value, fmt.Sprint(i.Load.Running)) && g.Held() == nil
			})
			withdraw(t, g, eye)
		})
	}
}

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

func TestEtcdThatIsAwayIsAnErrorThatSaysSo(t *testing.T) {
	c := start(t, 1)
	r := open(t, c)
	c.Members[0].Kill()
	c.Members[0].Proxy.Set(etcdtest.Fault{Cut: true})
	_, listed := r.List(t.Context())
	_, watched := r.Watch(t.Context())
	_, registered := r.Register(t.Context(), instance("a"))
	for what, err := range map[string]error{
		"list": listed, "watch": watched, "register": registered, "vacant": r.Vacant(t.Context(), instance("a")),
	} {
		if err == nil || !strings.Contains(err.Error(), "etcd at "+c.Endpoints()[0]) {
			t.Errorf("%s: %v, want an error that names the endpoint", what, err)
		}
		t.Logf("%s: %v", what, err)
	}
	c.Members[0].Proxy.Set(etcdtest.Fault{})
	c.Members[0].Start()
	began := time.Now()
	g := register(t, r, instance("a"))
	figure(t, "registered after etcd came up", time.Since(began), 3*time.Second) // with its own start
	withdraw(t, g, c.Client(t))
}
