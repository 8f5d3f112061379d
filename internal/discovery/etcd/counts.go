package etcd

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// counts are what a Registry has lived through, for /metrics.
type counts struct {
	registrations, skipped, resyncs atomic.Uint64

	mu     sync.Mutex
	losses map[string]uint64 // by cause
}

func (c *counts) lose(cause string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.losses == nil {
		c.losses = map[string]uint64{}
	}
	c.losses[cause]++
}

var (
	registeredDesc = prometheus.NewDesc("inferno_registry_registered",
		"1 while etcd holds this instance as it is, else 0.", nil, nil)
	leaseDesc = prometheus.NewDesc("inferno_registry_lease_seconds",
		"What is left of this instance's lease, as far as etcd has answered; 0 without one.", nil, nil)
	registrationsDesc = prometheus.NewDesc("inferno_registry_registrations_total",
		"Registrations made: the first, and one after each loss.", nil, nil)
	lossesDesc = prometheus.NewDesc("inferno_registry_losses_total",
		"Registrations lost: lease_gone was revoked or expired in etcd, no_answer could not be renewed.", []string{"cause"}, nil)
	resyncsDesc = prometheus.NewDesc("inferno_registry_resyncs_total",
		"Times that a watch of the fleet had a gap and listed it anew.", nil, nil)
	skippedDesc = prometheus.NewDesc("inferno_registry_skipped_records_total",
		"Values found among the instances that are none, each time one was met.", nil, nil)
)

// Describe and Collect make the Registry a prometheus.Collector.
func (r *Registry) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{registeredDesc, leaseDesc, registrationsDesc, lossesDesc, resyncsDesc, skippedDesc} {
		descs <- d
	}
}

// Collect reads the counts.
func (r *Registry) Collect(metrics chan<- prometheus.Metric) {
	counter := func(desc *prometheus.Desc, value uint64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), labels...)
	}
	held, left := r.held()
	metrics <- prometheus.MustNewConstMetric(registeredDesc, prometheus.GaugeValue, held)
	metrics <- prometheus.MustNewConstMetric(leaseDesc, prometheus.GaugeValue, left.Seconds())
	counter(registrationsDesc, r.counts.registrations.Load())
	counter(resyncsDesc, r.counts.resyncs.Load())
	counter(skippedDesc, r.counts.skipped.Load())
	r.counts.mu.Lock()
	defer r.counts.mu.Unlock()
	for _, cause := range []string{causeGone, causeSilent} {
		counter(lossesDesc, r.counts.losses[cause], cause)
	}
}

// held is 1 while there is a registration and etcd holds it. left is what is left of its lease: of the one that ends first.
func (r *Registry) held() (held float64, left time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.registered) == 0 {
		return 0, 0
	}
	held, left = 1, math.MaxInt64
	for _, g := range r.registered {
		if !g.established() || g.Held() != nil {
			held = 0
		}
		left = min(left, g.left())
	}
	return held, left
}
