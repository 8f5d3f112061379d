package telemetry

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/inferno-serve/inferno/internal/engine"
)

// BenchmarkObservedStep is what the engine's loop spends on metrics in a step of 256 sequences, of which one has its first token.
func BenchmarkObservedStep(b *testing.B) {
	b.ReportAllocs()
	registry := prometheus.NewRegistry()
	none := func() map[string]engine.Stats { return nil }
	observers := []engine.Observer{NewEngines(registry, none).Observer("m"), NewRequests(registry, none).Observer("m")}
	step := &engine.StepInfo{
		Duration: 15 * time.Millisecond, Sequences: 256, DecodeTokens: 255, PrefillTokens: 100,
		FirstTokens: []time.Duration{time.Second}, Gaps: []engine.Gap{{Time: 15 * time.Millisecond, Count: 255}},
	}
	for b.Loop() {
		for _, o := range observers {
			o.ObserveStep(step)
		}
	}
}
