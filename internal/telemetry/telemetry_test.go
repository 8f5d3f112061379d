package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEngineMetricsHoldWhatTheEngineSays(t *testing.T) {
	registry := prometheus.NewRegistry()
	stats := engine.Stats{Running: 3, BlocksUsed: 7, BlocksCached: 1, BlocksTotal: 9, CacheAsked: 40, CacheHits: 20, CacheEvictions: 5, OutputTokens: 11, DraftTokens: 8, AcceptedTokens: 6, HostTime: 1500 * time.Millisecond}
	stats.Cancelled[engine.Decoding] = 2
	engines := NewEngines(registry, func() map[string]engine.Stats { return map[string]engine.Stats{"m": stats} })
	o := engines.Observer("m")
	o.ObserveStep(&engine.StepInfo{
		Duration: 20 * time.Millisecond, Sequences: 3, FirstTokens: []time.Duration{time.Second},
		Gaps: []engine.Gap{{Time: time.Millisecond, Count: 2}},
	})
	o.ObserveRequest(&engine.RequestInfo{Reason: engine.EndToken, Timings: engine.Timings{Total: time.Second}})
	for _, reason := range engine.FinishReasons()[1:] {
		engines.Observer("every reason").ObserveRequest(&engine.RequestInfo{Reason: reason})
	}
	o.ObserveRequest(&engine.RequestInfo{Err: engine.ErrAborted})

	text := scrape(t, registry)
	for _, line := range []string{
		`inferno_requests_running{model="m"} 3`,
		`inferno_kv_blocks_used{model="m"} 7`,
		`inferno_kv_blocks{model="m"} 9`,
		`inferno_kv_blocks_cached{model="m"} 1`,
		`inferno_prefix_cache_asked_tokens_total{model="m"} 40`,
		`inferno_prefix_cache_hit_tokens_total{model="m"} 20`,
		`inferno_prefix_cache_evicted_blocks_total{model="m"} 5`,
		`inferno_output_tokens_total{model="m"} 11`,
		`inferno_draft_tokens_total{model="m"} 8`,
		`inferno_accepted_draft_tokens_total{model="m"} 6`,
		`inferno_step_host_seconds_total{model="m"} 1.5`,
		`inferno_requests_cancelled_total{model="m",phase="decode"} 2`,
		`inferno_requests_cancelled_total{model="m",phase="queued"} 0`,
		`inferno_step_seconds_count{model="m"} 1`,
		`inferno_time_to_first_token_seconds_sum{model="m"} 1`,
		`inferno_inter_token_seconds_count{model="m"} 2`,
		`inferno_request_seconds_count{model="m"} 1`,
		`inferno_requests_finished_total{model="m",reason="` + engine.EndToken.String() + `"} 1`,
		`inferno_requests_finished_total{model="every reason",reason="stop_string"} 1`,
		`inferno_requests_finished_total{model="every reason",reason="time_limit"} 1`,
		`inferno_requests_finished_total{model="every reason",reason="loop"} 1`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("metrics lack %s in:\n%s", line, text)
		}
	}
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("names and help: %v %v", problems, err)
	}
	step := &engine.StepInfo{Sequences: 1}
	if n := testing.AllocsPerRun(100, func() { o.ObserveStep(step) }); n != 0 {
		t.Errorf("an observed step allocates %v times", n)
	}
}

type heap struct{ next device.Ptr }

func (h *heap) Alloc(int64) (device.Ptr, error) { h.next += 1 << 20; return h.next, nil }
func (h *heap) Free(device.Ptr)                 {}

func TestAModelThatIsGoneHasNoMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	none := func() map[string]engine.Stats { return nil }
	engines, requests := NewEngines(registry, none), NewRequests(registry, none)
	for _, model := range []string{"gone", "here"} {
		for _, o := range []engine.Observer{engines.Observer(model), requests.Observer(model)} {
			o.ObserveStep(&engine.StepInfo{
				Sequences: 1, FirstTokens: []time.Duration{time.Second}, Gaps: []engine.Gap{{Time: time.Millisecond, Count: 2}},
			})
			o.ObserveRequest(&engine.RequestInfo{Reason: engine.EndToken, Usage: engine.Usage{CompletionTokens: 2}})
		}
	}
	engines.Forget("gone")
	requests.Forget("gone")
	text := scrape(t, registry)
	if strings.Contains(text, `"gone"`) || !strings.Contains(text, `inferno_inter_token_seconds_count{model="here"} 2`) {
		t.Errorf("metrics of a model that is gone, or none of the other:\n%s", text)
	}
}

func TestMemoryMetricsFollowTheTracker(t *testing.T) {
	registry := prometheus.NewRegistry()
	tracker := memory.NewTracker(memory.TrackerOptions{Limit: 1 << 20})
	NewMemory(registry, tracker)
	pool, err := memory.NewPool(memory.PoolOptions{Source: &heap{}, Tracker: tracker, Owner: "m", Limit: 4096})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Alloc(memory.KV, 1024); err != nil {
		t.Fatal(err)
	}
	text := scrape(t, registry)
	for _, line := range []string{
		`inferno_memory_bytes{owner="m",purpose="kv"} 1024`,
		`inferno_memory_bytes{owner="m",purpose="reserved"} 3072`,
		`inferno_memory_limit_bytes 1.048576e+06`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("metrics lack %s in:\n%s", line, text)
		}
	}
	pool.Close()
	if text := scrape(t, registry); strings.Contains(text, `owner="m"`) {
		t.Errorf("a closed pool is still counted:\n%s", text)
	}
}

func TestLoggerHonoursFormatAndLevel(t *testing.T) {
	var out bytes.Buffer
	log, level, err := NewLogger(&out, "json", "warn")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("quiet")
	log.Warn("loud", "model", "m\nn")
	var line struct{ Msg, Model, Level string }
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line.Msg != "loud" || line.Model != "m\nn" || line.Level != "WARN" {
		t.Errorf("%q: %v", out.String(), err)
	}
	level.Set(slog.LevelDebug)
	out.Reset()
	if log.Debug("more"); !strings.Contains(out.String(), "more") {
		t.Error("the level was changed, and nothing more is logged")
	}
	if _, _, err := NewLogger(&out, "text", "chatty"); err == nil {
		t.Error("level chatty accepted")
	}
}

// scrape reads /metrics over a real socket, and sees the admin listener end with its context.
func scrape(t *testing.T, metrics prometheus.Gatherer) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Admin{Metrics: metrics}.Serve(ctx, l) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + l.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	return string(text)
}
