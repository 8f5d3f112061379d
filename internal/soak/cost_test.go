package soak

import (
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/inferno-serve/inferno/internal/device/devicescript"
)

// What the server pays for a token, all of its threads together: the loop's waits for the device, decoding, encoding, and the kernel's sockets.
// A step of 16 ms is what a card takes for an 8B model at batch 256.
func TestProcessorTimeOfAToken(t *testing.T) {
	if !full {
		t.Skip("a figure, for SOAK=full")
	}
	for _, c := range []struct {
		streams, connections int
		windows              string // of the clients
		limit                float64
	}{
		{256, 16, "dynamic", 25},
		{256, 256, "dynamic", math.Inf(1)}, // a client whose windows grow answers each message with a ping where it has one at a time
		{256, 256, "fixed", 25},
		{32, 4, "fixed", math.Inf(1)},
		{1, 1, "fixed", math.Inf(1)},
	} {
		t.Run(fmt.Sprintf("%d streams, %d connections, %s windows", c.streams, c.connections, c.windows), func(t *testing.T) {
			const step = 16 * time.Millisecond
			r := serveApart(t, settings{
				Device: devicescript.Options{Bytes: 256 << 20, Step: step}, Context: 2048,
				Flags: []string{"--max-batch=256", "--kv-memory=64MiB"},
			})
			var options []grpc.DialOption
			if c.windows == "fixed" {
				options = append(options, grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(1<<20))
			}
			clients := r.dial(c.connections, options...)
			tokens := 500
			before, output := r.metric("process_cpu_seconds_total"), r.metric("inferno_output_tokens_total")
			began := time.Now()
			var failed failures
			var all sync.WaitGroup
			for i := range c.streams {
				all.Go(func() {
					got, err := generate(t.Context(), clients[i%c.connections], request(prompt(i, 128), tokens))
					if err == nil && len(got) != tokens {
						err = fmt.Errorf("%d tokens, want %d", len(got), tokens)
					}
					failed.add(err)
				})
			}
			all.Wait()
			failed.report(t, c.streams)
			took, made := time.Since(began), r.metric("inferno_output_tokens_total")-output
			if made != float64(c.streams*tokens) {
				t.Errorf("%v tokens were generated, want %d", made, c.streams*tokens)
			}
			each := 1e6 * (r.metric("process_cpu_seconds_total") - before) / made
			figure(t, each <= c.limit, "%.1f µs of processor time a token (%.0f tokens a second)", each, made/took.Seconds())
		})
	}
}
