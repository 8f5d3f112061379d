package etcd_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/inferno-serve/inferno/internal/discovery"
	"github.com/inferno-serve/inferno/internal/discovery/etcd/etcdtest"
)

// created is the revision at which the instance's key came: it is another one once the key has been gone, however briefly.
func created(t *testing.T, c *clientv3.Client) int64 {
	t.Helper()
	answer, err := c.Get(t.Context(), prefix+"/instances/a")
	check(t, err)
	if len(answer.Kvs) == 0 {
		return 0
	}
	return answer.Kvs[0].CreateRevision
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
		came := created(t, eye)
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
		if now := created(t, eye); now != came {
			t.Errorf("the key was gone in an outage of %v", outage)
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
	came := created(t, eye)
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
	if now := created(t, eye); now != came {
		t.Error("the key was gone, while a majority was there all the time")
	}
	withdraw(t, g, eye)
}

// The leader stands still, with its connections open, for longer than the lease lasts, and comes back as one that still thinks it leads: until it hears
// better it may revoke leases that it has not seen kept alive. That is etcd's; ours is that the key is put anew at once.
func TestRegistrationOutlivesALeaderThatStandsStill(t *testing.T) {
	c := start(t, 3)
	eye := c.Client(t)
	i := instance("a", "m")
	g := register(t, open(t, c, ttl(10*time.Second)), i)
	came, gone := created(t, eye), 0
	for n := range rounds(1, 20) {
		leader := c.Leader(t)
		leader.Pause()
		i.Load.Running = 100 + n
		took := eventually(t, "updated without the leader", func() bool { return g.Update(t.Context(), i) == nil })
		figure(t, "an update is taken while the leader stands still", took, 10*time.Second)
		time.Sleep(11 * time.Second) // more than the lease
		leader.Resume()
		leader.WaitReady()
		back := eventually(t, "held", func() bool {
			_, _, there := stored(t, eye, prefix+"/endpoints/m/a")
			return there && g.Update(t.Context(), i) == nil && g.Held() == nil
		})
		figure(t, "held after the leader is back", back, 2*time.Second)
		if now := created(t, eye); now != came {
			came, gone = now, gone+1
		}
	}
	t.Logf("the leader that came back revoked the lease %d times", gone)
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
		if readers := what == "list" || what == "watch"; readers && !errors.Is(err, discovery.ErrAway) {
			t.Errorf("%s: %v, want ErrAway", what, err)
		}
	}
	c.Members[0].Proxy.Set(etcdtest.Fault{})
	c.Members[0].Start()
	began := time.Now()
	g := register(t, r, instance("a"))
	figure(t, "registered after etcd came up", time.Since(began), 3*time.Second) // with its own start
	withdraw(t, g, c.Client(t))
}
