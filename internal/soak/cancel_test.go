package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/inferno-serve/inferno/internal/device/devicescript"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Requests that are left at any point, by a cancel, a deadline or a lost connection's worth of both, leave nothing behind.
func TestCancellationsLeaveNothingBehind(t *testing.T) {
	const live, connections = 64, 8
	calls := count(1500, 100_000)
	r := serve(t, settings{
		Device: devicescript.Options{Bytes: 64 << 20, Step: 300 * time.Microsecond, Row: 500 * time.Nanosecond}, Context: 1024,
		Flags: []string{"--max-batch=48", "--max-batch-tokens=256", "--kv-memory=2MiB", "--max-queue=4096"},
	})
	clients := r.dial(connections)
	storm := func(calls int, seed uint64) {
		var failed failures
		var next, ended [2]atomic.Int64
		var all sync.WaitGroup
		for worker := range live {
			all.Go(func() {
				chance := rand.New(rand.NewPCG(seed, uint64(worker)))
				for next[0].Add(1) <= int64(calls) {
					done, err := leave(t.Context(), clients[worker%connections], chance)
					failed.add(err)
					if done {
						ended[1].Add(1)
					} else {
						ended[0].Add(1)
					}
				}
			})
		}
		all.Wait()
		failed.report(t, calls)
		if ended[0].Load() < int64(calls/2) {
			t.Errorf("only %d of %d requests were left before their end: this tests little", ended[0].Load(), calls)
		}
		r.waitMetric("inferno_requests_running", is(0))
		r.waitMetric("inferno_requests_queued", is(0))
		r.waitMetric("inferno_kv_blocks_used", is(0))
	}
	storm(500, 1) // what is made once is made
	goroutines, bytes := runtime.NumGoroutine(), heap()
	began := time.Now()
	storm(calls, 2)
	took := time.Since(began)
	if now := settled(goroutines); now > goroutines {
		t.Errorf("%d goroutines, %d before", now, goroutines)
	}
	grown := heap() - bytes
	if grown > 4<<20 {
		t.Errorf("%d bytes more are in use", grown)
	}
	t.Logf("%d calls left at random in %.1f s: goroutines %d before, %d after; heap %+.2f MiB",
		calls, took.Seconds(), goroutines, runtime.NumGoroutine(), float64(grown)/(1<<20))
	// The server is as good as new.
	p := prompt(7, 40)
	got, err := generate(t.Context(), clients[0], request(p, 100))
	if err == nil {
		err = checkTokens(got, p, 100)
	}
	if err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// leave starts a request and leaves it at random: while it is on its way, waits, computes its prompt or generates. done says that it had ended
// before that.
func leave(ctx context.Context, client infernov1.InferenceServiceClient, chance *rand.Rand) (done bool, err error) {
	p := prompt(chance.IntN(1<<24), 1+chance.IntN(300))
	q := request(p, 1+chance.IntN(60))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	switch chance.IntN(4) {
	case 0: // after a time
		timer := time.AfterFunc(time.Duration(chance.IntN(20_000))*time.Microsecond, cancel)
		defer timer.Stop()
	case 1: // at a deadline
		limited, stop := context.WithTimeout(ctx, time.Duration(chance.IntN(20_000))*time.Microsecond)
		defer stop()
		ctx = limited
	case 2: // a call that answers once
		timer := time.AfterFunc(time.Duration(chance.IntN(20_000))*time.Microsecond, cancel)
		defer timer.Stop()
		_, err := client.Generate(ctx, q)
		return err == nil, leftAs(err)
	}
	stream, err := client.GenerateStream(ctx, q)
	if err != nil {
		return false, leftAs(err)
	}
	for range 1 + chance.IntN(40) { // after so many messages
		if _, err := stream.Recv(); err != nil {
			return codeOf(err) == codes.Unknown, leftAs(err) // io.EOF has no code
		}
	}
	return false, nil
}

// leftAs says what is wrong with the end of a request that may have been left.
func leftAs(err error) error {
	switch codeOf(err) {
	case codes.OK, codes.Canceled, codes.DeadlineExceeded:
		return nil
	case codes.Unknown:
		if err.Error() == "EOF" {
			return nil
		}
	}
	return fmt.Errorf("a request that was left ended with %w", err)
}
