package etcd

import (
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
	leaseAgeDesc = prometheus.NewDesc("inferno_registry_lease_age_seconds",
		"For how long etcd has held this instance under the same lease; 0 while it does not.", nil, nil)
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
	for _, d := range []*prometheus.Desc{registeredDesc, leaseAgeDesc, registrationsDesc, lossesDesc, resyncsDesc, skippedDesc} {
		descs <- d
	}
}

// Collect reads the counts.
func (r *Registry) Collect(metrics chan<- prometheus.Metric) {
	counter := func(desc *prometheus.Desc, value uint64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), labels...)
	}
	registered, age := r.held()
	metrics <- prometheus.MustNewConstMetric(registeredDesc, prometheus.GaugeValue, registered)
	metrics <- prometheus.MustNewConstMetric(leaseAgeDesc, prometheus.GaugeValue, age.Seconds())
	counter(registrationsDesc, r.counts.registrations.Load())
	counter(resyncsDesc, r.counts.resyncs.Load())
	counter(skippedDesc, r.counts.skipped.Load())
	r.counts.mu.Lock()
	defer r.counts.mu.Unlock()
	for _, cause := range []string{causeGone, causeSilent} {
		counter(lossesDesc, r.counts.losses[cause], cause)
	}
}

// held is 1 while there is a registration and etcd holds it, with the age of its lease.
func (r *Registry) held() (registered float64, age time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range r.registered {
		if !g.established() || g.Held() != nil {
			return 0, 0
		}
		g.mu.Lock()
		registered, age = 1, time.Since(g.since)
		g.mu.Unlock()
	}
	return registered, age
}
