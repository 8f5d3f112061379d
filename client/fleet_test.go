package client

import (
	"context"
	"flag"
	"fmt"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	orcapb "github.com/cncf/xds/go/xds/data/orca/v3"
	orcaservice "github.com/cncf/xds/go/xds/service/orca/v3"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/inferno-serve/inferno/internal/discovery/etcd/etcdtest"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

var soak = flag.Bool("soak", false, "as many instances as docs/reliability.md says, and limits on times")

// instances are servers that answer dry runs and count them by the address that they came to. One listener has all of 127.0.0.0/8, so
// that it is as many instances as a test likes.
type instances struct {
	infernov1.UnimplementedInferenceServiceServer
	orcaservice.UnimplementedOpenRcaServiceServer
	port   string
	server *grpc.Server
	health *health.Server
	fail   atomic.Bool // UNAVAILABLE, before any header

	mu    sync.Mutex
	calls map[string]int // by address
}

func serve(t *testing.T) *instances {
	t.Helper()
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	i := &instances{port: port, server: grpc.NewServer(grpc.WaitForHandlers(true)), health: health.NewServer(), calls: map[string]int{}}
	infernov1.RegisterInferenceServiceServer(i.server, i)
	healthgrpc.RegisterHealthServer(i.server, i.health)
	orcaservice.RegisterOpenRcaServiceServer(i.server, i)
	served := make(chan error, 1)
	go func() { served <- i.server.Serve(l) }()
	t.Cleanup(func() {
		i.server.Stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return i
}

// address of instance n of this listener.
func (i *instances) address(n int) string {
	return fmt.Sprintf("127.1.%d.%d:%s", n/250, 1+n%250, i.port)
}

func (i *instances) Generate(ctx context.Context, _ *infernov1.GenerateRequest) (*infernov1.GenerateResponse, error) {
	p, _ := peer.FromContext(ctx)
	i.mu.Lock()
	i.calls[p.LocalAddr.String()]++
	i.mu.Unlock()
	if i.fail.Load() {
		return nil, status.Error(codes.Unavailable, "draining")
	}
	return &infernov1.GenerateResponse{DryRun: &infernov1.DryRun{Fits: true}}, nil
}

// StreamCoreMetrics reports an idle instance, as often as asked.
func (i *instances) StreamCoreMetrics(
	req *orcaservice.OrcaLoadReportRequest, stream orcaservice.OpenRcaService_StreamCoreMetricsServer,
) error {
	ticker := time.NewTicker(req.GetReportInterval().AsDuration())
	defer ticker.Stop()
	for {
		if err := stream.Send(&orcapb.OrcaLoadReport{}); err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (i *instances) seen() (addresses, calls int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, n := range i.calls {
		calls += n
	}
	return len(i.calls), calls
}

// registry is an etcd with the test's own hand in it.
type registry struct {
	*etcdtest.Cluster
	t   *testing.T
	eye *clientv3.Client
}

func startRegistry(t *testing.T) registry {
	t.Helper()
	if testing.Short() {
		t.Skip("runs etcd processes")
	}
	known := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, known) })
	c := etcdtest.Start(t, 1)
	t.Cleanup(func() { // what was opened since has been closed by now
		if !t.Failed() {
			until(t, "no connection to etcd left", func() bool { return c.Connections() == 0 })
		}
	})
	return registry{c, t, c.Client(t)}
}

func endpointKey(id string) string { return "inferno/v1/endpoints/llama-3/" + id }

func (r registry) put(id, value string) {
	r.t.Helper()
	if _, err := r.eye.Put(r.t.Context(), endpointKey(id), value); err != nil {
		r.t.Fatal(err)
	}
}

func (r registry) announce(id, address string, weight int) {
	r.t.Helper()
	r.put(id, fmt.Sprintf(`{"Op":0,"Addr":%q,"Metadata":{"instance":%q,"max_batch":%d}}`, address, id, weight))
}

func (r registry) withdraw(id string) {
	r.t.Helper()
	if _, err := r.eye.Delete(r.t.Context(), endpointKey(id)); err != nil {
		r.t.Fatal(err)
	}
}

func (r registry) client(parameters string) *Client {
	r.t.Helper()
	c, err := Dial("inferno:///llama-3?etcd=" + strings.Join(r.Endpoints(), ",") + parameters)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

func call(t *testing.T, c *Client) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, _, err := c.DryRun(ctx, &infernov1.GenerateRequest{Model: "llama-3"})
	return err
}

func mustCall(t *testing.T, c *Client) {
	t.Helper()
	if err := call(t, c); err != nil {
		t.Fatal(err)
	}
}

// until calls until it is so; the minute is a limit of the test.
func until(t *testing.T, what string, is func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for ; !is(); time.Sleep(2 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatalf("not within a minute: %s", what)
		}
	}
	return time.Since(began)
}

func TestInstancesGetCallsByWeight(t *testing.T) {
	n, turns := 60, 16 // turns: calls a unit of weight
	if *soak {
		n, turns = 500, 32
	}
	r, i := startRegistry(t), serve(t)
	sum := 0
	weights := map[string]int{}
	for k := range n {
		w := 4 * (1 + k%4)
		sum += w
		weights[i.address(k)] = w
		r.announce(fmt.Sprint("i", k), i.address(k), w)
	}
	c := r.client("")
	connected := until(t, "all instances have had a call", func() bool {
		mustCall(t, c)
		addresses, _ := i.seen()
		return addresses == n
	})
	t.Logf("calls go to all of %d instances after %v", n, connected.Round(time.Millisecond))
	i.mu.Lock()
	clear(i.calls) // from here on all are connected
	i.mu.Unlock()
	// A process that stands still for a moment hears no reports, and sends elsewhere: what one round makes of that, the next ones put right.
	worst := 1.0
	for round := 1; worst > 0.10 && round <= 3; round++ {
		var callers sync.WaitGroup
		for range 8 {
			callers.Go(func() {
				for range sum * turns / 8 {
					if err := call(t, c); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		callers.Wait()
		worst = 0
		for address, w := range weights {
			worst = max(worst, math.Abs(float64(i.calls[address])/float64(w*turns*round)-1))
		}
		t.Logf("%d calls: the instance furthest from its share is off by %.1f %%", sum*turns*round, 100*worst)
	}
	if worst > 0.10 {
		t.Errorf("off by %.1f %%, want at most 10 %%", 100*worst)
	}
}

func TestRegistryThatGoesCostsNoCall(t *testing.T) {
	r, i := startRegistry(t), serve(t)
	r.announce("a", i.address(0), 1)
	c := r.client("")
	mustCall(t, c)
	for range 2 {
		r.Members[0].Kill()
		for began := time.Now(); time.Since(began) < 3*time.Second; { // longer than a list's deadline
			mustCall(t, c)
		}
		r.Members[0].Start()
		r.Members[0].WaitReady()
	}
	r.announce("b", i.address(1), 1)
	took := until(t, "an instance that came after the outage is used", func() bool {
		mustCall(t, c)
		addresses, _ := i.seen()
		return addresses == 2
	})
	t.Logf("found %v after it was there", took.Round(time.Millisecond))
}

// What the client watches is compacted away while it cannot read on.
func TestListIsReadAgainAfterCompaction(t *testing.T) {
	r, i := startRegistry(t), serve(t)
	r.announce("a", i.address(0), 1)
	c := r.client("")
	mustCall(t, c)
	r.Members[0].Proxy.Set(etcdtest.Fault{Cut: true})
	r.announce("b", i.address(1), 1)
	status, err := r.eye.Put(t.Context(), "other", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.eye.Compact(t.Context(), status.Header.Revision); err != nil {
		t.Fatal(err)
	}
	r.Members[0].Proxy.Set(etcdtest.Fault{})
	until(t, "the instance that came meanwhile is used", func() bool {
		mustCall(t, c)
		addresses, _ := i.seen()
		return addresses == 2
	})
}

func TestCallWithoutRegistryOrInstanceEndsSoon(t *testing.T) {
	r := startRegistry(t)
	err := call(t, r.client(""))
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), `no instance serves model "llama-3"`) {
		t.Errorf("without an instance: %v, want UNAVAILABLE and the reason", err)
	}
	r.Members[0].Kill()
	err = call(t, r.client(""))
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "registry does not answer") {
		t.Errorf("without etcd: %v, want UNAVAILABLE and the reason", err)
	}
}

// An instance that says NOT_SERVING, refuses, is withdrawn or dies gets no calls; none of those that it had not begun fails.
func TestInstancesThatStopServingLoseNoCall(t *testing.T) {
	r, stays, goes := startRegistry(t), serve(t), serve(t)
	r.announce("stays", stays.address(0), 8)
	r.announce("goes", goes.address(0), 8)
	c := r.client("")
	used := func() {
		until(t, "it has calls", func() bool {
			_, before := goes.seen()
			mustCall(t, c)
			_, after := goes.seen()
			return after > before
		})
	}
	idle := func(what string) {
		took := until(t, what, func() bool {
			_, before := goes.seen()
			for range 50 {
				mustCall(t, c)
			}
			_, after := goes.seen()
			return after == before
		})
		t.Logf("%s: 50 calls in a row go elsewhere after %v", what, took.Round(time.Millisecond))
		if limit := time.Second; *soak && took > limit {
			t.Errorf("%s: it has calls after %v, want none after %v", what, took, limit)
		}
	}
	used()
	goes.health.SetServingStatus("", healthgrpc.HealthCheckResponse_NOT_SERVING)
	idle("NOT_SERVING")
	goes.health.SetServingStatus("", healthgrpc.HealthCheckResponse_SERVING)
	used()
	goes.fail.Store(true)
	idle("refuses")
	goes.fail.Store(false)
	used()
	r.withdraw("goes")
	idle("withdrawn")
	r.announce("goes", goes.address(0), 8)
	used()
	goes.server.Stop()
	idle("dead")
	_, before := stays.seen()
	// The registry has lost all: what serves is used on.
	if _, err := r.eye.Delete(t.Context(), endpointKey(""), clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		mustCall(t, c)
	}
	if _, after := stays.seen(); after != before+100 {
		t.Errorf("%d of 100 calls went to the instance that serves", after-before)
	}
}
