package telemetry

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/inferno-serve/inferno/internal/health"
)

// GPU is the collector of a card that is watched. Before the first reading, and of a card that is absent, it tells nothing.
type GPU struct{ gpu *health.GPU }

// NewGPU registers the collector.
func NewGPU(registry *prometheus.Registry, g *health.GPU) { registry.MustRegister(GPU{g}) }

func gpuDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append([]string{"gpu"}, labels...), nil)
}

var (
	gpuInfo        = gpuDesc("inferno_gpu_info", "Always 1; which card it is.", "name", "uuid")
	gpuTemperature = gpuDesc("inferno_gpu_temperature_celsius", "Temperature of the card.")
	gpuThrottled   = gpuDesc("inferno_gpu_throttled", "1 while clocks are lowered by heat or by the supply of power.")
	gpuUsed        = gpuDesc("inferno_gpu_memory_used_bytes", "Memory of the card in use, by whomever.")
	gpuTotal       = gpuDesc("inferno_gpu_memory_bytes", "Memory of the card.")
	gpuOthers      = gpuDesc("inferno_gpu_memory_others_bytes", "Memory of the card that other processes hold.")
	gpuECC         = gpuDesc("inferno_gpu_ecc_errors_total", "ECC errors since the driver was loaded.", "kind")
	gpuRecovery    = gpuDesc("inferno_gpu_recovery_action", "What the driver says must be done: 0 nothing, 1 reset, 2 reboot, 3 drain peers, 4 drain and reset.")
	gpuXID         = gpuDesc("inferno_gpu_xid_total", "Events of the card by XID; 0 for those that have none.", "xid")
)

// Describe implements prometheus.Collector.
func (GPU) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		gpuInfo, gpuTemperature, gpuThrottled, gpuUsed, gpuTotal, gpuOthers, gpuECC, gpuRecovery, gpuXID,
	} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (c GPU) Collect(metrics chan<- prometheus.Metric) {
	r, xids, ok := c.gpu.Reading()
	if !ok {
		return
	}
	ordinal := strconv.Itoa(c.gpu.Ordinal())
	tell := func(desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, kind, value, append([]string{ordinal}, labels...)...)
	}
	throttled := 0.0
	if len(r.Throttled) > 0 {
		throttled = 1
	}
	tell(gpuInfo, prometheus.GaugeValue, 1, r.Name, r.UUID)
	tell(gpuTemperature, prometheus.GaugeValue, float64(r.Temperature))
	tell(gpuThrottled, prometheus.GaugeValue, throttled)
	tell(gpuUsed, prometheus.GaugeValue, float64(r.UsedBytes))
	tell(gpuTotal, prometheus.GaugeValue, float64(r.TotalBytes))
	if r.OthersBytes >= 0 {
		tell(gpuOthers, prometheus.GaugeValue, float64(r.OthersBytes))
	}
	tell(gpuECC, prometheus.CounterValue, float64(r.Corrected), "corrected")
	tell(gpuECC, prometheus.CounterValue, float64(r.Uncorrected), "uncorrected")
	tell(gpuRecovery, prometheus.GaugeValue, float64(r.Recovery))
	for xid, n := range xids {
		tell(gpuXID, prometheus.CounterValue, float64(n), strconv.Itoa(xid))
	}
}
