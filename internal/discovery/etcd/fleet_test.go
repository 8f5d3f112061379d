package etcd_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/inferno-serve/inferno/internal/discovery"
	"github.com/inferno-serve/inferno/internal/discovery/etcd"
	"github.com/inferno-serve/inferno/internal/discovery/etcd/etcdtest"
)

// script puts instances into etcd as they stand there, without a process behind each.
func script(t *testing.T, c *clientv3.Client, n int) (ids []string) {
	t.Helper()
	for k := range n {
		id := fmt.Sprintf("i%03d", k)
		scripted(t, c, id, 0)
		ids = append(ids, id)
	}
	return ids
}

func scripted(t *testing.T, c *clientv3.Client, id string, running int, options ...clientv3.OpOption) {
	t.Helper()
	_, err := c.Put(t.Context(), prefix+"/instances/"+id, fmt.Sprintf(
		`{"id":%q,"address":"10.0.0.1:50051","models":[{"name":"llama-3","revision":"r","state":"MODEL_STATE_READY","maxContext":8192}],`+
			`"state":"INSTANCE_STATE_SERVING","load":{"runningRequests":%d},"version":"v1","startTime":"2026-01-01T00:00:00Z",`+
			`"generation":"7"}`, id, running), options...)
	check(t, err)
}

