package soak

import (
	"sync"
	"testing"
	"time"

	"github.com/inferno-serve/inferno/internal/device/devicescript"
)

// Many streams at once, each of which gets all of its own tokens.
func TestManyStreams(t *testing.T) {
	streams, connections, tokens := count(200, 2000), count(10, 100), count(8, 100)
	r := serve(t, settings{
		Device: devicescript.Options{Bytes: 256 << 20, Step: 2 * time.Millisecond}, Context: 512,
		Flags: []string{"--max-batch=2048", "--max-queue=4096", "--max-batch-tokens=4096", "--kv-memory=64MiB"},
	})
	clients := r.dial(connections)
	var failed failures
	var all sync.WaitGroup
	began := time.Now()
	for i := range streams {
		all.Go(func() {
			p := prompt(i, 16)
			got, err := generate(t.Context(), clients[i%connections], request(p, tokens))
			if err == nil {
				err = checkTokens(got, p, tokens)
			}
			failed.add(err)
		})
	}
	all.Wait()
	failed.report(t, streams)
	r.waitMetric("inferno_kv_blocks_used", is(0))
	t.Logf("%d streams of %d tokens on %d connections: %.1f s, %.0f tokens a second", streams, tokens, connections,
		time.Since(began).Seconds(), float64(streams*tokens)/time.Since(began).Seconds())
}
