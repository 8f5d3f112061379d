package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/inferno-serve/inferno/internal/engine"
)

// Engines are the collectors of all engines of a server; the label `model` tells them apart.
type Engines struct {
	stats func() map[string]engine.Stats // by model, at each scrape

	steps, firstToken, queue, total, batch *prometheus.HistogramVec
	interToken                             *histograms
	ended                                  *prometheus.CounterVec
}

// Bucket edges in seconds: those of tokens from a fast card's to a slow CPU's, those of requests up to ten minutes.
var (
	tokenBuckets   = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5}
	requestBuckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600}
	batchBuckets   = []float64{1, 2, 4, 8, 16, 32, 64, 128, 256}
)

// NewEngines registers the collectors. stats is called at each scrape and must not wait for a step.
func NewEngines(registry *prometheus.Registry, stats func() map[string]engine.Stats) *Engines {
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, []string{"model"})
	}
	e := &Engines{
		stats:      stats,
		steps:      histogram("inferno_step_seconds", "Time of a step, from its launch, or from the end of the one before if that was later, to its tokens.", tokenBuckets),
		firstToken: histogram("inferno_time_to_first_token_seconds", "A request's arrival to its first token.", requestBuckets),
		interToken: newHistograms("inferno_inter_token_seconds", "Time between two tokens of a request.", tokenBuckets),
		queue:      histogram("inferno_queue_seconds", "A request's arrival to its first step.", requestBuckets),
		total:      histogram("inferno_request_seconds", "A request's arrival to its end.", requestBuckets),
		batch:      histogram("inferno_batch_sequences", "Sequences in a step.", batchBuckets),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "inferno_requests_finished_total", Help: "Requests that ended normally, by what ended them.",
		}, []string{"model", "reason"}),
	}
	registry.MustRegister(e, e.steps, e.firstToken, e.interToken, e.queue, e.total, e.batch, e.ended)
	return e
}

// Observer observes the engine of one model. Its series are looked up here once: an observation costs some tens of nanoseconds.
func (e *Engines) Observer(model string) engine.Observer {
	o := &observer{
		steps: e.steps.WithLabelValues(model), firstToken: e.firstToken.WithLabelValues(model),
		interToken: e.interToken.of(model), queue: e.queue.WithLabelValues(model), total: e.total.WithLabelValues(model),
		batch: e.batch.WithLabelValues(model), ended: map[engine.FinishReason]prometheus.Counter{},
	}
	for _, reason := range engine.FinishReasons() {
		o.ended[reason] = e.ended.WithLabelValues(model, reason.String())
	}
	return o
}

// Forget drops the series of a model that is gone, so that models that came and went do not add up; its observer must not be used any more.
func (e *Engines) Forget(model string) {
	for _, h := range []*prometheus.HistogramVec{e.steps, e.firstToken, e.queue, e.total, e.batch} {
		h.DeleteLabelValues(model)
	}
	e.interToken.forget(model)
	e.ended.DeletePartialMatch(prometheus.Labels{"model": model})
}

type observer struct {
	steps, firstToken, queue, total, batch prometheus.Observer
	interToken                             *histogram
	ended                                  map[engine.FinishReason]prometheus.Counter
}

func (o *observer) ObserveStep(s *engine.StepInfo) {
	o.steps.Observe(s.Duration.Seconds())
	o.batch.Observe(float64(s.Sequences))
	for _, d := range s.FirstTokens {
		o.firstToken.Observe(d.Seconds())
	}
	for _, g := range s.Gaps {
		o.interToken.observe(g.Time.Seconds(), g.Count)
	}
}

func (o *observer) ObserveRequest(r *engine.RequestInfo) {
	if r.Err != nil {
		return // counted by phase, in Stats
	}
	o.ended[r.Reason].Inc()
	o.queue.Observe(r.Timings.Queued.Seconds())
	o.total.Observe(r.Timings.Total.Seconds())
}

// A row is one series that Stats holds.
type row struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(s *engine.Stats) float64
}

