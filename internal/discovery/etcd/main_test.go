package etcd_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/inferno-serve/inferno/internal/discovery"
	"github.com/inferno-serve/inferno/internal/discovery/etcd"
	"github.com/inferno-serve/inferno/internal/discovery/etcd/etcdtest"
)

// The tests run real etcd processes. By default each scenario runs a few rounds, and asserts order and counts; with -soak it runs as often
// as docs/reliability.md says, and its times are held to the limits that stand there.
var soak = flag.Bool("soak", false, "full rounds, and limits on times")

const prefix = "inferno/v1"

// asInstance has the test's program register an instance and wait to be killed: ENDPOINT ID.
const asInstance = "ETCD_TEST_INSTANCE"

func TestMain(m *testing.M) {
	if what := os.Getenv(asInstance); what != "" {
		os.Exit(beInstance(what))
	}
	goleak.VerifyTestMain(m)
}

func beInstance(what string) int {
	endpoint, id, _ := strings.Cut(what, " ")
	r, err := etcd.Open(etcd.Options{
		Endpoints: []string{endpoint}, Prefix: prefix, LeaseTTL: 5 * time.Second, Log: slog.New(slog.DiscardHandler),
	})
	if err == nil {
		_, err = r.Register(context.Background(), instance(id))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("registered")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // ends with the test
	return 0
}

// rounds is how often a scenario is played.
func rounds(short, long int) int {
	if *soak {
		return long
	}
	return short
}

// figure prints a time and, in a soak, holds it to its limit.
func figure(t *testing.T, what string, took, limit time.Duration) {
	t.Helper()
	t.Logf("%s: %v (limit %v)", what, took.Round(time.Millisecond), limit)
	if *soak && took > limit {
		t.Errorf("%s took %v, want at most %v", what, took, limit)
	}
}

func instance(id string, models ...string) discovery.Instance {
	i := discovery.Instance{
		ID: id, Address: "127.0.0.1:50051", State: discovery.Serving, Version: "v1", StartTime: time.Now(),
		Load: discovery.Load{Running: 3, Queued: 1, KVUse: 0.25, TokensPerSecond: 70.5},
	}
	for _, m := range models {
		i.Models = append(i.Models, discovery.Model{Name: m, Revision: "r1", Ready: true, MaxContext: 8192})
	}
	return i
}

// open makes a Registry that ends with the test, and checks that it leaves no goroutine behind.
func open(t *testing.T, c *etcdtest.Cluster, change ...func(*etcd.Options)) *etcd.Registry {
	t.Helper()
	o := etcd.Options{Endpoints: c.Endpoints(), Prefix: prefix, LeaseTTL: 5 * time.Second, Log: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&o)
	}
	r, err := etcd.Open(o)
	check(t, err)
	t.Cleanup(func() { check(t, r.Close()) })
	return r
}

func ttl(d time.Duration) func(*etcd.Options) { return func(o *etcd.Options) { o.LeaseTTL = d } }

// start is etcdtest.Start for a test that leaves nothing behind: neither goroutines nor connections.
func start(t *testing.T, members int, flags ...string) *etcdtest.Cluster {
	t.Helper()
	return leavingNothing(t, func() *etcdtest.Cluster { return etcdtest.Start(t, members, flags...) })
}

func leavingNothing(t *testing.T, run func() *etcdtest.Cluster) *etcdtest.Cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("runs etcd processes")
	}
	known := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, known) })
	c := run()
	t.Cleanup(func() { // what was opened since has been closed by now
		if !t.Failed() {
			eventually(t, "no connection to etcd left", func() bool { return c.Connections() == 0 })
		}
	})
	return c
}

// register makes i known, as an Announcer does: again after each failure.
func register(t *testing.T, r discovery.Provider, i discovery.Instance) discovery.Registration {
	t.Helper()
	var g discovery.Registration
	eventually(t, "registered", func() bool {
		var err error
		g, err = r.Register(t.Context(), i)
		return err == nil
	})
	return g
}

// withdraw ends a registration and checks that no lease and no key is left.
func withdraw(t *testing.T, g discovery.Registration, c *clientv3.Client) {
	t.Helper()
	check(t, g.Withdraw(t.Context()))
	eventually(t, "no lease left", func() bool {
		leases, err := c.Leases(t.Context())
		return err == nil && len(leases.Leases) == 0
	})
	left, err := c.Get(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	check(t, err)
	if left.Count != 0 {
		t.Errorf("%d keys left after the withdrawal", left.Count)
	}
}

// eventually waits until true, and says how long that took. The minute is no limit of what is tested, but of the test.
func eventually(t *testing.T, what string, is func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !is() {
		if time.Since(began) > time.Minute {
			t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return time.Since(began)
}

func held(g discovery.Registration) func() bool {
	return func() bool { return g.Held() == nil }
}

func lost(g discovery.Registration) func() bool {
	return func() bool { return g.Held() != nil }
}

// stored is the instance that etcd holds, by the test's own client.
func stored(t *testing.T, c *clientv3.Client, key string) (value string, lease clientv3.LeaseID, there bool) {
	t.Helper()
	answer, err := c.Get(t.Context(), key)
	check(t, err)
	if len(answer.Kvs) == 0 {
		return "", 0, false
	}
	return string(answer.Kvs[0].Value), clientv3.LeaseID(answer.Kvs[0].Lease), true
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
