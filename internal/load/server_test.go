package load

import (
	"context"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferno-serve/inferno/client"
	"github.com/inferno-serve/inferno/internal/backend"
	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/discovery/static"
	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/model"
	"github.com/inferno-serve/inferno/internal/model/llama"
)

// real is a whole server in this process, with a tiny model on the CPU.
type real struct {
	grpc, admin string
	step        atomic.Int64 // ns that the loop sleeps behind each step
}

// ObserveStep slows the loop down.
func (r *real) ObserveStep(*engine.StepInfo) { time.Sleep(time.Duration(r.step.Load())) }

func (r *real) ObserveRequest(*engine.RequestInfo) {}

// addresses hands on where a server listens, by what it logs, and that its model is ready.
type addresses struct {
	slog.Handler
	listening chan [2]string
	ready     chan struct{}
}

func (a addresses) Handle(_ context.Context, record slog.Record) error {
	switch record.Message {
	case "listening":
		var found [2]string
		record.Attrs(func(attribute slog.Attr) bool {
			switch attribute.Key {
			case "grpc":
				found[0] = attribute.Value.String()
			case "admin":
				found[1] = attribute.Value.String()
			}
			return true
		})
		a.listening <- found
	case "model ready":
		close(a.ready)
	}
	return nil
}

func startReal(t *testing.T, flags ...string) *real {
	t.Helper()
	c, err := config.Load(append([]string{
		"--model=tiny=../model/testdata/llama", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--device=cpu", "--kv-memory=1MiB",
	}, flags...), "test", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	r := &real{}
	a := addresses{slog.DiscardHandler, make(chan [2]string, 1), make(chan struct{})}
	a.Handler = slog.NewTextHandler(io.Discard, nil)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- backend.Run(ctx, backend.Options{
			Config: c, Version: "test", Log: slog.New(a), Registry: static.New(), Observer: r,
			OpenDevice:    func() (device.Device, error) { return native.OpenCPU(native.CPUOptions{Threads: 1}) },
			Architectures: map[string]model.Builder{"llama": llama.New},
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for range 2 {
		select {
		case found := <-a.listening:
			r.grpc, r.admin = found[0], found[1]
		case <-a.ready:
		case err := <-done:
			t.Fatal(err)
		}
	}
	return r
}

// openReal may be called when the model is ready, since GetModel says what it takes.
func (r *real) open(t *testing.T, w Workload, targets Targets) *Generator {
	t.Helper()
	g, err := Open(t.Context(), Options{
		Dial:  func() (*client.Client, error) { return client.New(client.Options{Addr: r.grpc, DisableRetries: true}) },
		Model: "tiny", Workload: w, Targets: targets, Connections: 3, StreamsPerConnection: 4, MetricsURL: "http://" + r.admin + "/metrics",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func (r *real) metrics(t *testing.T) string {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := c.Get("http://" + r.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestFiguresAgreeWithTheServers: what clients counted is what the engine did.
func TestFiguresAgreeWithTheServers(t *testing.T) {
	s := startReal(t)
	w := Workload{Prompt: Lengths{Min: 1, Max: 30, mu: 2, sigma: .5}, Output: Lengths{Min: 1, Max: 12, mu: 2, sigma: .5}, Seed: 1}
	g := s.open(t, w, Targets{})
	r := mustRun(t, g, Point{Concurrency: 16, Requests: 120})
	if r.Requests != 120 || r.Succeeded != 120 || r.Short != 0 || r.Good != 120 || r.Failed != 0 || r.Error != "" {
		t.Fatalf("%+v", r)
	}
	f := r.Server
	// The engine counts a step behind handing out its tokens: the last one, of up to 16, may not be in.
	if f == nil || f.OutputTokens == nil || math.Abs(*f.OutputTokens-float64(r.OutputTokens)) > 16 || f.PromptTokens == nil ||
		*f.PromptTokens < float64(r.PromptTokens-r.CachedPromptTokens) || *f.Steps < 12 || *f.CPUSeconds <= 0 ||
		f.Running.Max > 64 || f.KVUsed.Max > 1 || f.Unread != 0 {
		t.Errorf("%+v, and the server says %+v", r, f)
	}
	// 16 requests, 4 on a connection.
	if r.Connections != 4 {
		t.Errorf("%d connections, want 4", r.Connections)
	}
	// A request's first token comes before its end, and its queue was part of that.
	if r.FirstToken.Max > r.Total.Max || r.Queued.P50 > r.FirstToken.P50 || r.FirstToken.P50 <= 0 {
		t.Errorf("first token %+v, end to end %+v, queued %+v", r.FirstToken, r.Total, r.Queued)
	}
}

func TestOverloadIsRefusedAndCounted(t *testing.T) {
	s := startReal(t, "--max-batch=2", "--max-queue=2")
	g := s.open(t, fixed(5, 20), Targets{FirstToken: time.Hour})
	s.step.Store(int64(2 * time.Millisecond)) // 2 × 20 tokens in 40 ms: 50 requests a second at the most
	r := mustRun(t, g, Point{Rate: 500, Requests: 100})
	refused := r.Errors["RESOURCE_EXHAUSTED"]
	if r.Requests != 100 || refused == 0 || r.Succeeded+refused != 100 || r.Good != r.Succeeded || r.Unexpected(&Workload{}) != 0 {
		t.Errorf("%+v", r)
	}
	if r.Server.Rejected == nil || *r.Server.Rejected != float64(refused) {
		t.Errorf("%d refused, and the server says %+v", refused, r.Server)
	}
}

func TestCancelledRequestsLeaveNothing(t *testing.T) {
	s := startReal(t)
	w := fixed(5, 40)
	w.Cancel = Cancel{.5, CancelTime{Random: true}}
	g := s.open(t, w, Targets{})
	s.step.Store(int64(200 * time.Microsecond))
	r := mustRun(t, g, Point{Concurrency: 12, Requests: 100})
	if r.Cancelled < 20 || r.Cancelled+r.Succeeded != 100 || r.Failed != 0 {
		t.Errorf("%+v", r)
	}
	ctx, cancel := contextWithin(t, time.Minute)
	defer cancel()
	for !strings.Contains(s.metrics(t), `inferno_requests_running{model="tiny"} 0`) {
		if ctx.Err() != nil {
			t.Fatalf("cancelled requests run on:\n%s", s.metrics(t))
		}
	}
}
