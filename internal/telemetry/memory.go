package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/inferno-serve/inferno/internal/memory"
)

var (
	memoryBytes = prometheus.NewDesc("inferno_memory_bytes", "Device memory in use.", []string{"owner", "purpose"}, nil)
	memoryPeak  = prometheus.NewDesc("inferno_memory_peak_bytes", "Most device memory that was in use.", []string{"owner", "purpose"}, nil)
	memoryLimit = prometheus.NewDesc("inferno_memory_limit_bytes", "Device memory that may be used.", nil, nil)
)

// Memory is the collector of a tracker.
type Memory struct{ tracker *memory.Tracker }

// NewMemory registers the collector.
func NewMemory(registry *prometheus.Registry, t *memory.Tracker) { registry.MustRegister(Memory{t}) }

// Describe implements prometheus.Collector.
func (Memory) Describe(descs chan<- *prometheus.Desc) {
	descs <- memoryBytes
	descs <- memoryPeak
	descs <- memoryLimit
}

// Collect implements prometheus.Collector.
func (m Memory) Collect(metrics chan<- prometheus.Metric) {
	snapshot := m.tracker.Snapshot()
	metrics <- prometheus.MustNewConstMetric(memoryLimit, prometheus.GaugeValue, float64(snapshot.Limit))
	for _, owner := range snapshot.Owners {
		for purpose, use := range owner.ByPurpose {
			name := memory.Purpose(purpose).String()
			metrics <- prometheus.MustNewConstMetric(memoryBytes, prometheus.GaugeValue, float64(use.Current), owner.Owner, name)
			metrics <- prometheus.MustNewConstMetric(memoryPeak, prometheus.GaugeValue, float64(use.Peak), owner.Owner, name)
		}
	}
}
