package soak

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/inferno-serve/inferno/internal/device/devicescript"
)

// A queue that is long enough for minutes is kept as short as --max-queue-wait says: who would wait longer is told so, and those that are taken
// wait about as long as that at most.
func TestQueueIsAsLongAsTheWaitThatIsAllowed(t *testing.T) {
	const places, tokens, step, bound = 8, 20, 10 * time.Millisecond, 500 * time.Millisecond // 40 requests a second
	duration := time.Duration(count(2, 20)) * time.Second
	r := serveApart(t, settings{
		Device: devicescript.Options{Bytes: 64 << 20, Step: step}, Context: 1024,
		Flags: []string{"--max-batch=8", "--max-queue=100000", "--kv-memory=4MiB", "--max-queue-wait=" + bound.String()},
	})
	clients := r.dial(8)
	var failed failures
	var mu sync.Mutex
	var waits []time.Duration
	byWait := 0
	var all sync.WaitGroup
	calls := 0
	for began := time.Now(); time.Since(began) < duration; calls++ {
		time.Sleep(5 * time.Millisecond) // five times as often
		i, known := calls, time.Since(began) > duration/10
		all.Go(func() {
			stream, err := open(t.Context(), clients[i%8], prompt(i, 16), tokens)
			if err != nil {
				failed.add(err)
				return
			}
			first, err := stream.stream.Recv()
			switch {
			case err == nil:
				_, _, err = stream.rest()
				failed.add(err)
				mu.Lock()
				defer mu.Unlock()
				if known { // before, there is nothing to expect a wait by
					waits = append(waits, first.GetStart().GetQueued().AsDuration())
				}
			case refused(err) && strings.Contains(err.Error(), "at most "+bound.String()+" may"):
				mu.Lock()
				defer mu.Unlock()
				byWait++
			default:
				failed.add(err)
			}
		})
	}
	all.Wait()
	failed.report(t, calls)
	if byWait == 0 || len(waits) < places {
		t.Errorf("%d were refused for the wait and %d served", byWait, len(waits))
	}
	figure(t, quantile(waits, 0.99) <= 2*bound, "%d served after waits of %v (p50), %v (p99), %v at most, where %v are allowed; %d refused",
		len(waits), quantile(waits, 0.5), quantile(waits, 0.99), quantile(waits, 1), bound, byWait)
}
