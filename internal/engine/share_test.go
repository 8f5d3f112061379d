package engine

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
)

// One tenant may fill the queue, but not keep the others out: each gets its share beyond that, up to twice the queue.
func TestAFullQueueHasRoomForOtherTenants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{MaxQueue: 12, NumBlocks: 64}) // the loop does not run yet
		n := 0
		taken := func(tenant string, requests, continuations int) (taken int) {
			for range requests {
				n++
				q := &Request{ID: fmt.Sprint(n), Tenant: tenant, N: continuations, Prompt: prompt(4, n), Stop: Stopping{MaxTokens: 1}}
				if _, err := r.Submit(t.Context(), q); err == nil {
					taken++
				} else if !errors.Is(err, ErrQueueFull) {
					t.Error(err)
				}
			}
			return taken
		}
		for _, c := range []struct {
			tenant                        string
			requests, continuations, want int
		}{
			{"loud", 20, 1, 12},
			{"first", 20, 1, 6},  // a half of 12
			{"second", 20, 2, 2}, // a third: four continuations
			{"loud", 1, 1, 0},
			{"third", 20, 1, 2}, // a quarter would be three, but that makes 24
			{"fourth", 1, 1, 0},
		} {
			if got := taken(c.tenant, c.requests, c.continuations); got != c.want {
				t.Errorf("tenant %s: %d requests are taken, want %d", c.tenant, got, c.want)
			}
		}
		r.run(t)
		synctest.Wait()
		if got := taken("fourth", 1, 1); got != 1 {
			t.Error("refused where nothing waits")
		}
		r.Drain()
		if err := <-r.done; err != nil {
			t.Error(err)
		}
		if left := r.counters.shares.queued; len(left) != 0 {
			t.Errorf("when all are done these still wait: %v", left)
		}
	})
}
