package load

import (
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

func TestMetricsAreThoseOfTheModelAndTheProcess(t *testing.T) {
	m, err := readMetrics(strings.NewReader(`# HELP a Help.
# TYPE a gauge
a{model="m"} 3
a{model="other"} 5
a{model="m",b="x\"},\\ \n"} 4 1700000000000

process_cpu_seconds_total 1.5e+01
h_bucket{model="m",le="+Inf"} 2
h_sum{ le="1", model="m", } NaN
`), "m")
	if err != nil {
		t.Fatal(err)
	}
	if m["a"] != 7 || m["process_cpu_seconds_total"] != 15 || m["h_bucket"] != 2 || !math.IsNaN(m["h_sum"]) || len(m) != 4 {
		t.Errorf("%v", m)
	}
	for text, says := range map[string]string{
		`a{model="other"} 1`:     `no metrics of model "m"`,
		"a{model=\"m\"} 1\n{} 2": `line 2: "{} 2" is no sample`,
		`a{model="m} 1`:          "line 1: a: label model has no end",
		`a{model} 1`:             "line 1: a: labels end early",
		`a{model="m"}`:           "want a value",
		`a 1 2 3`:                "want a value",
		`a one`:                  `"one" is no number`,
	} {
		if m, err := readMetrics(strings.NewReader(text), "m"); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v %v, want %q", text, m, err, says)
		}
	}
}

// figures is a page of model m, which has 40 KV blocks.
func figures(cpuSeconds, tokens, queued, used int) string {
	return fmt.Sprintf("process_cpu_seconds_total %d\ninferno_output_tokens_total{model=\"m\"} %d\ninferno_requests_queued{model=\"m\"} %d\n"+
		"inferno_kv_blocks_used{model=\"m\"} %d\ninferno_kv_blocks{model=\"m\"} 40\n", cpuSeconds, tokens, queued, used)
}

// TestServerFiguresAreOfTheWindow: what the server did before the warm-up's end is not in them.
func TestServerFiguresAreOfTheWindow(t *testing.T) {
	var mu sync.Mutex
	reads := 0
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if reads++; reads == 3 {
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		text := map[int]string{
			1: figures(1, 500, 0, 0), // Open's
			2: figures(10, 1000, 2, 10),
		}[reads]
		if text == "" {
			text = figures(12, 5000, 6, 30)
		}
		_, _ = w.Write([]byte(text))
	}))
	defer page.Close()
	s := &scripted{answer: func(_ int, req *infernov1.GenerateRequest, a *answer) error { return a.all(req, 0, time.Millisecond) }}
	g := s.open(t, Options{Workload: fixed(2, 3), MetricsURL: page.URL})
	r := mustRun(t, g, Point{Concurrency: 1, WarmUp: 10 * time.Millisecond, Duration: 1500 * time.Millisecond})
	f := r.Server
	// Read as the window begins, a second later, which fails, and as it ends.
	if f == nil || *f.CPUSeconds != 2 || *f.OutputTokens != 4000 || *f.CPUPerToken != 500 || f.Queued.Mean != 4 || f.Queued.Max != 6 ||
		f.KVUsed.Mean != .5 || f.KVUsed.Max != .75 || f.Unread != 1 || !strings.Contains(f.UnreadReason, "503") ||
		f.Preemptions != nil || f.Running != nil {
		t.Errorf("%+v after %d readings", f, reads)
	}
	if r.GeneratorCPU <= 0 {
		t.Errorf("the generator took %v µs of CPU a token", r.GeneratorCPU)
	}
}