var rows = []row{
	gauge("inferno_requests_running", "Requests that have KV blocks.", func(s *engine.Stats) float64 { return float64(s.Running) }),
	gauge("inferno_requests_queued", "Requests that wait for their first step.", func(s *engine.Stats) float64 { return float64(s.Queued) }),
	gauge("inferno_queued_tokens", "Tokens of the prompts that wait for their first step.",
		func(s *engine.Stats) float64 { return float64(s.QueuedTokens) }),
	gauge("inferno_requests_suspended", "Requests that were preempted and wait.",
		func(s *engine.Stats) float64 { return float64(s.Suspended) }),
	gauge("inferno_kv_blocks_used", "KV blocks in use.", func(s *engine.Stats) float64 { return float64(s.BlocksUsed) }),
	gauge("inferno_kv_blocks_cached", "KV blocks not in use that the prefix cache keeps.",
		func(s *engine.Stats) float64 { return float64(s.BlocksCached) }),
	counter("inferno_prefix_cache_asked_tokens_total", "Prompt tokens of requests that could use the prefix cache.",
		func(s *engine.Stats) float64 { return float64(s.CacheAsked) }),
	counter("inferno_prefix_cache_hit_tokens_total", "Prompt tokens that the prefix cache had.",
		func(s *engine.Stats) float64 { return float64(s.CacheHits) }),
	counter("inferno_prefix_cache_evicted_blocks_total", "KV blocks that the prefix cache gave up for others.",
		func(s *engine.Stats) float64 { return float64(s.CacheEvictions) }),
	gauge("inferno_kv_blocks", "KV blocks.", func(s *engine.Stats) float64 { return float64(s.BlocksTotal) }),
	gauge("inferno_max_batch_tokens", "Token budget of a step.", func(s *engine.Stats) float64 { return float64(s.MaxBatchTokens) }),
	gauge("inferno_step_running_seconds", "How long the step under way has been running.",
		func(s *engine.Stats) float64 { return s.InStep.Seconds() }),
	counter("inferno_steps_total", "Steps.", func(s *engine.Stats) float64 { return float64(s.Steps) }),
	counter("inferno_step_host_seconds_total", "Time that the engine's loop itself spent on steps, waits for the device left out.",
		func(s *engine.Stats) float64 { return s.HostTime.Seconds() }),
	counter("inferno_prompt_tokens_total", "Prompt tokens computed, again after a preemption included.",
		func(s *engine.Stats) float64 { return float64(s.PromptTokens) }),
	counter("inferno_output_tokens_total", "Tokens generated.", func(s *engine.Stats) float64 { return float64(s.OutputTokens) }),
	counter("inferno_draft_tokens_total", "Guesses of tokens that were computed.",
		func(s *engine.Stats) float64 { return float64(s.DraftTokens) }),
	counter("inferno_accepted_draft_tokens_total", "Guesses that were right, each a token generated.",
		func(s *engine.Stats) float64 { return float64(s.AcceptedTokens) }),
	counter("inferno_preemptions_total", "Requests preempted to free KV blocks.",
		func(s *engine.Stats) float64 { return float64(s.Preemptions) }),
	counter("inferno_requests_rejected_total", "Requests that found the queue full, or too slow.",
		func(s *engine.Stats) float64 { return float64(s.Rejected) }),
	counter("inferno_not_finite_total", "Requests that ended because their logits were not finite.",
		func(s *engine.Stats) float64 { return float64(s.NotFinite) }),
}

var cancelled = prometheus.NewDesc("inferno_requests_cancelled_total",
	"Requests that left early (cancelled, aborted or past their deadline), by where they were.", []string{"model", "phase"}, nil)

func gauge(name, help string, value func(*engine.Stats) float64) row {
	return row{prometheus.NewDesc(name, help, []string{"model"}, nil), prometheus.GaugeValue, value}
}

func counter(name, help string, value func(*engine.Stats) float64) row {
	return row{prometheus.NewDesc(name, help, []string{"model"}, nil), prometheus.CounterValue, value}
}

// Describe implements prometheus.Collector.
func (e *Engines) Describe(descs chan<- *prometheus.Desc) {
	for _, s := range rows {
		descs <- s.desc
	}
	descs <- cancelled
}

// Collect implements prometheus.Collector.
func (e *Engines) Collect(metrics chan<- prometheus.Metric) {
	for model, stats := range e.stats() {
		for _, s := range rows {
			metrics <- prometheus.MustNewConstMetric(s.desc, s.kind, s.value(&stats), model)
		}
		for phase, n := range stats.Cancelled {
			metrics <- prometheus.MustNewConstMetric(cancelled, prometheus.CounterValue, float64(n), model, engine.Phase(phase).String())
		}
	}
}
