package client

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/resolver"
)

// hostileRecords are no endpoints, whatever is put before or behind their text.
var hostileRecords = []string{
	"", "null", "[]", "{", `"x"`, `{"Op":1,"Addr":"127.0.0.1:1"}`, `{"Addr":""}`, `{"Addr":"host"}`, `{"Addr":"a b:1"}`, `{"Addr":7}`,
	`{"Addr":"127.0.0.1:0"}`, `{"Addr":"127.0.0.1:1","Metadata":{"max_batch":-1}}`, `{"Addr":"127.0.0.1:1","Metadata":{"max_batch":1e9}}`,
	`{"Addr":"` + strings.Repeat("a", 300) + `:1"}`, strings.Repeat("[", 20000), "\xff\xfe\x00",
}

// hostileRecord is one of them, or noise.
func hostileRecord(random *rand.Rand) string {
	if n := random.IntN(len(hostileRecords) + 4); n < len(hostileRecords) {
		return hostileRecords[n]
	}
	noise := make([]byte, random.IntN(300))
	for i := range noise {
		noise[i] = byte(random.UintN(256))
	}
	return string(noise) + "\xff"
}

// channel is what a resolver tells of addresses.
type channel struct {
	resolver.ClientConn
	lists chan []resolver.Endpoint
}

func (c channel) UpdateState(s resolver.State) error {
	c.lists <- s.Endpoints
	return nil
}

func (c channel) ReportError(error) {}

// until waits for a list of so many.
func (c channel) until(n int) {
	for len(<-c.lists) != n {
	}
}

// Ten thousand values that are no records, there before a client lists the instances and put while it watches, are skipped and counted,
// and its calls go to the instances between them.
func TestHostileRecordsCostNothing(t *testing.T) {
	const values = 10_000
	r, i := startRegistry(t), serve(t)
	random := rand.New(rand.NewPCG(7, 8))
	number := 0
	spoil := func(n int) {
		t.Helper()
		for range n / 100 {
			var writes []clientv3.Op
			for range 100 {
				writes = append(writes, clientv3.OpPut(endpointKey(fmt.Sprintf("bad%05d", number)), hostileRecord(random)))
				number++
			}
			if _, err := r.eye.Txn(t.Context()).Then(writes...).Commit(); err != nil {
				t.Fatal(err)
			}
		}
	}
	spoil(values / 2)
	r.announce("good", i.address(0), 1)
	r.put("stock", fmt.Sprintf(`{"Op":0,"Addr":%q,"Metadata":"not ours"}`, i.address(1)))

	heard := channel{lists: make(chan []resolver.Endpoint, 16)}
	f := follow(t, r, heard)
	heard.until(2)
	c := r.client("")
	usedOf := func(n int) {
		t.Helper()
		until(t, fmt.Sprint(n, " sound records are used"), func() bool {
			mustCall(t, c)
			addresses, _ := i.seen()
			return addresses == n
		})
	}
	usedOf(2)
	spoil(values / 2)
	r.announce("late", i.address(2), 1)
	heard.until(3)
	skipped, gaps := metric(t, f, "inferno_registry_skipped_records_total"), metric(t, f, "inferno_registry_resyncs_total")
	if skipped < values || skipped > values && gaps == 0 { // a list anew meets them anew
		t.Errorf("%v values were counted, want %d", skipped, values)
	}
	usedOf(3)
	// A record that goes bad is an instance that is gone.
	r.put("late", "bad")
	heard.until(2)
}

// follow runs a resolver as gRPC does.
func follow(t *testing.T, r registry, cc resolver.ClientConn) *follower {
	t.Helper()
	l, _, err := parseLookup("inferno:///llama-3?etcd=" + strings.Join(r.Endpoints(), ","))
	if err != nil {
		t.Fatal(err)
	}
	f, err := builder{lookup: l}.Build(resolver.Target{}, cc, resolver.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f.(*follower)
}

// metric is one of a resolver's own.
func metric(t *testing.T, f *follower, name string) float64 {
	t.Helper()
	gatherer := prometheus.NewPedanticRegistry()
	gatherer.MustRegister(f.registry)
	families, err := gatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("the resolver has no %s", name)
	return 0
}
