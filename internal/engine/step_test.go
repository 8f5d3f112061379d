package engine

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/model"
)

// decoding is an engine without a loop, on a device that takes no time, for n sequences that decode.
type decoding struct {
	*Engine
	n, submitted int
	readers      sync.WaitGroup
}

func newDecoding(tb testing.TB, n int) *decoding {
	tb.Helper()
	limits := model.Limits{MaxTokens: 512, MaxSeqs: n, MaxRows: n, Context: 1 << 12}
	d := newFakeDevice(96 << 20)
	d.info = device.Info{Capture: true, Overlap: true}
	e, err := New(Options{
		Model: &fakeModel{device: d}, Device: d, Memory: fakeMemory{d}, Limits: limits, NumBlocks: n << 8, MaxQueue: n,
	})
	if err != nil {
		tb.Fatal(err)
	}
	if err := e.Warmup(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	d.idle = true
	return &decoding{Engine: e, n: n}
}

// fill has n sequences at work.
func (d *decoding) fill(tb testing.TB, reading bool) {
	for d.scheduler.live() < d.n {
		d.submitted++
		s, err := d.Submit(tb.Context(), &Request{ID: fmt.Sprint(d.submitted), Prompt: []int32{1}})
		if err != nil {
			tb.Fatal(err)
		}
		if reading {
			d.readers.Go(func() { _, _, _ = readAll(s[0]) })
		}
		d.turnOnce(tb.Context())
	}
}

// step takes the mail in and does the work between two steps.
func (d *decoding) step(tb testing.TB) {
	d.turnOnce(tb.Context())
	if err := d.stepOnce(); err != nil {
		tb.Fatal(err)
	}
}

// BenchmarkStep is what the engine adds to a step: a device that takes no time decodes for n sequences, while nobody or everybody reads.
func BenchmarkStep(b *testing.B) {
	for _, n := range []int{1, 32, 256} {
		for _, reading := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d/reading=%v", n, reading), func(b *testing.B) {
				d := newDecoding(b, n)
				b.ReportAllocs()
				for b.Loop() {
					d.fill(b, reading)
					d.step(b)
				}
				d.Close()
				d.readers.Wait()
			})
		}
	}
}

// BenchmarkColdStep is the same after a sleep in which the caches were lost, with and without what warm reads back before. It reports the
// median.
func BenchmarkColdStep(b *testing.B) {
	lost := make([]byte, 64<<20) // more than a last-level cache
	for _, n := range []int{32, 256} {
		for _, warm := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d/warm=%v", n, warm), func(b *testing.B) {
				d := newDecoding(b, n)
				var times []time.Duration
				for b.Loop() {
					d.fill(b, false)
					d.step(b)
					for i := 0; i < len(lost); i += cacheLine {
						lost[i]++
					}
					if warm {
						d.warm(d.scheduler.oldest(), &d.runner.graphs[len(d.runner.graphs)-1])
					}
					began := time.Now()
					d.step(b)
					times = append(times, time.Since(began))
				}
				slices.Sort(times)
				b.ReportMetric(float64(times[len(times)/2].Nanoseconds())/1e3, "cold-µs/step")
				d.Close()
			})
		}
	}
}

// BenchmarkNext is the scheduler's part: plans of steps in which n sequences decode.
func BenchmarkNext(b *testing.B) {
	for _, n := range []int{32, 256} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s, ids := decodingScheduler(n)
			b.ReportAllocs()
			var took time.Duration
			steps := 0
			for b.Loop() {
				began := time.Now()
				next := s.Next()
				took += time.Since(began)
				s.Commit(next, ids)
				if steps++; steps%(1<<11) == 0 {
					s, ids = decodingScheduler(n)
				}
			}
			b.ReportMetric(float64(took.Nanoseconds())/1e3/float64(steps), "µs/plan")
		})
	}
}

// decodingScheduler has n sequences that decode for the next 2,048 steps, and the ids of a step.
func decodingScheduler(n int) (*scheduler, []int32) {
	s := newScheduler(newBlockPool(n<<8, 16, true), n, 512, 0, 1<<12)
	for i := range n {
		seq := newSequence(&Request{ID: fmt.Sprint(i), Prompt: []int32{1}}, 1<<12)
		seq.tokens = slices.Grow(seq.tokens, 1<<12)
		seq.prefix = s.blocks.prefixOf(seq.request)
		s.Add(seq)
	}
	for range 64 {
		b := s.Next()
		s.Commit(b, make([]int32, b.rows))
	}
	return s, make([]int32, n)
}

// Neither a plan nor a commit allocates, whatever blocks the sequences take.
func TestAStepOfDecodingSequencesAllocatesNothing(t *testing.T) {
	for _, n := range []int{1, 32, 256} {
		s, ids := decodingScheduler(n)
		if allocated := testing.AllocsPerRun(500, func() {
			b := s.Next()
			if len(b.items) != n {
				t.Fatalf("%d of %d sequences in a step", len(b.items), n)
			}
			s.Commit(b, ids)
		}); allocated != 0 {
			t.Errorf("%d sequences: %v allocations a step", n, allocated)
		}
	}
}
