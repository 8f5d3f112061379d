package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/inferno-serve/inferno/internal/device/devicescript"
)

// refused says whether a call was refused as it should be: with the code, and when to come back.
func refused(err error) bool {
	s := status.Convert(err)
	for _, detail := range s.Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok && s.Code() == codes.ResourceExhausted {
			return retry.GetRetryDelay().AsDuration() > 0
		}
	}
	return false
}

// A full queue refuses just what is beyond it, while no step ends, and all that was taken is served.
func TestFullQueueRefusesWhatIsBeyondIt(t *testing.T) {
	const places, queue, beyond, tokens = 4, 16, 30, 20
	r := serve(t, settings{
		Device: devicescript.Options{Bytes: 64 << 20, Step: time.Millisecond}, Context: 1 << 14,
		Flags: []string{"--max-batch=4", "--max-queue=16", "--kv-memory=16MiB"},
	})
	clients := r.dial(5)
	leave := r.occupy(places)
	r.device.Hold()
	var failed failures
	var taken, refusals atomic.Int64
	var all sync.WaitGroup
	for i := range queue + beyond {
		all.Go(func() {
			p := prompt(i, 16)
			got, err := generate(t.Context(), clients[i%5], request(p, tokens))
			switch {
			case err == nil:
				taken.Add(1)
				failed.add(checkTokens(got, p, tokens))
			case refused(err):
				refusals.Add(1)
			default:
				failed.add(err)
			}
		})
	}
	r.waitMetric("inferno_requests_queued", is(queue))
	r.waitMetric("inferno_requests_rejected_total", is(beyond)) // though the device does nothing
	r.device.Release()
	leave()
	all.Wait()
	failed.report(t, queue+beyond)
	if taken.Load() != queue || refusals.Load() != beyond {
		t.Errorf("%d were served and %d refused, want %d and %d", taken.Load(), refusals.Load(), queue, beyond)
	}
}

// Five times what can be served: as much is served as before, and the rest is told at once. So is whoever asks for health meanwhile.
func TestOverload(t *testing.T) {
	const places, tokens, step = 32, 20, 20 * time.Millisecond
	duration := time.Duration(count(1, 30)) * time.Second
	r := serveApart(t, settings{
		Device: devicescript.Options{Bytes: 64 << 20, Step: step}, Context: 1024,
		Flags: []string{"--max-batch=32", "--max-queue=64", "--kv-memory=8MiB"},
	})
	clients, pulse := r.dial(16), startPulse(t)
	var failed failures
	call := func(i int) (took time.Duration, served bool) { // as long as this process ran
		p := prompt(i, 16)
		began := time.Now()
		got, err := generate(t.Context(), clients[i%len(clients)], request(p, tokens))
		took = pulse.ran(began, time.Now())
		if err == nil {
			failed.add(checkTokens(got, p, tokens))
			return took, true
		}
		if !refused(err) {
			failed.add(err)
		}
		return took, false
	}

	// The peak: as many clients as are always served, each again and again.
	ctx, stop := context.WithTimeout(t.Context(), duration)
	defer stop()
	var calls, served atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	for range 2 * places {
		all.Go(func() {
			for ctx.Err() == nil {
				if _, ok := call(int(calls.Add(1))); ok {
					served.Add(1)
				}
			}
		})
	}
	all.Wait()
	peak := float64(served.Load()) / pulse.ran(began, time.Now()).Seconds()

	// Five times that, whether or not anybody is served.
	asking, enough := context.WithCancel(t.Context())
	health := r.askForHealth(asking, pulse, &failed)
	offered := 5 * peak
	chance := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	var refusals []time.Duration
	good, warm := 0, duration/10 // in which places and queue fill
	began = time.Now()
	for next := time.Duration(0); next < duration; next += time.Duration(chance.ExpFloat64() / offered * float64(time.Second)) {
		time.Sleep(next - time.Since(began))
		i := int(calls.Add(1))
		all.Go(func() {
			took, ok := call(i)
			mu.Lock()
			defer mu.Unlock()
			if !ok {
				refusals = append(refusals, took)
			} else if at := time.Since(began); at > warm && at <= duration {
				good++
			}
		})
		if queued := r.metricNow(i); queued > 64 {
			failed.add(fmt.Errorf("%v requests wait, want at most 64", queued))
		}
	}
	enough()
	answers := <-health
	all.Wait()
	goodput := float64(good) / pulse.ran(began.Add(warm), began.Add(duration)).Seconds()
	failed.report(t, int(calls.Load())+len(answers))
	if len(refusals) == 0 {
		t.Error("nothing was refused: this was no overload")
	}
	t.Logf("the machine stood still for %v of %v", pulse.lost(began, began.Add(duration)), duration)
	figure(t, goodput >= 0.95*peak, "peak %.1f requests a second, %.1f at 5 × the load (%.1f %%)", peak, goodput, 100*goodput/peak)
	figure(t, quantile(refusals, 0.99) <= 5*time.Millisecond, "%d refused: p50 %v, p99 %v, at most %v", len(refusals),
		quantile(refusals, 0.5), quantile(refusals, 0.99), quantile(refusals, 1))
	figure(t, quantile(answers, 0.99) <= 100*time.Millisecond, "health asked for %d times: p50 %v, p99 %v, at most %v", len(answers),
		quantile(answers, 0.5), quantile(answers, 0.99), quantile(answers, 1))
	r.waitMetric("inferno_kv_blocks_used", is(0))
}

// askForHealth asks a hundred times a second until ctx ends, by a connection of its own as an orchestrator does, and tells how long answers took.
func (r *rig) askForHealth(ctx context.Context, pulse *pulse, failed *failures) <-chan []time.Duration {
	client := healthgrpc.NewHealthClient(r.connect())
	done := make(chan []time.Duration, 1)
	go func() {
		var took []time.Duration
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			began := time.Now()
			answer, err := client.Check(context.WithoutCancel(ctx), &healthgrpc.HealthCheckRequest{})
			took = append(took, pulse.ran(began, time.Now()))
			if err != nil {
				failed.add(fmt.Errorf("health: %w", err))
			} else if s := answer.GetStatus(); s != healthgrpc.HealthCheckResponse_SERVING {
				failed.add(fmt.Errorf("health: %v", s))
			}
			select {
			case <-ctx.Done():
				done <- took
				return
			case <-tick.C:
			}
		}
	}()
	return done
}

// metricNow is the queue's length, looked at now and then.
func (r *rig) metricNow(i int) float64 {
	if i%256 != 0 {
		return 0
	}
	return r.metric("inferno_requests_queued")
}
