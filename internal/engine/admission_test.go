package engine

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// waves has two requests run at a time and the others wait: each pair takes eight steps of 10 ms, so that one starts every 40 ms.
func waves(t *testing.T, o Options, requests int) *rig {
	t.Helper()
	o.MaxBatch, o.NumBlocks = 2, 16
	r := newRig(t, o).slow(stepTime).run(t)
	for i := range requests {
		r.submit(t.Context(), t, &Request{ID: fmt.Sprint(i), Prompt: prompt(4, i), Stop: Stopping{MaxTokens: 8}})
	}
	return r
}

func TestExpectedWaitFollowsTheStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := waves(t, Options{}, 12)
		time.Sleep(12 * stepTime)
		if o := r.outlook(4, 1); o.Queued != 8 || !o.Unknown {
			t.Errorf("when few have started: %+v, want nothing known", o)
		}
		time.Sleep(14 * stepTime) // the fourth pair runs; behind the fifth and the sixth it is another 220 ms
		if o := r.outlook(4, 1); o.Queued != 4 || o.Unknown || o.Wait < 180*time.Millisecond || o.Wait > 260*time.Millisecond {
			t.Errorf("behind four that wait: %+v, want about 220 ms", o)
		}
	})
}

func TestQueueIsBoundedByExpectedWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := waves(t, Options{MaxQueueWait: 150 * time.Millisecond}, 12)
		one := &Request{ID: "late", Prompt: prompt(4, 99), Stop: Stopping{MaxTokens: 1}}
		time.Sleep(26 * stepTime)
		_, err := r.Submit(t.Context(), one)
		var full *QueueFullError
		if !errors.As(err, &full) || full.Limit != "150ms" || full.RetryAfter < leastRetry || full.RetryAfter > time.Second {
			t.Errorf("behind four: %v, want a refusal by the expected wait", err)
		}
		if s := r.Stats(); s.Rejected != 1 || s.Queued != 4 || s.QueuedTokens != 16 {
			t.Errorf("stats %+v", s)
		}
		time.Sleep(16 * stepTime) // the last pair runs
		if _, err := r.Submit(t.Context(), one); err != nil {
			t.Errorf("behind none: %v", err)
		}
	})
}

func TestQueueIsBoundedByTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{MaxQueueTokens: 30, NumBlocks: 32}) // the loop does not run yet
		submit := func(id string, tokens, n int) error {
			_, err := r.Submit(t.Context(), &Request{ID: id, Prompt: prompt(tokens, 1), N: n, Stop: Stopping{MaxTokens: 1}})
			return err
		}
		if err := submit("huge", 40, 1); err != nil {
			t.Errorf("more than the bound, where nothing waits: %v", err)
		}
		err := submit("small", 1, 1)
		if !errors.Is(err, ErrQueueFull) || !strings.Contains(err.Error(), "41 prompt tokens would wait, at most 30 may") {
			t.Errorf("behind it: %v", err)
		}
		r.Abort("huge")
		r.run(t)
		synctest.Wait()
		if err := submit("several", 20, 4); err != nil {
			t.Error(err)
		}
		r.Drain()
		if err := <-r.done; err != nil {
			t.Error(err)
		}
		if s := r.Stats(); s.Queued != 0 || s.QueuedTokens != 0 {
			t.Errorf("after all of them: %+v", s)
		}
	})
}
