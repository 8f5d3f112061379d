package soak

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/inferno-serve/inferno/internal/device/devicescript"
)

// One of ten tenants asks for a hundred times as much as each of the others, and for several times what can be served: it fills the queue, and
// is refused. The others never are, and are answered soon.
func TestLoudTenant(t *testing.T) {
	const quiet, loudness, tokens, soon = 9, 100, 10, time.Second
	duration, every := time.Duration(count(1, 20))*time.Second, 400*time.Millisecond
	r := serveApart(t, settings{
		Device: devicescript.Options{Bytes: 64 << 20, Step: 10 * time.Millisecond}, Context: 1024,
		Flags: []string{"--max-batch=8", "--max-queue=32", "--kv-memory=8MiB"},
	})
	clients := r.dial(10)
	var failed failures
	var calls, refusals, inTime, late atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	ask := func(tenant int, period time.Duration) {
		ctx := metadata.AppendToOutgoingContext(context.Background(), "x-inferno-tenant", fmt.Sprint("tenant ", tenant))
		var own sync.WaitGroup
		for next := time.Duration(0); next < duration; next += period {
			time.Sleep(next - time.Since(began))
			i := int(calls.Add(1))
			own.Go(func() {
				p := prompt(i, 16)
				sent := time.Now()
				got, err := generate(ctx, clients[tenant], request(p, tokens))
				switch {
				case err != nil && tenant == quiet && refused(err):
					refusals.Add(1)
				case err != nil:
					failed.add(fmt.Errorf("tenant %d: %w", tenant, err))
				default:
					failed.add(checkTokens(got, p, tokens))
				}
				switch {
				case tenant == quiet:
				case time.Since(sent) <= soon:
					inTime.Add(1)
				default:
					late.Add(1)
				}
			})
		}
		own.Wait()
	}
	for tenant := range quiet {
		all.Go(func() { ask(tenant, every) })
	}
	all.Go(func() { ask(quiet, every/loudness) })
	all.Wait()
	failed.report(t, int(calls.Load()))
	if refusals.Load() == 0 {
		t.Error("the loud tenant was never refused: it was not loud enough")
	}
	asked := inTime.Load() + late.Load()
	figure(t, inTime.Load()*100 >= asked*95, "%d of %d requests of quiet tenants were answered within %v; %d of %d others were refused",
		inTime.Load(), asked, soon, refusals.Load(), calls.Load()-asked)
	r.waitMetric("inferno_kv_blocks_used", is(0))
}
