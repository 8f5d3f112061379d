package load

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A histogram counts times in log-linear buckets: exact below 2^subBits ns, above it 2^subBits buckets an octave, so that any quantile is
// within 2^-(subBits+1), 0.4 %, of the exact one, whatever the times are. Samples are not kept: at 20,000 tokens a second ten minutes of them
// would be 96 MB, and sorting those would be the most that a run does. Any number of goroutines add; who reads waits until they are done.
type histogram struct {
	counts [numBuckets]atomic.Uint64
	sum    atomic.Int64 // ns
	max    atomic.Int64 // ns, exact
}

const (
	subBits    = 7
	maxOctave  = 43 // times from 2^43 ns, 2.4 hours, on share the last bucket
	numBuckets = (maxOctave - subBits + 1) << subBits
)

// bucketOf: the octave counts from 0 for what is exact; within it the subBits below the leading one count.
func bucketOf(d time.Duration) int {
	v := uint64(max(d, 0))
	octave := max(bits.Len64(v)-1-subBits, 0)
	return min(octave<<subBits+int(v>>octave), numBuckets-1)
}

// middleOf is the time in the middle of a bucket.
func middleOf(bucket int) time.Duration {
	octave := max(bucket>>subBits-1, 0)
	low := uint64(bucket-octave<<subBits) << octave
	return time.Duration(low + uint64(1)<<octave/2)
}

func (h *histogram) add(d time.Duration, n int) {
	d = max(d, 0)
	h.counts[bucketOf(d)].Add(uint64(n))
	h.sum.Add(int64(d) * int64(n))
	for old := h.max.Load(); int64(d) > old && !h.max.CompareAndSwap(old, int64(d)); old = h.max.Load() {
	}
}

func (h *histogram) count() (n uint64) {
	for i := range h.counts {
		n += h.counts[i].Load()
	}
	return n
}

// quantiles are the nearest ranks of shares, which ascend.
func (h *histogram) quantiles(shares ...float64) []time.Duration {
	found := make([]time.Duration, len(shares))
	n := h.count()
	if n == 0 {
		return found
	}
	var seen uint64
	at := 0
	for i := range h.counts {
		seen += h.counts[i].Load()
		for at < len(shares) && float64(seen) >= shares[at]*float64(n) {
			found[at] = min(middleOf(i), time.Duration(h.max.Load()))
			at++
		}
	}
	return found
}

// Distribution is what a report says of times, in milliseconds.
type Distribution struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P95  float64 `json:"p95"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99_9"`
	Max  float64 `json:"max"`
}

func (h *histogram) distribution() Distribution {
	n := h.count()
	if n == 0 {
		return Distribution{}
	}
	q := h.quantiles(.5, .9, .95, .99, .999)
	return Distribution{
		Mean: milliseconds(time.Duration(h.sum.Load())) / float64(n), Max: milliseconds(time.Duration(h.max.Load())),
		P50: milliseconds(q[0]), P90: milliseconds(q[1]), P95: milliseconds(q[2]), P99: milliseconds(q[3]), P999: milliseconds(q[4]),
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
