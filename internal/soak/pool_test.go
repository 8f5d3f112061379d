package soak

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/inferno-serve/inferno/internal/device/devicescript"
)

// A pool that holds a quarter of what all running requests will need: requests are preempted and computed again, and all get what they would have
// got. The device takes its time by rows, so that what is computed twice shows.
func TestPoolOfAQuarterOfTheDemand(t *testing.T) {
	requests, promptTokens, tokens := count(32, 256), 64, 192 // 16 blocks each
	const headDim = 64
	blockBytes := 16 * devicescript.TokenBytes(headDim)
	run := func(blocks int) (took time.Duration, preemptions float64) {
		r := serve(t, settings{
			Device: devicescript.Options{Bytes: 128 << 20, Step: 100 * time.Microsecond, Row: 20 * time.Microsecond}, Context: 256, HeadDim: headDim,
			Flags: []string{
				fmt.Sprint("--max-batch=", requests), "--max-queue=1024", fmt.Sprint("--kv-memory=", blocks*blockBytes), "--max-batch-tokens=512",
			},
		})
		clients := r.dial(8)
		var failed failures
		var all sync.WaitGroup
		began := time.Now()
		for i := range requests {
			all.Go(func() {
				p := prompt(i, promptTokens)
				got, err := generate(t.Context(), clients[i%8], request(p, tokens))
				if err == nil {
					err = checkTokens(got, p, tokens)
				}
				failed.add(err)
			})
		}
		all.Wait()
		took = time.Since(began)
		failed.report(t, requests)
		r.waitMetric("inferno_kv_blocks_used", is(0))
		return took, r.metric("inferno_preemptions_total")
	}
	whole, none := run(16 * requests)
	quarter, preemptions := run(4 * requests)
	if none != 0 || preemptions == 0 {
		t.Errorf("%v preemptions with room for all, %v with room for a quarter", none, preemptions)
	}
	figure(t, quarter.Seconds() <= 1.5*whole.Seconds(), "%d requests: %.2f s with room for all, %.2f s with room for a quarter (%.2f ×), %.0f preemptions",
		requests, whole.Seconds(), quarter.Seconds(), quarter.Seconds()/whole.Seconds(), preemptions)
}
