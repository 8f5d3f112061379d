package auth

import "github.com/prometheus/client_golang/prometheus"

var (
	reloads = prometheus.NewDesc("inferno_auth_reloads_total", "Times that changed files were read again.", []string{"what", "result"}, nil)
	expiry  = prometheus.NewDesc("inferno_tls_certificate_not_after_seconds", "When the server's certificate expires, in Unix time.", nil, nil)
	callers = prometheus.NewDesc("inferno_auth_callers", "Identities and addresses whose use is counted.", nil, nil)
)

// Metrics is the collector of a server's certificates and identities; either may be nil.
type Metrics struct {
	TLS    *TLS
	Access *Access
}

// Describe implements prometheus.Collector.
func (m Metrics) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{reloads, expiry, callers} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (m Metrics) Collect(metrics chan<- prometheus.Metric) {
	if m.TLS != nil {
		m.TLS.state.collect(metrics)
		metrics <- prometheus.MustNewConstMetric(expiry, prometheus.GaugeValue, float64(m.TLS.state.current.Load().notAfter.Unix()))
	}
	if m.Access != nil {
		m.Access.state.collect(metrics)
		metrics <- prometheus.MustNewConstMetric(callers, prometheus.GaugeValue, float64(m.Access.ledger.size()))
	}
}

func (r *reloaded[T]) collect(metrics chan<- prometheus.Metric) {
	for result, n := range map[string]uint64{"ok": r.counts.changed.Load(), "failed": r.counts.failed.Load()} {
		metrics <- prometheus.MustNewConstMetric(reloads, prometheus.CounterValue, float64(n), r.what, result)
	}
}
