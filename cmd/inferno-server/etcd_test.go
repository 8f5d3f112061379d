package main_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/resolver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/inferno-serve/inferno/internal/discovery/etcd/etcdtest"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// startInstance runs a server with the tiny model that registers in c.
func startInstance(t *testing.T, c *etcdtest.Cluster, args ...string) *process {
	t.Helper()
	return startServer(t, append([]string{
		"--model", "tiny=" + tiny, "--etcd-endpoints", strings.Join(c.Endpoints(), ","), "--lease-ttl", "2s", "--threads", "1",
	}, args...)...)
}

// load is steady requests to one server, by one connection, each as soon as the one before is answered.
type load struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu     sync.Mutex
	served int
	failed []error
}

func (p *process) underLoad(t *testing.T) *load {
	t.Helper()
	client := infernov1.NewInferenceServiceClient(p.dial())
	ctx, stop := context.WithCancel(t.Context())
	l := &load{stop: stop}
	l.done.Go(func() {
		for ctx.Err() == nil {
			_, err := client.Generate(context.WithoutCancel(ctx), generate(1))
			l.mu.Lock()
			if err == nil {
				l.served++
			} else {
				l.failed = append(l.failed, err)
			}
			l.mu.Unlock()
			time.Sleep(5 * time.Millisecond)
		}
	})
	t.Cleanup(func() { l.end() })
	return l
}

func (l *load) so() (served int, failed []error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.served, l.failed
}

func (l *load) end() (served int, failed []error) {
	l.stop()
	l.done.Wait()
	return l.so()
}

// waitInstances waits until the server lists so many instances.
func (p *process) waitInstances(n int) []*infernov1.Instance {
	p.t.Helper()
	client := infernov1.NewRegistryServiceClient(p.dial())
	var list *infernov1.ListInstancesResponse
	p.waitFor(fmt.Sprint(n, " instances"), func() bool {
		var err error
		list, err = client.ListInstances(p.t.Context(), &infernov1.ListInstancesRequest{})
		return err == nil && len(list.GetInstances()) == n
	})
	return list.GetInstances()
}

// waitRegistration waits until the component of that name is in the state, and returns its reason.
func (p *process) waitRegistration(state infernov1.HealthState) (reason string) {
	p.t.Helper()
	client := infernov1.NewHealthServiceClient(p.dial())
	p.waitFor("registration "+state.String(), func() bool {
		report, err := client.Check(p.t.Context(), &infernov1.CheckRequest{Components: []string{"registration"}})
		if err != nil {
			return false
		}
		component := report.GetReport().GetComponents()[0]
		reason = component.GetReason()
		return component.GetState() == state
	})
	return reason
}

func (p *process) waitFor(what string, is func() bool) {
	p.t.Helper()
	for began := time.Now(); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			p.t.Fatalf("not within a minute: %s", what)
		}
	}
}

