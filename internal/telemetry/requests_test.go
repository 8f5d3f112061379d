package telemetry

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/inferno-serve/inferno/internal/engine"
)

// wantLines says which lines a page lacks.
func wantLines(t *testing.T, page string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+page, "\n"+line+"\n") {
			t.Errorf("metrics lack %s in:\n%s", line, page)
		}
	}
}

func TestRequestMetricsSayWhatRequestsWere(t *testing.T) {
	registry := prometheus.NewRegistry()
	stats := engine.Stats{BlocksUsed: 5, BlocksTotal: 20, BlockSize: 16}
	stats.Freed.Counts[0], stats.Freed.Counts[2], stats.Freed.Counts[len(engine.FreedEdges)] = 4, 2, 1 // up to 1 ms, 5 ms, and over 10 s
	stats.Freed.Sum = 12500 * time.Millisecond
	requests := NewRequests(registry, func() map[string]engine.Stats { return map[string]engine.Stats{"m": stats} })
	o := requests.Observer("m")
	o.ObserveStep(&engine.StepInfo{PrefillTokens: 100, DecodeTokens: 7})
	o.ObserveRequest(&engine.RequestInfo{
		Reason: engine.MaxTokens, Usage: engine.Usage{PromptTokens: 100, CompletionTokens: 11},
		Timings: engine.Timings{Prefill: 20 * time.Millisecond, Decode: time.Second},
	})
	o.ObserveRequest(&engine.RequestInfo{Reason: engine.MaxTokens, Usage: engine.Usage{PromptTokens: 3, CompletionTokens: 1}}) // has no gap
	o.ObserveRequest(&engine.RequestInfo{Err: engine.ErrAborted, Usage: engine.Usage{PromptTokens: 7}})

	wantLines(t, scrape(t, registry),
		`inferno_kv_usage_ratio{model="m"} 0.25`,
		`inferno_kv_block_tokens{model="m"} 16`,
		`inferno_cancel_to_free_seconds_bucket{model="m",le="0.001"} 4`,
		`inferno_cancel_to_free_seconds_bucket{model="m",le="0.0025"} 4`,
		`inferno_cancel_to_free_seconds_bucket{model="m",le="0.005"} 6`,
		`inferno_cancel_to_free_seconds_bucket{model="m",le="10"} 6`,
		`inferno_cancel_to_free_seconds_bucket{model="m",le="+Inf"} 7`,
		`inferno_cancel_to_free_seconds_sum{model="m"} 12.5`,
		`inferno_batch_tokens_sum{model="m"} 107`,
		`inferno_request_prompt_tokens_sum{model="m"} 103`,
		`inferno_request_output_tokens_sum{model="m"} 12`,
		`inferno_prefill_seconds_count{model="m"} 2`,
		`inferno_decode_seconds_sum{model="m"} 1`,
		`inferno_time_per_output_token_seconds_sum{model="m"} 0.1`,
		`inferno_time_per_output_token_seconds_count{model="m"} 1`,
	)
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("names and help: %v %v", problems, err)
	}
	step, request := &engine.StepInfo{PrefillTokens: 1}, &engine.RequestInfo{Reason: engine.MaxTokens, Usage: engine.Usage{CompletionTokens: 3}}
	if n := testing.AllocsPerRun(100, func() { o.ObserveStep(step); o.ObserveRequest(request) }); n != 0 {
		t.Errorf("an observed step and request allocate %v times", n)
	}
}

func TestServingAndBuildAreTold(t *testing.T) {
	registry := prometheus.NewRegistry()
	NewBuild(registry, "v1.2")
	NewHealth(registry, func() (bool, map[string]bool) { return true, map[string]bool{"engine/m": true, "memory": false} })
	page := scrape(t, registry)
	wantLines(t, page, "inferno_serving 1", `inferno_component_serving{component="engine/m"} 1`, `inferno_component_serving{component="memory"} 0`)
	if !strings.Contains(page, `inferno_build_info{go_version="go`) || !strings.Contains(page, `version="v1.2"} 1`) {
		t.Errorf("no build in:\n%s", page)
	}
}

// TestVLLMNamesHoldTheSameValues compares with the names and labels that vLLM's own pages have.
func TestVLLMNamesHoldTheSameValues(t *testing.T) {
	registry := prometheus.NewRegistry()
	all := map[string]engine.Stats{
		"a": {Running: 3, Queued: 4, Suspended: 1, BlocksUsed: 5, BlocksTotal: 20, BlockSize: 16, OutputTokens: 11, PromptTokens: 12, Preemptions: 2},
		"b": {BlocksTotal: 7, BlockSize: 64},
	}
	stats := func() map[string]engine.Stats { return all }
	engines, requests := NewEngines(registry, stats), NewRequests(registry, stats)
	for _, o := range []engine.Observer{engines.Observer("a"), requests.Observer("a")} {
		o.ObserveStep(&engine.StepInfo{FirstTokens: []time.Duration{40 * time.Millisecond}, PrefillTokens: 9})
		for _, reason := range []engine.FinishReason{engine.EndToken, engine.StopString, engine.MaxTokens, engine.ContextFull, engine.ContextFull} {
			o.ObserveRequest(&engine.RequestInfo{Reason: reason, Timings: engine.Timings{Total: time.Second}})
		}
	}
	page := scrape(t, VLLM(registry))
	wantLines(t, page,
		`vllm:num_requests_running{engine="0",model_name="a"} 3`,
		`vllm:num_requests_waiting{engine="0",model_name="a"} 5`,
		`vllm:num_requests_waiting{engine="0",model_name="b"} 0`,
		`vllm:kv_cache_usage_perc{engine="0",model_name="a"} 0.25`,
		`vllm:cache_config_info{block_size="16",engine="0",model_name="a",num_gpu_blocks="20"} 1`,
		`vllm:cache_config_info{block_size="64",engine="0",model_name="b",num_gpu_blocks="7"} 1`,
		`vllm:generation_tokens_total{engine="0",model_name="a"} 11`,
		`vllm:prompt_tokens_total{engine="0",model_name="a"} 12`,
		`vllm:num_preemptions_total{engine="0",model_name="a"} 2`,
		`vllm:request_success_total{engine="0",finished_reason="stop",model_name="a"} 2`,
		`vllm:request_success_total{engine="0",finished_reason="length",model_name="a"} 3`,
		`vllm:time_to_first_token_seconds_bucket{engine="0",model_name="a",le="0.05"} 1`,
		`vllm:time_to_first_token_seconds_sum{engine="0",model_name="a"} 0.04`,
		`vllm:e2e_request_latency_seconds_count{engine="0",model_name="a"} 5`,
		`vllm:iteration_tokens_total_sum{engine="0",model_name="a"} 9`,
		`inferno_requests_running{model="a"} 3`, // its own are there still
	)
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "# TYPE ") && strings.Count(page, line) != 1 {
			t.Errorf("%q stands %d times", line, strings.Count(page, line))
		}
	}
	if strings.Contains(scrape(t, VLLM(prometheus.NewRegistry())), "vllm:") {
		t.Error("vLLM's names without a value of ours")
	}
	if page := scrape(t, registry); strings.Contains(page, "vllm:") {
		t.Error("gathering under vLLM's names has changed our own")
	}
}
