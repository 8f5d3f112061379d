package telemetry

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/inferno-serve/inferno/internal/health"
)

// fakeCard has one reading, and one event.
type fakeCard struct{ events chan health.CardEvent }

func (fakeCard) Read() (health.Reading, error) {
	return health.Reading{
		Name: "H", UUID: "GPU-1", Temperature: 61, Throttled: []string{"heat"}, Corrected: 5, Uncorrected: 3, TotalBytes: 1000, UsedBytes: 300,
		OthersBytes: 70, Recovery: health.RecoveryReboot,
	}, nil
}

func (c fakeCard) Wait(limit time.Duration) (health.CardEvent, bool, error) {
	select {
	case e := <-c.events:
		return e, true, nil
	case <-time.After(limit):
		return health.CardEvent{}, false, nil
	}
}

func (fakeCard) Close() {}

func TestCardMetricsHoldWhatTheDriverSays(t *testing.T) {
	registry, changed := prometheus.NewRegistry(), make(chan struct{}, 1)
	card := fakeCard{make(chan health.CardEvent)}
	g := health.NewGPU(health.GPUOptions{Ordinal: 2, Card: card, Log: slog.New(slog.DiscardHandler), Changed: func() { changed <- struct{}{} }})
	NewGPU(registry, g)
	if text := scrape(t, registry); strings.Contains(text, "inferno_gpu") {
		t.Errorf("a card was told of before its first reading:\n%s", text)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	card.events <- health.CardEvent{XID: 31}
	<-changed
	for _, _, ok := g.Reading(); !ok; _, _, ok = g.Reading() {
		time.Sleep(time.Millisecond) // the first reading is taken beside the events
	}
	text := scrape(t, registry)
	for _, line := range []string{
		`inferno_gpu_info{gpu="2",name="H",uuid="GPU-1"} 1`,
		`inferno_gpu_temperature_celsius{gpu="2"} 61`,
		`inferno_gpu_throttled{gpu="2"} 1`,
		`inferno_gpu_memory_bytes{gpu="2"} 1000`,
		`inferno_gpu_memory_used_bytes{gpu="2"} 300`,
		`inferno_gpu_memory_others_bytes{gpu="2"} 70`,
		`inferno_gpu_ecc_errors_total{gpu="2",kind="corrected"} 5`,
		`inferno_gpu_ecc_errors_total{gpu="2",kind="uncorrected"} 3`,
		`inferno_gpu_recovery_action{gpu="2"} 2`,
		`inferno_gpu_xid_total{gpu="2",xid="31"} 1`,
		`inferno_gpu_xid_total{gpu="2",xid="13"} 0`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %s in\n%s", line, text)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
