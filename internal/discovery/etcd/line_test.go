package etcd_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/inferno-serve/inferno/internal/discovery/etcd/etcdtest"
)

// The member that the instance is connected to falls silent, while a majority is there: the way to the others is found before the lease
// ends.
func TestSilentMemberIsLeftForAnother(t *testing.T) {
	c := start(t, 3)
	eye := c.Client(t)
	i := instance("a", "m")
	g := register(t, open(t, c), i)
	came := created(t, eye)
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
	if now := created(t, eye); now != came {
		t.Error("the key was gone, while a majority was within reach all the time")
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
			came := created(t, eye)
			updates, refused := 0, 0
			for end := time.Now().Add(time.Duration(rounds(6, 120)) * time.Second); time.Now().Before(end); {
				i.Load.Running++
				if g.Update(t.Context(), i) == nil {
					updates++
				} else {
					refused++
					time.Sleep(250 * time.Millisecond) // as an Announcer does
				}
			}
			unbroken := created(t, eye) == came
			t.Logf("%d updates taken, %d to be tried again; the key was there all the time: %t", updates, refused, unbroken)
			if updates == 0 {
				t.Error("no update was taken")
			}
			if fault.Loss == 0 && !unbroken {
				t.Error("the key was gone, while every renewal arrives in time")
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
