package etcd_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/inferno-serve/inferno/internal/discovery/etcd/etcdtest"
)

// One member is parted from the two others, and all three from none of their clients: now the leader, which does not know at once that it
// leads nobody, now one that follows. What the minority says and does not say costs the instance nothing.
func TestRegistrationOutlivesAPartition(t *testing.T) {
	c := leavingNothing(t, func() *etcdtest.Cluster { return etcdtest.StartParted(t, 3) })
	eye := c.Client(t)
	i := instance("a", "m")
	r := open(t, c, ttl(10*time.Second))
	g := register(t, r, i)
	events, err := open(t, c).Watch(t.Context())
	check(t, err)
	came := created(t, eye)
	for n := range rounds(2, 20) {
		alone := c.Leader(t)
		if n%2 == 1 {
			alone = c.Follower(t)
		}
		c.Part(alone)
		i.Load.Running = 100 + n
		took := eventually(t, "updated beside a member that is alone", func() bool { return g.Update(t.Context(), i) == nil })
		figure(t, "an update is taken beside a member that is alone", took, 10*time.Second)
		time.Sleep(11 * time.Second) // more than the lease
		if err := alone.Agrees(); err == nil {
			t.Error("the member that is alone agrees with somebody")
		}
		c.Part()
		alone.WaitReady()
		for told := false; !told; { // a reader, whichever member it had asked, knows it by now or soon
			e := <-events
			told = e.Put != nil && e.Put.Load.Running == i.Load.Running ||
				e.Snapshot != nil && len(*e.Snapshot) == 1 && (*e.Snapshot)[0].Load.Running == i.Load.Running
		}
	}
	eventually(t, "the last state is held", func() bool {
		value, _, _ := stored(t, eye, prefix+"/instances/a")
		return g.Held() == nil && strings.Contains(value, fmt.Sprint(i.Load.Running))
	})
	if now := created(t, eye); now != came {
		t.Error("the key was gone, while a majority was there all the time")
	}
	withdraw(t, g, eye)
}
