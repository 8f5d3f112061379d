package load

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// exactRank is the nearest rank, from all samples.
func exactRank(sorted []time.Duration, share float64) time.Duration {
	return sorted[max(int(math.Ceil(share*float64(len(sorted))))-1, 0)]
}

func TestQuantilesAreWithinTheBoundOfTheExactOnes(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for name, draw := range map[string]func() time.Duration{
		"a few ns":  func() time.Duration { return time.Duration(random.IntN(200)) },
		"one value": func() time.Duration { return 12345678 },
		"log-normal": func() time.Duration {
			return time.Duration(math.Exp(random.NormFloat64()*2) * float64(20*time.Millisecond))
		},
		"two humps": func() time.Duration {
			return time.Duration(1+random.IntN(2)*999)*time.Millisecond + time.Duration(random.IntN(1000))
		},
	} {
		var h histogram
		var all []time.Duration
		var sum float64
		for range 10_000 {
			d := draw()
			h.add(d, 1)
			all = append(all, d)
			sum += float64(d)
		}
		slices.Sort(all)
		shares := []float64{0.0001, .01, .5, .9, .95, .99, .999, 1}
		for i, got := range h.quantiles(shares...) {
			want := exactRank(all, shares[i])
			if bound := float64(want)/256 + 1; math.Abs(float64(got-want)) > bound {
				t.Errorf("%s: quantile %v is %v, exactly %v", name, shares[i], got, want)
			}
		}
		d := h.distribution()
		if mean := sum / 10_000 / 1e6; math.Abs(d.Mean-mean) > 1e-9*mean || d.Max != milliseconds(all[len(all)-1]) {
			t.Errorf("%s: mean %v max %v, want %v %v", name, d.Mean, d.Max, mean, all[len(all)-1])
		}
	}
}

func TestBucketsFollowEachOther(t *testing.T) {
	last := -1
	for exponent := 2; exponent < 62; exponent++ {
		for _, offset := range []int64{-1, 0, 1} {
			d := time.Duration(int64(1)<<exponent + offset)
			b := bucketOf(d)
			if b < last || b >= numBuckets {
				t.Fatalf("bucket %d of %d ns comes after %d of %d", b, d, last, numBuckets)
			}
			last = b
			if d > 0 && exponent < maxOctave && math.Abs(float64(middleOf(b)-d)) > float64(d)/256+1 {
				t.Errorf("the middle of bucket %d is %d, far from %d", b, middleOf(b), d)
			}
		}
	}
	if bucketOf(-5) != 0 || bucketOf(math.MaxInt64) != numBuckets-1 {
		t.Errorf("ends: %d %d", bucketOf(-5), bucketOf(math.MaxInt64))
	}
}

func TestHistogramOfNothingAndOfManyAtOnce(t *testing.T) {
	var h histogram
	if d := h.distribution(); d != (Distribution{}) {
		t.Errorf("of nothing: %+v", d)
	}
	var adders sync.WaitGroup
	for i := range 8 {
		adders.Go(func() {
			for j := range 1000 {
				h.add(time.Duration(i*1000+j), 3)
			}
		})
	}
	adders.Wait()
	if h.count() != 24_000 || h.max.Load() != 7999 {
		t.Errorf("count %d, max %d", h.count(), h.max.Load())
	}
	if n := testing.AllocsPerRun(100, func() { h.add(time.Millisecond, 1) }); n != 0 {
		t.Errorf("add allocates %v times", n)
	}
}
