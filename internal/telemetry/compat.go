package telemetry

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// VLLM gathers what from does and, behind it, the same values under the names that vLLM gives them, which the Kubernetes gateway for
// inference and ready-made dashboards read. Its `model` label is called model_name there, and everything runs in engine "0".
func VLLM(from prometheus.Gatherer) prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		families, err := from.Gather()
		all := append(slices.Clone(families), cacheConfig(families)...)
		made := map[string]*dto.MetricFamily{}
		for _, f := range families {
			name, ok := vllmNames[f.GetName()]
			if !ok {
				continue
			}
			if made[name] == nil {
				made[name] = &dto.MetricFamily{Name: new(name), Help: f.Help, Type: f.Type, Unit: f.Unit}
				all = append(all, made[name])
			}
			addRenamed(made[name], f)
		}
		slices.SortFunc(all, func(a, b *dto.MetricFamily) int { return cmp.Compare(a.GetName(), b.GetName()) })
		return all, err
	})
}

// vllmNames are vLLM's by ours, where the meaning is the same. Several of ours that are one there are added up: what was preempted waits too.
var vllmNames = map[string]string{
	"inferno_requests_suspended":              "vllm:num_requests_waiting",
	"inferno_requests_queued":                 "vllm:num_requests_waiting",
	"inferno_requests_running":                "vllm:num_requests_running",
	"inferno_kv_usage_ratio":                  "vllm:kv_cache_usage_perc",
	"inferno_prompt_tokens_total":             "vllm:prompt_tokens_total",
	"inferno_output_tokens_total":             "vllm:generation_tokens_total",
	"inferno_preemptions_total":               "vllm:num_preemptions_total",
	"inferno_prefix_cache_asked_tokens_total": "vllm:prefix_cache_queries_total",
	"inferno_prefix_cache_hit_tokens_total":   "vllm:prefix_cache_hits_total",
	"inferno_requests_finished_total":         "vllm:request_success_total",
	"inferno_batch_tokens":                    "vllm:iteration_tokens_total",
	"inferno_time_to_first_token_seconds":     "vllm:time_to_first_token_seconds",
	"inferno_inter_token_seconds":             "vllm:inter_token_latency_seconds",
	"inferno_time_per_output_token_seconds":   "vllm:request_time_per_output_token_seconds",
	"inferno_request_seconds":                 "vllm:e2e_request_latency_seconds",
	"inferno_queue_seconds":                   "vllm:request_queue_time_seconds",
	"inferno_prefill_seconds":                 "vllm:request_prefill_time_seconds",
	"inferno_decode_seconds":                  "vllm:request_decode_time_seconds",
	"inferno_request_prompt_tokens":           "vllm:request_prompt_tokens",
	"inferno_request_output_tokens":           "vllm:request_generation_tokens",
}

// vllmReasons are the values of its label finished_reason by ours of reason; the rest ends as "stop".
var vllmReasons = map[string]string{"max_tokens": "length", "context_full": "length", "time_limit": "length"}

// addRenamed adds the values of f with vLLM's labels. They are shared with f.
func addRenamed(to, f *dto.MetricFamily) {
	for _, m := range f.GetMetric() {
		labels := []*dto.LabelPair{label("engine", "0")}
		for _, l := range m.GetLabel() {
			switch l.GetName() {
			case "model":
				labels = append(labels, label("model_name", l.GetValue()))
			case "reason":
				labels = append(labels, label("finished_reason", cmp.Or(vllmReasons[l.GetValue()], "stop")))
			default:
				labels = append(labels, l)
			}
		}
		slices.SortFunc(labels, func(a, b *dto.LabelPair) int { return cmp.Compare(a.GetName(), b.GetName()) })
		addSeries(to, &dto.Metric{Label: labels, Gauge: m.Gauge, Counter: m.Counter, Histogram: m.Histogram})
	}
}

// addSeries adds m to what has the same labels, if anything has.
func addSeries(to *dto.MetricFamily, m *dto.Metric) {
	i := slices.IndexFunc(to.Metric, func(s *dto.Metric) bool {
		return slices.EqualFunc(s.GetLabel(), m.GetLabel(), func(a, b *dto.LabelPair) bool {
			return a.GetName() == b.GetName() && a.GetValue() == b.GetValue()
		})
	})
	switch {
	case i < 0:
		to.Metric = append(to.Metric, m)
	case m.Gauge != nil:
		to.Metric[i].Gauge = &dto.Gauge{Value: new(to.Metric[i].GetGauge().GetValue() + m.GetGauge().GetValue())}
	case m.Counter != nil:
		to.Metric[i].Counter = &dto.Counter{Value: new(to.Metric[i].GetCounter().GetValue() + m.GetCounter().GetValue())}
	}
}

// cacheConfig is the family that says how large the KV cache is.
func cacheConfig(families []*dto.MetricFamily) []*dto.MetricFamily {
	sizes, blocks := gaugesByModel(families, "inferno_kv_block_tokens"), gaugesByModel(families, "inferno_kv_blocks")
	out := &dto.MetricFamily{
		Name: new("vllm:cache_config_info"), Help: new("Always 1; its labels say how large the KV cache is."), Type: dto.MetricType_GAUGE.Enum(),
	}
	for model, size := range sizes {
		out.Metric = append(out.Metric, &dto.Metric{
			Label: []*dto.LabelPair{
				label("block_size", strconv.Itoa(int(size))), label("engine", "0"), label("model_name", model),
				label("num_gpu_blocks", strconv.Itoa(int(blocks[model]))),
			},
			Gauge: &dto.Gauge{Value: new(1.0)},
		})
	}
	if len(out.Metric) == 0 {
		return nil
	}
	slices.SortFunc(out.Metric, func(a, b *dto.Metric) int { return cmp.Compare(a.GetLabel()[2].GetValue(), b.GetLabel()[2].GetValue()) })
	return []*dto.MetricFamily{out}
}

func gaugesByModel(families []*dto.MetricFamily, name string) map[string]float64 {
	values := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "model" {
					values[l.GetValue()] = m.GetGauge().GetValue()
				}
			}
		}
	}
	return values
}

func label(name, value string) *dto.LabelPair {
	return &dto.LabelPair{Name: new(name), Value: new(value)}
}
