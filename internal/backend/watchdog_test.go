package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/health"
	"github.com/inferno-serve/inferno/internal/server"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// impatient is how long a step may take in tests whose device hangs: far longer than a step of the tiny model.
const impatient = 2 * time.Second

func TestHangingStepTurnsHealthAndEndsTheServer(t *testing.T) {
	r := startWith(t, false, nil, impatient)
	r.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	watch, err := infernov1.NewHealthServiceClient(r.dial()).Watch(t.Context(), &infernov1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	stream := r.startHeld() // and nobody releases it before the server has ended
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v, want UNAVAILABLE", err)
	}
	if reason := lastReason(watch); !strings.Contains(reason, "a step has been running for") {
		t.Errorf("health gave %q as the reason, want the step", reason)
	}
	ended := <-r.done
	if !errors.Is(ended, device.ErrLost) || !strings.Contains(ended.Error(), "a step has been running for") {
		t.Errorf("the server ended with %v, want device.ErrLost and the step", ended)
	}
	if list, err := r.registry.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("still announced: %v %v", list, err)
	}
	close(r.release)
	r.stop()
}

// startHeld begins a request whose first step ends, and whose second one waits.
func (r *running) startHeld() infernov1.InferenceService_GenerateStreamClient {
	r.t.Helper()
	r.held.Store(true)
	stream, err := infernov1.NewInferenceServiceClient(r.dial()).GenerateStream(r.t.Context(), request(500))
	if err != nil {
		r.t.Fatal(err)
	}
	r.release <- struct{}{}
	if _, err := stream.Recv(); err != nil {
		r.t.Fatal(err)
	}
	return stream
}

// lastReason reads health reports to their end and returns the last reason of a component that did not serve.
func lastReason(watch infernov1.HealthService_WatchClient) (reason string) {
	for {
		m, err := watch.Recv()
		if err != nil {
			return reason
		}
		for _, c := range m.GetReport().GetComponents() {
			if c.GetState() == infernov1.HealthState_HEALTH_STATE_NOT_SERVING {
				reason = c.GetReason()
			}
		}
	}
}

// TestLoopThatHangsWithoutAStepEndsTheServer: no request is left, and no step under way, that anybody could see hang.
func TestLoopThatHangsWithoutAStepEndsTheServer(t *testing.T) {
	r := startWith(t, false, nil, impatient)
	r.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	watch, err := infernov1.NewHealthServiceClient(r.dial()).Watch(t.Context(), &infernov1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	r.between.Store(true)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	stream, err := infernov1.NewInferenceServiceClient(r.dial()).GenerateStream(ctx, request(2))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil { // the loop hangs behind it
		t.Fatal(err)
	}
	reasons := map[string]bool{}
	for {
		m, err := watch.Recv()
		if err != nil {
			break
		}
		for _, c := range m.GetReport().GetComponents() {
			if c.GetState() == infernov1.HealthState_HEALTH_STATE_NOT_SERVING {
				reasons[c.GetReason()] = true
			}
		}
	}
	if text := fmt.Sprint(reasons); len(reasons) < 2 || !strings.Contains(text, "the engine's loop has been silent for") {
		t.Errorf("health gave %q as reasons, want the doubt and then the loss", text)
	}
	if ended := <-r.done; !errors.Is(ended, device.ErrLost) {
		t.Errorf("the server ended with %v, want device.ErrLost", ended)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v, want UNAVAILABLE", err)
	}
	close(r.release)
	r.stop()
}

func TestStepThatHangsWhileDrainingEndsTheServer(t *testing.T) {
	r := startWith(t, false, func(c *config.Config) { c.DrainTimeout = time.Millisecond }, impatient)
	r.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	r.startHeld()
	if err := r.end(); !errors.Is(err, device.ErrLost) {
		t.Errorf("the server ended with %v, want device.ErrLost", err)
	}
	close(r.release)
}

// TestStepThatHangsInTheWarmUpEndsTheServer: before there is a loop that could be watched.
func TestStepThatHangsInTheWarmUpEndsTheServer(t *testing.T) {
	r := startWith(t, true, nil, 100*time.Millisecond)
	<-r.loading
	r.held.Store(true)
	close(r.gate)
	err := <-r.done
	if !errors.Is(err, ErrStart) || !errors.Is(err, device.ErrLost) || !strings.Contains(err.Error(), "a step of the warm-up has been running for") {
		t.Errorf("the server ended with %v, want ErrStart, device.ErrLost and the step", err)
	}
	close(r.release)
	r.stop()
}

// TestPanicInTheWarmUpIsTheLoads: whose goroutine knows what it ends.
func TestPanicInTheWarmUpIsTheLoads(t *testing.T) {
	b, r := &backend{}, newReplica("m", "")
	r.watchdog = newWatchdog(0) // and no engine
	defer func() {
		if p, ok := recover().(error); !ok || !strings.Contains(p.Error(), "nil pointer") || !strings.Contains(p.Error(), "Warmup") {
			t.Errorf("panic %v, want the warm-up's with its stack", p)
		}
		<-r.warm
	}()
	_ = r.warmUp(t.Context(), b)
}

func TestStepThatHangsBeforeTheFirstTokenEndsTheServer(t *testing.T) {
	r := startWith(t, true, nil, impatient)
	<-r.loading
	r.holdFrom(func() bool { return strings.Contains(r.log.all(), "engine warm") })
	close(r.gate)
	if err := <-r.done; !errors.Is(err, ErrStart) || !errors.Is(err, device.ErrLost) {
		t.Errorf("the server ended with %v, want ErrStart and device.ErrLost", err)
	}
	close(r.release)
	r.stop()
}

func TestWatchdogCountsOnlyTheTimeOfOneStep(t *testing.T) {
	second := time.Second
	for name, c := range map[string]struct {
		before  []time.Duration // steps that have ended
		longest time.Duration   // that is foreseen
		inStep  func(now time.Duration) time.Duration
		want    time.Duration // when it was found stuck; 0: never
	}{
		"idle":             {inStep: func(time.Duration) time.Duration { return 0 }},
		"steps of a while": {inStep: func(now time.Duration) time.Duration { return now % (9 * second) }},
		"one without end":  {inStep: func(now time.Duration) time.Duration { return now }, want: 10*second + second/2},
		"slow device": {
			before: []time.Duration{second, second, second},
			inStep: func(now time.Duration) time.Duration { return now % (19 * second) },
		},
		"slow device that hangs": {
			before: []time.Duration{second, second, second},
			inStep: func(now time.Duration) time.Duration { return now }, want: 21 * second, // a bucket is 19 % wide
		},
		"long prompts on a slow device":   {longest: second, inStep: func(now time.Duration) time.Duration { return now % (19 * second) }},
		"a first long prompt without end": {longest: second, inStep: func(now time.Duration) time.Duration { return now }, want: 20*second + second/2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWatchdog(0)
				w.longest = func() time.Duration { return c.longest }
				for _, d := range c.before {
					w.ObserveStep(&engine.StepInfo{Duration: d})
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				began := time.Now()
				_, stuck := w.watch(ctx, func() time.Duration { return c.inStep(time.Since(began)) })
				after := time.Since(began)
				if stuck != (c.want > 0) || stuck && (after < c.want || after > c.want*5/4) {
					t.Errorf("stuck %v after %v, want %v", stuck, after, c.want)
				}
			})
		})
	}
}

