package balance

import (
	"math"
	"sync/atomic"
	"time"

	orcapb "github.com/cncf/xds/go/xds/data/orca/v3"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Names of what an Inferno server reports beside ORCA's own fields.
const (
	metricRunning = "inferno.running_requests"
	metricQueued  = "inferno.queued_requests"
	metricKVUse   = "inferno.kv_use"
)

const (
	// avoidFor is how long a replica that answered UNAVAILABLE is left alone.
	avoidFor = time.Second
	// silentAfter is how long a replica's reports may be overdue. One that stands still keeps its connection for much longer.
	silentAfter = 3 * reportEvery
	// staleAfter is when a report tells nothing any more.
	staleAfter = 5 * time.Second
)

// replica is one connection and what is known of the server behind it.
type replica struct {
	sc      balancer.SubConn
	address string
	stop    func() // ends the reports
	began   time.Time

	own    atomic.Int64 // calls of this channel that are under way
	picked atomic.Int64 // calls so far, and those before its time; see fleet.turn
	avoid  atomic.Int64 // until when it gets no calls, as nanoseconds from began
	heard  atomic.Int64 // when the last report came on the stream beside the calls, as nanoseconds from began; 0: none has
	report atomic.Pointer[report]
}

// report is what a replica said last.
type report struct {
	requests float64 // running and waiting, of all clients
	kvUse    float64 // 0 to 1
	own      int64   // of this channel, when the report came
	at       time.Time
}

func newReplica(sc balancer.SubConn, address string) *replica {
	return &replica{sc: sc, address: address, began: time.Now(), stop: func() {}}
}

// OnLoadReport takes in a report of the stream beside the calls.
func (r *replica) OnLoadReport(p *orcapb.OrcaLoadReport) {
	r.heard.Store(int64(time.Since(r.began)) + 1)
	r.take(p)
}

// take believes what a sound server could say: whatever else it is, it makes nobody fail.
func (r *replica) take(p *orcapb.OrcaLoadReport) {
	named := p.GetNamedMetrics()
	requests, kvUse := named[metricRunning]+named[metricQueued], named[metricKVUse]
	if !(requests >= 0 && requests <= math.MaxInt32) || !(kvUse >= 0 && kvUse <= 1) {
		return
	}
	r.report.Store(&report{requests: requests, kvUse: kvUse, own: r.own.Load(), at: time.Now()})
}

// usable: not avoided, and not silent.
func (r *replica) usable(now time.Time) bool {
	since := int64(now.Sub(r.began))
	heard := r.heard.Load()
	return since >= r.avoid.Load() && (heard == 0 || since-heard < int64(silentAfter))
}

// load is how many requests the replica has now: those that it reported, and what this channel has added or ended since.
func (r *replica) load(now time.Time) (requests, kvUse float64) {
	own := r.own.Load()
	said := r.report.Load()
	if said == nil || now.Sub(said.at) > staleAfter {
		return float64(own), 0
	}
	return max(float64(own), said.requests+float64(own-said.own)), said.kvUse
}

// begin counts a call, and returns what is to be called at its end.
func (r *replica) begin() func(balancer.DoneInfo) {
	r.own.Add(1)
	r.picked.Add(1)
	return func(done balancer.DoneInfo) {
		r.own.Add(-1)
		if status.Code(done.Err) == codes.Unavailable {
			r.avoid.Store(int64(time.Since(r.began) + avoidFor))
		}
		if p, ok := done.ServerLoad.(*orcapb.OrcaLoadReport); ok {
			r.take(p)
		}
	}
}
