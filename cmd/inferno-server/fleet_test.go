package main_test

import (
	"context"
	"flag"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"

	"github.com/inferno-serve/inferno/client"
	"github.com/inferno-serve/inferno/internal/discovery/etcd/etcdtest"
)

var soak = flag.Bool("soak", false, "as many restarts and kills as docs/reliability.md says")

func rounds(short, long int) int {
	if *soak {
		return long
	}
	return short
}

// fleetLoad is steady requests through the client, each caller's next one as soon as the one before is answered.
type fleetLoad struct {
	fleet   *client.Client
	stop    context.CancelFunc
	callers sync.WaitGroup
	served  atomic.Int64

	mu   sync.Mutex
	lost []error              // of requests that no server had begun to answer
	cut  int                  // requests that had their first token, and not their last
	sent map[string]time.Time // by address: when a request last went there
}

// TagRPC, HandleRPC, TagConn and HandleConn make it gRPC's stats.Handler, which hears of each header that goes out, and where to.
func (l *fleetLoad) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (l *fleetLoad) HandleRPC(_ context.Context, s stats.RPCStats) {
	if header, ok := s.(*stats.OutHeader); ok && strings.HasSuffix(header.FullMethod, "/GenerateStream") {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.sent[header.RemoteAddr.String()] = time.Now()
	}
}

func (l *fleetLoad) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (l *fleetLoad) HandleConn(context.Context, stats.ConnStats) {}

// after is how long after a moment the last request went to an address.
func (l *fleetLoad) after(address string, moment time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	last, known := l.sent[address]
	if !known {
		panic("no request ever went to " + address)
	}
	return last.Sub(moment)
}

// underFleetLoad calls whatever instances of model tiny are in c.
func underFleetLoad(t *testing.T, c *etcdtest.Cluster, callers int) *fleetLoad {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var err error
	l := &fleetLoad{stop: stop, sent: map[string]time.Time{}}
	l.fleet, err = client.New(client.Options{
		Addr:        "inferno:///tiny?etcd=" + strings.Join(c.Endpoints(), ","),
		DialOptions: []grpc.DialOption{grpc.WithStatsHandler(l)},
	})
	if err != nil {
		t.Fatal(err)
	}
	for range callers {
		l.callers.Go(func() {
			for ctx.Err() == nil {
				l.request(context.WithoutCancel(ctx))
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	t.Cleanup(func() {
		l.end()
		l.fleet.Close()
	})
	return l
}

func (l *fleetLoad) request(ctx context.Context) {
	started := false
	var failed error
	for event, err := range l.fleet.Stream(ctx, generate(4)) {
		_, isStart := event.(client.Start)
		started = started || isStart
		failed = err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case failed == nil:
		l.served.Add(1)
	case started:
		l.cut++
	default:
		l.lost = append(l.lost, failed)
	}
}

func (l *fleetLoad) end() {
	l.stop()
	l.callers.Wait()
}

// more waits for n more answers.
func (l *fleetLoad) more(p *process, n int64) {
	p.t.Helper()
	target := l.served.Load() + n
	p.waitFor("answers", func() bool { return l.served.Load() >= target })
}

func (l *fleetLoad) wantNoneLost(t *testing.T) {
	t.Helper()
	l.end()
	t.Logf("%d requests answered, %d cut in the middle, %d lost", l.served.Load(), l.cut, len(l.lost))
	if len(l.lost) > 0 {
		t.Errorf("%d requests that no server had begun failed, the first with %v", len(l.lost), l.lost[0])
	}
}

// waitTaking waits until the server has finished requests since it started.
func (p *process) waitTaking() {
	p.t.Helper()
	p.waitFor("requests reach the instance", func() bool {
		return strings.Contains(p.metrics(), `inferno_requests_finished_total{model="tiny"`)
	})
}

func TestRollingRestartsLoseNoRequest(t *testing.T) {
	c := etcdtest.Start(t, 1)
	start := func() *process { return startInstance(t, c, "--drain-delay", "300ms") }
	fleet := []*process{start(), start(), start()}
	for _, p := range fleet {
		p.waitServing()
	}
	fleet[0].waitInstances(3)
	l := underFleetLoad(t, c, 6)
	for n := range rounds(3, 100) {
		at := n % len(fleet)
		fleet[at].waitTaking()
		fleet[at].signal(syscall.SIGTERM)
		if code := fleet[at].exit(); code != 0 {
			t.Errorf("restart %d: exit code %d, want 0", n, code)
		}
		fleet[at] = start()
		fleet[at].waitServing()
		fleet[at].waitTaking()
		l.more(fleet[at], int64(rounds(20, 100)))
	}
	l.wantNoneLost(t)
	for _, p := range fleet {
		p.signal(syscall.SIGTERM)
		p.exit()
	}
	wantNothingLeft(t, c.Client(t))
	if l.cut > 0 {
		t.Errorf("%d streams were cut by a drain", l.cut)
	}
	if n := l.served.Load(); *soak && n < 10_000 {
		t.Errorf("%d requests, want 10,000 or more", n)
	}
}

func TestKilledInstanceLosesNoRequestThatItHadNotBegun(t *testing.T) {
	c := etcdtest.Start(t, 1)
	stays := startInstance(t, c)
	stays.waitServing()
	l := underFleetLoad(t, c, 4)
	last := time.Duration(0)
	for range rounds(2, 100) {
		p := startInstance(t, c)
		p.waitServing()
		p.waitTaking()
		killed := time.Now()
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		p.exit()
		l.more(stays, 50)
		last = max(last, l.after(p.grpc, killed))
	}
	wantLastWithinASecond(t, last)
	l.wantNoneLost(t)
}

// wantLastWithinASecond holds a soak to when the last request went to an instance that was gone.
func wantLastWithinASecond(t *testing.T, last time.Duration) {
	t.Helper()
	t.Logf("the last request went to it %v afterwards", max(last, 0).Round(time.Millisecond))
	if *soak && last > time.Second {
		t.Errorf("a request went to it after %v, want at most 1 s", last)
	}
}

// A server that stands still keeps its connections, and its lease for a while. Its reports tell.
func TestInstanceThatStandsStillGetsNoRequestsAfterASecond(t *testing.T) {
	c := etcdtest.Start(t, 1)
	stays, p := startInstance(t, c), startInstance(t, c, "--lease-ttl", "60s")
	stays.waitServing()
	p.waitServing()
	l := underFleetLoad(t, c, 16)
	stays.waitTaking()
	p.waitTaking()
	p.signal(syscall.SIGSTOP)
	stopped := time.Now()
	// Callers that wait for it ask for nothing more: others come meanwhile.
	for time.Since(stopped) < 3*time.Second {
		l.callers.Go(func() { l.request(context.WithoutCancel(t.Context())) })
		time.Sleep(10 * time.Millisecond)
	}
	wantLastWithinASecond(t, l.after(p.grpc, stopped))
	p.signal(syscall.SIGCONT)
	l.wantNoneLost(t)
}