// timeLists lists twenty times.
func timeLists(t *testing.T, what string, limit time.Duration, list func(context.Context) ([]discovery.Instance, error)) {
	t.Helper()
	var took []time.Duration
	for range 20 {
		began := time.Now()
		_, err := list(t.Context())
		check(t, err)
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("%s, longest of 20: %v", what, took[19].Round(time.Millisecond))
	figure(t, what+", median of 20", took[10], limit)
}

// Each instance has a lease of its own, of 100 to 599 s, and a list says what is left of it.
func TestListTellsWhatIsLeftOfLeases(t *testing.T) {
	const instances, shortest = 500, 100
	c := start(t, 1)
	eye := c.Client(t)
	r := open(t, c)
	leases := make([]clientv3.LeaseID, instances)
	for k, id := range script(t, eye, instances) {
		lease, err := eye.Grant(t.Context(), int64(shortest+k))
		check(t, err)
		leases[k] = lease.ID
		scripted(t, eye, id, 1, clientv3.WithLease(lease.ID))
	}
	scripted(t, eye, "without", 1)
	plain, err := r.List(t.Context())
	check(t, err)
	if plain[0].LeaseLeft != 0 {
		t.Errorf("a list that was not asked for leases tells of one with %v left", plain[0].LeaseLeft)
	}
	list, err := r.ListWithLeases(t.Context())
	check(t, err)
	for k, i := range list[:instances] {
		now, err := eye.TimeToLive(t.Context(), leases[k])
		check(t, err)
		least, most := time.Duration(now.TTL)*time.Second, time.Duration(now.GrantedTTL)*time.Second
		if i.LeaseLeft < least || i.LeaseLeft > most {
			t.Fatalf("%s has %v left, want %v to %v", i.ID, i.LeaseLeft, least, most)
		}
	}
	if last := list[instances]; last.ID != "without" || last.LeaseLeft != 0 {
		t.Errorf("an instance without a lease: %+v", last)
	}
	timeLists(t, "list 500 instances and their leases", 250*time.Millisecond, r.ListWithLeases)
}

func TestFleetOf500IsListedAndWatched(t *testing.T) {
	c := start(t, 1)
	eye := c.Client(t)
	r := open(t, c)
	ids := script(t, eye, 500)
	list, err := r.List(t.Context()) // connects
	check(t, err)
	if len(list) != 500 || list[0].ID != ids[0] || list[499].ID != ids[499] || list[7].Generation != 7 || !list[7].Models[0].Ready {
		t.Fatalf("listed %d instances, first %+v", len(list), list[0])
	}
	timeLists(t, "list 500 instances", 50*time.Millisecond, r.List)

	events, err := r.Watch(t.Context())
	check(t, err)
	if e := <-events; e.Snapshot == nil || len(*e.Snapshot) != 500 {
		t.Fatalf("%+v, want a snapshot of 500", e)
	}
	// Each change comes once, in etcd's order; a write that changes nothing does not come.
	random := rand.New(rand.NewPCG(3, 4))
	there := map[string]bool{}
	for _, id := range ids {
		there[id] = true
	}
	for n := range rounds(1000, 20000) {
		id := ids[random.IntN(len(ids))]
		switch {
		case there[id] && random.IntN(4) == 0:
			_, err = eye.Delete(t.Context(), prefix+"/instances/"+id)
			check(t, err)
			there[id] = false
			if e := <-events; e.RemovedID != id {
				t.Fatalf("change %d: %+v, want %s removed", n, e, id)
			}
		default:
			scripted(t, eye, id, 1+n)
			scripted(t, eye, id, 1+n)
			there[id] = true
			if e := <-events; e.Put == nil || e.Put.ID != id || e.Put.Load.Running != 1+n {
				t.Fatalf("change %d: %+v, want %s with %d requests", n, e, id, 1+n)
			}
		}
	}
	select {
	case e := <-events:
		t.Errorf("told %+v without a change", e)
	case <-time.After(50 * time.Millisecond):
	}
}

// hostile is a value that no instance wrote.
func hostile(random *rand.Rand, id string) string {
	valid := fmt.Sprintf(`{"id":%q,"address":"h:1"}`, id)
	switch random.IntN(12) {
	case 0:
		return ""
	case 1: // noise
		noise := make([]byte, random.IntN(200))
		for i := range noise {
			noise[i] = byte(random.UintN(256))
		}
		return string(noise) + "\xff"
	case 2:
		return strings.Repeat("[", 1+random.IntN(5000))
	case 3:
		return fmt.Sprintf(`{"id":%q,"address":"h:1","version":%q}`, id, strings.Repeat("v", 20<<10))
	case 4:
		return valid[:1+random.IntN(len(valid)-1)]
	case 5: // another one's
		return strings.Replace(valid, id, id+"-not", 1)
	case 6:
		return fmt.Sprintf(`{"id":%q,"address":"h:1","load":{"kvUse":"NaN"}}`, id)
	case 7:
		return fmt.Sprintf(`{"id":%q,"address":"h:1","load":{"tokensPerSecond":"Infinity"}}`, id)
	case 8:
		return fmt.Sprintf(`{"id":%q,"address":"h:1\nGET / HTTP/1.1"}`, id)
	case 9:
		return fmt.Sprintf(`{"id":%q,"address":"h:1","models":[{"name":"m"},{"name":"m"}]}`, id)
	case 10:
		return fmt.Sprintf(`{"id":%q,"address":"h:1","generation":"-1"}`, id)
	}
	return fmt.Sprintf(`{"id":%q,"address":"h:1","models":[%s{"name":"z"}]}`, id, strings.Repeat(`{"name":"a"},`, 200))
}

func TestHostileValuesAreSkippedAndCounted(t *testing.T) {
	const values = 10000
	c := start(t, 1)
	eye := c.Client(t)
	r := open(t, c)
	script(t, eye, 3)
	g := register(t, r, instance("real", "m"))
	events, err := r.Watch(t.Context())
	check(t, err)
	<-events
	random := rand.New(rand.NewPCG(5, 6))
	for n := 0; n < values; { // a hundred in each transaction
		var writes []clientv3.Op
		for range 100 {
			id := fmt.Sprintf("h%05d", n)
			key := prefix + "/instances/" + id
			if n%50 == 0 {
				key = prefix + "/instances/\x00\xff%2g/" + id // no key that Inferno writes
			}
			writes = append(writes, clientv3.OpPut(key, hostile(random, id)))
			n++
		}
		_, err := eye.Txn(t.Context()).Then(writes...).Commit()
		check(t, err)
	}
	scripted(t, eye, "after", 1)
	// Of all that the watch tells of what is well formed alone.
	for known := false; !known; {
		switch e := <-events; {
		case e.Put != nil:
			known = e.Put.ID == "after"
			if !known {
				t.Errorf("told of %+v", e.Put)
			}
		case e.Snapshot != nil:
			known = len(*e.Snapshot) == 5
		default:
			t.Errorf("%+v", e)
		}
	}
	if skipped := metric(t, r, "inferno_registry_skipped_records_total"); skipped != values {
		t.Errorf("%v values counted by the watch, want %d", skipped, values)
	}
	began := time.Now()
	list, err := r.List(t.Context())
	check(t, err)
	t.Logf("list 5 instances among %d hostile values: %v", values, time.Since(began).Round(time.Millisecond))
	if len(list) != 5 {
		t.Errorf("%d instances listed, want 5", len(list))
	}
	if skipped := metric(t, r, "inferno_registry_skipped_records_total"); skipped != 2*values {
		t.Errorf("%v values counted after a list, want %d", skipped, 2*values)
	}
	if g.Held() != nil {
		t.Errorf("the registration suffered: %v", g.Held())
	}

	// A value that goes bad under a known key is an instance that is gone.
	_, err = eye.Put(t.Context(), prefix+"/instances/after", "bad")
	check(t, err)
	if e := <-events; e.RemovedID != "after" {
		t.Errorf("%+v, want it removed", e)
	}
	check(t, g.Withdraw(t.Context()))
}

// metric is the value of one of the Registry's own.
func metric(t *testing.T, r *etcd.Registry, name string) float64 {
	t.Helper()
	gatherer := prometheus.NewPedanticRegistry()
	gatherer.MustRegister(r)
	families, err := gatherer.Gather()
	check(t, err)
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func TestMetricsTellOfRegistrationAndLoss(t *testing.T) {
	c := start(t, 1)
	eye := c.Client(t)
	r := open(t, c)
	expect := func(registered, made float64) {
		t.Helper()
		if got := metric(t, r, "inferno_registry_registered"); got != registered {
			t.Errorf("registered is %v, want %v", got, registered)
		}
		if got := metric(t, r, "inferno_registry_registrations_total"); got != made {
			t.Errorf("%v registrations, want %v", got, made)
		}
	}
	expect(0, 0)
	g := register(t, r, instance("a", "m"))
	expect(1, 1)
	if left := metric(t, r, "inferno_registry_lease_seconds"); left <= 0 || left > 5 {
		t.Errorf("%v s left of a lease of 5 s", left)
	}
	_, lease, _ := stored(t, eye, prefix+"/instances/a")
	_, err := eye.Revoke(t.Context(), lease)
	check(t, err)
	eventually(t, "registered again", func() bool { return metric(t, r, "inferno_registry_registrations_total") == 2 && g.Held() == nil })
	expect(1, 2)
	if got := metric(t, r, "inferno_registry_losses_total"); got != 1 {
		t.Errorf("%v losses, want 1", got)
	}
	c.Members[0].Proxy.Set(etcdtest.Fault{Silent: true})
	eventually(t, "the lease has run out, as far as is known", func() bool { return metric(t, r, "inferno_registry_lease_seconds") == 0 })
	c.Members[0].Proxy.Set(etcdtest.Fault{})
	eventually(t, "a lease again", func() bool { return metric(t, r, "inferno_registry_lease_seconds") > 0 && g.Held() == nil })
	withdraw(t, g, eye)
	if left := metric(t, r, "inferno_registry_lease_seconds"); left != 0 {
		t.Errorf("%v s left of the lease of a registration that was withdrawn", left)
	}
}
