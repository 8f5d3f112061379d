package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/inferno-serve/inferno/internal/engine"
)

// Requests are the collectors of what requests were and what became of them, beside Engines.
type Requests struct {
	stats func() map[string]engine.Stats // by model, at each scrape

	prefill, decode, perToken, promptTokens, outputTokens, batchTokens *prometheus.HistogramVec
}

var lengthBuckets = []float64{1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072}

// NewRequests registers the collectors. stats is called at each scrape and must not wait for a step.
func NewRequests(registry *prometheus.Registry, stats func() map[string]engine.Stats) *Requests {
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, []string{"model"})
		registry.MustRegister(h)
		return h
	}
	r := &Requests{
		stats:        stats,
		prefill:      histogram("inferno_prefill_seconds", "A request's first step to its first token.", requestBuckets),
		decode:       histogram("inferno_decode_seconds", "A request's first token to its last.", requestBuckets),
		perToken:     histogram("inferno_time_per_output_token_seconds", "Mean time between a request's tokens.", tokenBuckets),
		promptTokens: histogram("inferno_request_prompt_tokens", "Tokens of a request's prompt.", lengthBuckets),
		outputTokens: histogram("inferno_request_output_tokens", "Tokens that a request generated.", lengthBuckets),
		batchTokens:  histogram("inferno_batch_tokens", "Tokens that a step computes, of prompts and outputs.", lengthBuckets),
	}
	registry.MustRegister(r)
	return r
}

// Observer observes the engine of one model. Its series are looked up here once, and an observation takes no lock.
func (r *Requests) Observer(model string) engine.Observer {
	return &requestObserver{
		prefill: r.prefill.WithLabelValues(model), decode: r.decode.WithLabelValues(model), perToken: r.perToken.WithLabelValues(model),
		promptTokens: r.promptTokens.WithLabelValues(model), outputTokens: r.outputTokens.WithLabelValues(model),
		batchTokens: r.batchTokens.WithLabelValues(model),
	}
}

// Forget drops the series of a model that is gone; its observer must not be used any more.
func (r *Requests) Forget(model string) {
	for _, h := range []*prometheus.HistogramVec{r.prefill, r.decode, r.perToken, r.promptTokens, r.outputTokens, r.batchTokens} {
		h.DeleteLabelValues(model)
	}
}

type requestObserver struct {
	prefill, decode, perToken, promptTokens, outputTokens, batchTokens prometheus.Observer
}

func (o *requestObserver) ObserveStep(s *engine.StepInfo) {
	o.batchTokens.Observe(float64(s.PrefillTokens + s.DecodeTokens))
}

func (o *requestObserver) ObserveRequest(r *engine.RequestInfo) {
	if r.Err != nil {
		return // counted by phase, in Stats
	}
	o.promptTokens.Observe(float64(r.Usage.PromptTokens))
	o.outputTokens.Observe(float64(r.Usage.CompletionTokens))
	o.prefill.Observe(r.Timings.Prefill.Seconds())
	if after := r.Usage.CompletionTokens - 1; after > 0 {
		o.decode.Observe(r.Timings.Decode.Seconds())
		o.perToken.Observe(r.Timings.Decode.Seconds() / float64(after))
	}
}

var (
	freedDesc = prometheus.NewDesc("inferno_cancel_to_free_seconds",
		"How long requests that left early still held their KV blocks, from the moment that the engine was told.", []string{"model"}, nil)
	blockTokensDesc = prometheus.NewDesc("inferno_kv_block_tokens", "Tokens that a KV block holds.", []string{"model"}, nil)
	kvUsageDesc     = prometheus.NewDesc("inferno_kv_usage_ratio", "KV blocks in use, as a share of all of them.", []string{"model"}, nil)
)

// Describe implements prometheus.Collector.
func (r *Requests) Describe(descs chan<- *prometheus.Desc) {
	descs <- freedDesc
	descs <- blockTokensDesc
	descs <- kvUsageDesc
}

// Collect implements prometheus.Collector.
func (r *Requests) Collect(metrics chan<- prometheus.Metric) {
	for model, s := range r.stats() {
		upTo, count := map[float64]uint64{}, uint64(0)
		for i, edge := range engine.FreedEdges {
			count += s.Freed.Counts[i]
			upTo[edge.Seconds()] = count
		}
		count += s.Freed.Counts[len(engine.FreedEdges)]
		metrics <- prometheus.MustNewConstHistogram(freedDesc, count, s.Freed.Sum.Seconds(), upTo, model)
		metrics <- prometheus.MustNewConstMetric(blockTokensDesc, prometheus.GaugeValue, float64(s.BlockSize), model)
		usage := float64(s.BlocksUsed) / float64(max(s.BlocksTotal, 1))
		metrics <- prometheus.MustNewConstMetric(kvUsageDesc, prometheus.GaugeValue, usage, model)
	}
}
