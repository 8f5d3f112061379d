package soak

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/model"
	"github.com/inferno-serve/inferno/internal/model/llama"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// A real model whose running requests need four times the pool: each gets the greedy tokens that it gets alone.
func TestSmolLM2WithAQuarterOfThePool(t *testing.T) {
	path := os.Getenv("INFERNO_SMOLLM2")
	if path == "" {
		t.Skip("INFERNO_SMOLLM2 names no file: `make test` fetches the default model")
	}
	if testing.Short() {
		t.Skip("a real model")
	}
	streams, tokens := count(8, 64), count(16, 64)
	texts := []string{
		"The capital of France is", "Once upon a time there was", "def fibonacci(n):", "1 2 3 4 5 6 7 8 9", "日本の首都は", "Dear Sir or Madam,", "Water boils at", "The opposite of hot is",
	}
	q := func(i int) *infernov1.GenerateRequest {
		return &infernov1.GenerateRequest{
			Model: "m", Input: &infernov1.GenerateRequest_Text{Text: fmt.Sprintf("%d. %s", i, texts[i%len(texts)])},
			Sampling: &infernov1.SamplingParameters{Temperature: new(float32(0))},
			Stopping: &infernov1.StoppingParameters{MaxTokens: new(uint32(tokens)), IgnoreEos: new(true)},
		}
	}
	const tokenBytes = 2 * 30 * 3 * 64 * 2 // keys and values of 30 layers, 3 heads of 64, F16
	context := 32 + 2*tokens
	demand := streams * (16 + tokens) // about: prompts are of 5 to 16 tokens
	start := func(poolTokens int) *rig {
		d, err := native.OpenCPU(native.CPUOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return serveOn(t, &settings{
			Flags: []string{fmt.Sprint("--kv-memory=", poolTokens*tokenBytes), fmt.Sprint("--max-batch=", streams), fmt.Sprint("--context=", context)},
		}, path, d, map[string]model.Builder{"llama": llama.New})
	}
	alone := make([][]int32, streams)
	r := start(4096)
	client := r.dial(1)[0]
	for i := range alone {
		var err error
		if alone[i], err = generate(t.Context(), client, q(i)); err != nil || len(alone[i]) != tokens {
			t.Fatalf("alone: %d tokens, %v", len(alone[i]), err)
		}
	}

	r = start(max(demand/4, context))
	clients := r.dial(4)
	var failed failures
	var all sync.WaitGroup
	for i := range streams {
		all.Go(func() {
			got, err := generate(t.Context(), clients[i%4], q(i))
			if err == nil && !slices.Equal(got, alone[i]) {
				err = fmt.Errorf("request %d: %v among others, %v alone", i, got, alone[i])
			}
			failed.add(err)
		})
	}
	all.Wait()
	failed.report(t, streams)
	preemptions := r.metric("inferno_preemptions_total")
	if preemptions == 0 && full {
		t.Error("nothing was preempted: the pool was large enough")
	}
	r.waitMetric("inferno_kv_blocks_used", is(0))
	t.Logf("%d streams of %d tokens in a pool of %d: as alone, %.0f preemptions", streams, tokens, max(demand/4, context), preemptions)
}
