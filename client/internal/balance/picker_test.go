package balance

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	orcapb "github.com/cncf/xds/go/xds/data/orca/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connection stands for a SubConn: a picker only hands it back.
type connection struct {
	balancer.SubConn
	name string
}

// replicas makes a picker over len(weights) idle replicas.
func replicas(affinity bool, weights ...float64) (*picker, []*replica) {
	var members []member
	var all []*replica
	for i, w := range weights {
		name := fmt.Sprintf("10.0.%d.%d:50051", i/256, i%256)
		r := newReplica(&connection{name: name}, name)
		all = append(all, r)
		members = append(members, member{replica: r, weight: w})
	}
	return newPicker(members, affinity), all
}

// pick begins a call and says where.
func pick(ctx context.Context, t *testing.T, p *picker) (name string, end func(balancer.DoneInfo)) {
	t.Helper()
	result, err := p.Pick(balancer.PickInfo{Ctx: ctx})
	if err != nil {
		t.Fatal(err)
	}
	return result.SubConn.(*connection).name, result.Done
}

func loaded(requests, kvUse float64) *orcapb.OrcaLoadReport {
	return &orcapb.OrcaLoadReport{NamedMetrics: map[string]float64{metricRunning: requests, metricKVUse: kvUse}}
}

// Whether calls end at once, or as many run as the fleet can take, each replica has its weight's share.
func TestFiveHundredReplicasShareByWeight(t *testing.T) {
	var weights []float64
	sum := 0.0
	for i := range 500 {
		weights = append(weights, float64(8*(1+i%8))) // requests at once
		sum += weights[i]
	}
	const turns = 20 // calls a unit of weight
	for _, underWay := range []int{1, int(sum) / 2} {
		p, all := replicas(false, weights...)
		var running []func(balancer.DoneInfo)
		for range int(sum) * turns {
			if len(running) == underWay {
				running[0](balancer.DoneInfo{})
				running = running[1:]
			}
			_, end := pick(t.Context(), t, p)
			running = append(running, end)
		}
		worst := 0.0
		for i, r := range all {
			worst = max(worst, math.Abs(float64(r.picked.Load())/(weights[i]*turns)-1))
		}
		t.Logf("%d under way: the furthest from its share is off by %.1f %%", underWay, 100*worst)
		if worst > 0.10 {
			t.Errorf("a replica is off its weight by %.1f %%, want at most 10 %%", 100*worst)
		}
	}
}

func TestCallsGoWhereReportsAreLow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, all := replicas(false, 8, 8)
		all[0].take(loaded(40, 0.5))
		all[1].take(loaded(10, 0.5))
		for range 30 { // up to 40 each, but where chance drew the busy one twice
			pick(t.Context(), t, p)
		}
		if a, b := all[0].own.Load(), all[1].own.Load(); a > b {
			t.Errorf("the busy replica has %d more requests, the other %d", a, b)
		}
		time.Sleep(staleAfter + time.Second)
		requests, kvUse := all[0].load(time.Now())
		if requests != float64(all[0].own.Load()) || kvUse != 0 {
			t.Errorf("a stale report counts still: %v requests, KV use %v", requests, kvUse)
		}
	})
}

// What the channel has sent since the report counts, and what has ended; what others sent stays.
func TestLoadFollowsTheChannelsOwnCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, all := replicas(false, 1)
		_, first := pick(t.Context(), t, p)
		all[0].take(loaded(5, 0.25)) // four of others
		_, second := pick(t.Context(), t, p)
		want := func(n float64) {
			t.Helper()
			if got, _ := all[0].load(time.Now()); got != n {
				t.Errorf("load %v, want %v", got, n)
			}
		}
		want(6)
		first(balancer.DoneInfo{})
		want(5)
		second(balancer.DoneInfo{ServerLoad: loaded(2, 0)})
		want(2)
	})
}

func TestFailedReplicaIsLeftAloneForASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, all := replicas(false, 1, 1, 1)
		all[0].begin()(balancer.DoneInfo{Err: status.Error(codes.InvalidArgument, "the caller's fault")})
		if !all[0].usable(time.Now()) {
			t.Error("a replica is avoided for a bad request")
		}
		all[0].begin()(balancer.DoneInfo{Err: status.Error(codes.Unavailable, "draining")})
		before := all[0].picked.Load()
		for range 200 {
			_, end := pick(t.Context(), t, p)
			end(balancer.DoneInfo{})
		}
		if n := all[0].picked.Load() - before; n != 0 {
			t.Errorf("%d calls went to a replica that had just failed", n)
		}
		time.Sleep(avoidFor)
		for range 200 {
			_, end := pick(t.Context(), t, p)
			end(balancer.DoneInfo{})
		}
		if all[0].picked.Load() == before {
			t.Error("the replica gets no calls a second later")
		}
	})
}

func TestReplicaWhoseReportsStopGetsNothingWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, all := replicas(false, 1, 1)
		for _, r := range all {
			r.OnLoadReport(loaded(0, 0))
		}
		for range 4 {
			time.Sleep(reportEvery)
			all[1].OnLoadReport(loaded(0, 0))
		}
		for range 100 {
			if name, _ := pick(t.Context(), t, p); name != all[1].address {
				t.Fatal("a call went to the silent replica")
			}
		}
		time.Sleep(time.Minute) // now both are silent: better one of them than none
		pick(t.Context(), t, p)
		all[0].OnLoadReport(loaded(0, 0))
		if name, _ := pick(t.Context(), t, p); name != all[0].address {
			t.Error("the replica that reports again gets no calls")
		}
	})
}

func TestSenselessReportsAreNotTaken(t *testing.T) {
	r := newReplica(nil, "a")
	r.take(loaded(3, 0.5))
	for _, bad := range []*orcapb.OrcaLoadReport{
		loaded(-1, 0), loaded(math.NaN(), 0), loaded(math.Inf(1), 0), loaded(1e300, 0), loaded(0, -1), loaded(0, math.NaN()), loaded(0, 2),
	} {
		r.take(bad)
		if got := r.report.Load(); got.requests != 3 || got.kvUse != 0.5 {
			t.Errorf("after %v: %+v", bad, got)
		}
	}
}

func TestKeysStayWithTheirReplica(t *testing.T) {
	const keys = 2000
	weights := []float64{1, 1, 2, 4}
	where := func(p *picker) []string {
		all := make([]string, keys)
		for i := range all {
			name, end := pick(WithKey(t.Context(), fmt.Sprint("prefix ", i)), t, p)
			end(balancer.DoneInfo{})
			all[i] = name
		}
		return all
	}
	p, all := replicas(true, weights...)
	before := where(p)
	count := map[string]float64{}
	for i, name := range where(p) {
		if name != before[i] {
			t.Fatalf("key %d went to %s, then to %s", i, before[i], name)
		}
		count[name]++
	}
	for i, r := range all {
		if share := count[r.address] / keys; math.Abs(share-weights[i]/8) > 0.04 { // over three standard deviations
			t.Errorf("a replica of weight %v of 8 has %.3f of the keys", weights[i], share)
		}
	}
	gone := all[1].address
	fewer, _ := replicas(true, weights...)
	members := slices.Concat(fewer.members[:1], fewer.members[2:])
	for i, name := range where(newPicker(members, true)) {
		if before[i] != gone && name != before[i] {
			t.Fatalf("key %d moved from %s to %s, neither of which is gone", i, before[i], name)
		}
	}
}

// One key for all calls: no replica has more than 1.25 times its share, rounded up.
func TestPopularKeySpillsOver(t *testing.T) {
	p, all := replicas(true, 1, 1, 1, 1)
	ctx := WithKey(t.Context(), "everybody's system prompt")
	for n := 1; n <= 200; n++ {
		pick(ctx, t, p)
		for _, r := range all {
			if limit := int64(math.Ceil(float64(n) / 4 * (1 + slack))); r.own.Load() > limit {
				t.Fatalf("of %d requests one replica has %d, want at most %d", n, r.own.Load(), limit)
			}
		}
	}
	used := 0
	for _, r := range all {
		if r.own.Load() > 0 {
			used++
		}
	}
	if used != 4 {
		t.Errorf("200 requests on %d replicas: 4 × 1.25 shares of 50 fill all", used)
	}
}