// TestPatientWatchdogLooksAsOften: however long a step may take, that somebody looks is known.
func TestPatientWatchdogLooksAsOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatchdog(time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.watch(ctx, func() time.Duration { return 0 })
		}()
		for range 50 {
			time.Sleep(time.Second)
			if doubt := w.doubt(); doubt != "" {
				t.Fatal(doubt)
			}
		}
		<-done
	})
}

// TestWatchdogForgivesAStoppedProcess: its own looks come as late as the step's end.
func TestWatchdogForgivesAStoppedProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatchdog(0)
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
		defer cancel()
		stopped := time.Duration(0)
		began := time.Now()
		held, stuck := w.watch(ctx, func() time.Duration {
			if stopped == 0 {
				stopped = time.Hour
				time.Sleep(stopped) // in this look; the next one is late
			}
			return time.Since(began)
		})
		if stuck {
			t.Errorf("found stuck after %v of which the process stood still for %v", held, stopped)
		}
	})
}

// TestHealthTurnsWhenItsOwnGoroutinesEnd: the watchdog, and the prober.
func TestHealthTurnsWhenItsOwnGoroutinesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplica("m", "")
		r.watchdog = newWatchdog(0)
		r.model.Info.State = server.ModelReady
		r.probed = time.Now()
		want := func(state health.State, reason string) {
			t.Helper()
			if got, why := r.Health(t.Context()); got != state || !strings.Contains(why, reason) {
				t.Errorf("%v %q, want %v %q", got, why, state, reason)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		silence := atomic.Int64{}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			r.watchdog.watch(ctx, func() time.Duration { return time.Duration(silence.Load()) })
		}()
		time.Sleep(probeOld - 10*time.Second)
		want(health.Serving, "")
		silence.Store(int64(6 * time.Second))
		time.Sleep(7 * time.Second)
		want(health.NotServing, "silent for 6s")
		silence.Store(0)
		time.Sleep(time.Second)
		want(health.Serving, "")
		time.Sleep(3 * time.Second)
		want(health.NotServing, "no probe for")
		r.probed = time.Now()
		want(health.Serving, "")
		cancel()
		<-ended
		time.Sleep(lookAgain + time.Second)
		want(health.NotServing, "nobody has looked")
	})
}

func TestStepBucketsHoldWhatTheySay(t *testing.T) {
	for _, d := range []time.Duration{0, 1, time.Microsecond, 3 * time.Microsecond, time.Millisecond, 777 * time.Millisecond, time.Minute} {
		b := bucketOf(d)
		if d > upperBound(b) || b > 0 && d <= upperBound(b-1) {
			t.Errorf("%v is in bucket %d, up to %v", d, b, upperBound(b))
		}
	}
	if b := bucketOf(100 * time.Hour); b != numBuckets-1 {
		t.Errorf("100 hours are in bucket %d", b)
	}
}
