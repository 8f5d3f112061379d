package telemetry

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// The client library's histogram, which takes values one at a time, says the same.
func TestValuesThatComeTogetherAreCountedLikeSingleOnes(t *testing.T) {
	const name, help = "inferno_test_seconds", "A test."
	edges := []float64{.5, 1, 2.5, 10}
	want := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: edges}, []string{"model"})
	got := newHistograms(name, help, edges)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 500 {
		model := []string{"a", "b"}[i%2]
		value := float64(random.IntN(60)) / 4 // edges themselves among them; sums are exact
		n := random.IntN(5)
		got.of(model).observe(value, n)
		for range n {
			want.WithLabelValues(model).Observe(value)
		}
	}
	text := func(c prometheus.Collector) string {
		registry := prometheus.NewRegistry()
		registry.MustRegister(c)
		return scrape(t, registry)
	}
	if got, want := text(got), text(want); got != want || !strings.Contains(got, name+`_bucket{model="b",le="+Inf"}`) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}
