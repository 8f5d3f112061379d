package telemetry

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
)

// NewBuild registers what program this is.
func NewBuild(registry *prometheus.Registry, version string) {
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "inferno_build_info", Help: "Always 1; its labels say what program this is.",
		ConstLabels: prometheus.Labels{"version": version, "go_version": runtime.Version()},
	}, func() float64 { return 1 }))
}

var (
	servingDesc   = prometheus.NewDesc("inferno_serving", "1 while the server as a whole says SERVING, or DEGRADED; else 0.", nil, nil)
	componentDesc = prometheus.NewDesc("inferno_component_serving", "The same for each component.", []string{"component"}, nil)
)

// Health is the collector of a server's state.
type Health struct {
	report func() (serving bool, components map[string]bool)
}

// NewHealth registers the collector. report is called at each scrape, and says what serves.
func NewHealth(registry *prometheus.Registry, report func() (serving bool, components map[string]bool)) {
	registry.MustRegister(Health{report})
}

// Describe implements prometheus.Collector.
func (Health) Describe(descs chan<- *prometheus.Desc) {
	descs <- servingDesc
	descs <- componentDesc
}

// Collect implements prometheus.Collector.
func (h Health) Collect(metrics chan<- prometheus.Metric) {
	serving, components := h.report()
	metrics <- prometheus.MustNewConstMetric(servingDesc, prometheus.GaugeValue, oneIf(serving))
	for component, serves := range components {
		metrics <- prometheus.MustNewConstMetric(componentDesc, prometheus.GaugeValue, oneIf(serves), component)
	}
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