func TestInstancesFindEachOtherThroughEtcd(t *testing.T) {
	c := etcdtest.Start(t, 1)
	eye := c.Client(t)
	a, b := startInstance(t, c, "--instance-id", "a"), startInstance(t, c, "--instance-id", "b")
	a.waitServing()
	list := a.waitInstances(2)
	if list[0].GetId() != "a" || list[0].GetAddress() != a.grpc || list[1].GetId() != "b" || list[1].GetAddress() != b.grpc {
		t.Fatalf("a lists %v", list)
	}
	m := list[1].GetModels()[0]
	if m.GetName() != "tiny" || m.GetRevision() == "" || m.GetMaxContext() == 0 || m.GetState() != infernov1.ModelState_MODEL_STATE_READY {
		t.Errorf("b's model is %v", m)
	}

	// A client that knows nothing of Inferno: etcd's resolver and gRPC's round robin.
	stock, err := resolver.NewBuilder(eye)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("etcd:///inferno/v1/endpoints/tiny", grpc.WithResolvers(stock),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	finished := func(p *process) bool {
		return strings.Contains(p.metrics(), `inferno_requests_finished_total{model="tiny"`)
	}
	a.waitFor("both serve requests of a stock client", func() bool {
		if _, err := infernov1.NewInferenceServiceClient(conn).Generate(t.Context(), generate(1)); err != nil {
			t.Fatal(err)
		}
		return finished(a) && finished(b)
	})

	// A watch by way of one server tells of the other's end.
	watch, err := infernov1.NewRegistryServiceClient(a.dial()).WatchInstances(t.Context(), &infernov1.WatchInstancesRequest{Model: "tiny"})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := watch.Recv(); err != nil || len(first.GetSnapshot().GetInstances()) != 2 {
		t.Fatalf("%v (%v), want a snapshot of two", first, err)
	}
	b.signal(syscall.SIGTERM)
	for {
		next, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if next.GetRemovedId() == "b" {
			break
		}
	}
	if code := b.exit(); code != 0 {
		t.Errorf("b ended with %d, want 0", code)
	}
	a.signal(syscall.SIGTERM)
	a.exit()
	wantNothingLeft(t, eye)
}

// Until the key is gone, no request is refused.
func TestDrainWithdrawsBeforeItRefuses(t *testing.T) {
	c := etcdtest.Start(t, 1)
	eye := c.Client(t)
	slowest := time.Duration(0)
	for range rounds(3, 50) {
		p := startInstance(t, c, "--instance-id", "a", "--drain-delay", "300ms")
		p.waitServing()
		p.waitInstances(1)
		ctx, unwatch := context.WithCancel(t.Context())
		watch := eye.Watch(ctx, "inferno/v1/instances/a")
		requests := p.underLoad(t)
		p.waitFor("some requests", func() bool { served, _ := requests.so(); return served > 10 })
		p.signal(syscall.SIGTERM)
		asked := time.Now()
		for gone := false; !gone; {
			for _, e := range (<-watch).Events {
				gone = gone || e.Type == clientv3.EventTypeDelete
			}
		}
		served, failed := requests.so()
		slowest = max(slowest, time.Since(asked))
		unwatch()
		if len(failed) > 0 {
			t.Errorf("%d of %d requests failed before the key was gone, the first with %v", len(failed), served+len(failed), failed[0])
		}
		if code := p.exit(); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
		requests.end()
	}
	t.Logf("key gone %v after SIGTERM at most", slowest.Round(time.Millisecond))
	if limit := 500 * time.Millisecond; *soak && slowest > limit {
		t.Errorf("a key went %v after SIGTERM, want at most %v", slowest, limit)
	}
	wantNothingLeft(t, eye)
}

// wantNothingLeft looks for keys and leases of instances that have ended in order.
func wantNothingLeft(t *testing.T, eye *clientv3.Client) {
	t.Helper()
	left, err := eye.Get(t.Context(), "", clientv3.WithPrefix())
	if err != nil || left.Count != 0 {
		t.Errorf("%d keys left in etcd (%v), want none", left.Count, err)
	}
	if leases, err := eye.Leases(t.Context()); err != nil || len(leases.Leases) != 0 {
		t.Errorf("%v leases left (%v), want none", leases, err)
	}
}

func TestEtcdThatGoesAndComesCostsNoRequest(t *testing.T) {
	c := etcdtest.Start(t, 1)
	p := startInstance(t, c)
	p.waitServing()
	p.waitInstances(1)
	requests := p.underLoad(t)
	outages := []time.Duration{time.Second, 5 * time.Second} // less than the lease, and more
	if *soak {
		outages = append(outages, 20*time.Second, 10*time.Minute)
	}
	for _, outage := range outages {
		c.Members[0].Kill()
		if outage > 2*time.Second {
			reason := p.waitRegistration(infernov1.HealthState_HEALTH_STATE_DEGRADED)
			t.Logf("while etcd is away: %s", reason)
			if !strings.Contains(reason, "etcd at "+c.Endpoints()[0]) {
				t.Errorf("the reason is %q, want one that names etcd", reason)
			}
			_, err := infernov1.NewRegistryServiceClient(p.dial()).ListInstances(t.Context(), &infernov1.ListInstancesRequest{})
			if status.Code(err) != codes.Unavailable {
				t.Errorf("listed without etcd: %v, want UNAVAILABLE", err)
			}
		}
		time.Sleep(outage)
		c.Members[0].Start()
		c.Members[0].WaitReady()
		p.waitRegistration(infernov1.HealthState_HEALTH_STATE_SERVING)
		if list := p.waitInstances(1); list[0].GetAddress() != p.grpc {
			t.Errorf("after the outage %v is registered", list)
		}
	}
	if served, failed := requests.end(); len(failed) > 0 || served == 0 {
		t.Errorf("%d of %d requests failed, want none: %v", len(failed), served+len(failed), failed)
	} else {
		t.Logf("%d requests, none failed", served)
	}
	if metrics := p.metrics(); !strings.Contains(metrics, "\ninferno_registry_registered 1\n") {
		t.Error("inferno_registry_registered is not 1")
	}
}
