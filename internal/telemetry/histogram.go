package telemetry

import (
	"math"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// histograms is one histogram a model, of values that come many at a time: a step has hundreds of equal gaps between tokens, and the
// engine's loop waits while they are counted.
type histograms struct {
	desc  *prometheus.Desc
	edges []float64 // upper bounds, ascending

	mu     sync.Mutex
	series map[string]*histogram // by model
}

type histogram struct {
	edges   []float64
	buckets []atomic.Uint64 // [edges + 1] values up to an edge and above the one before; the last has the rest
	sum     atomic.Uint64   // float64 bits
}

func newHistograms(name, help string, edges []float64) *histograms {
	return &histograms{desc: prometheus.NewDesc(name, help, []string{"model"}, nil), edges: edges, series: map[string]*histogram{}}
}

// of is the series of a model; the same at each call.
func (h *histograms) of(model string) *histogram {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.series[model]
	if s == nil {
		s = &histogram{edges: h.edges, buckets: make([]atomic.Uint64, len(h.edges)+1)}
		h.series[model] = s
	}
	return s
}

func (h *histograms) forget(model string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.series, model)
}

// observe counts n equal values.
func (s *histogram) observe(value float64, n int) {
	s.buckets[sort.SearchFloat64s(s.edges, value)].Add(uint64(n))
	for {
		old := s.sum.Load()
		if s.sum.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+value*float64(n))) {
			return
		}
	}
}

// Describe implements prometheus.Collector.
func (h *histograms) Describe(descs chan<- *prometheus.Desc) { descs <- h.desc }

// Collect implements prometheus.Collector.
func (h *histograms) Collect(metrics chan<- prometheus.Metric) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for model, s := range h.series {
		upTo, count := make(map[float64]uint64, len(s.edges)), uint64(0)
		for i, edge := range s.edges {
			count += s.buckets[i].Load()
			upTo[edge] = count
		}
		count += s.buckets[len(s.edges)].Load()
		metrics <- prometheus.MustNewConstHistogram(h.desc, count, math.Float64frombits(s.sum.Load()), upTo, model)
	}
}
