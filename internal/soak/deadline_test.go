package soak

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/inferno-serve/inferno/internal/device/devicescript"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// occupy has requests of endless output take all places, and returns what ends them.
func (r *rig) occupy(places int) (leave func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	client := r.dial(1)[0]
	var all sync.WaitGroup
	for i := range places {
		all.Go(func() {
			if _, err := generate(ctx, client, request(prompt(i, 16), 8000)); codeOf(err) != codes.Canceled {
				r.t.Errorf("what takes a place ended with %v", err)
			}
		})
	}
	r.waitMetric("inferno_requests_running", is(float64(places)))
	return func() {
		cancel()
		all.Wait()
	}
}

// markedPrompt is one whose rows the device counts.
func markedPrompt(seed, n int) []int32 {
	return append(slices.Repeat([]int32{devicescript.MarkedToken}, n), prompt(seed, 8)...)
}

// Requests whose deadlines pass while they wait are told so in time, and the device does nothing for them.
func TestDeadlinesInTheQueue(t *testing.T) {
	const places, spread = 8, 500 * time.Millisecond
	rounds, calls := count(2, 10), count(100, 1000)
	r := serve(t, settings{
		Device: devicescript.Options{Bytes: 64 << 20, Step: 5 * time.Millisecond}, Context: 1 << 14,
		Flags: []string{"--max-batch=8", "--max-queue=1024", "--kv-memory=16MiB", "--max-queue-wait=1h"},
	})
	clients := r.dial(10)
	leave := r.occupy(places)
	var mu sync.Mutex
	var late, later []time.Duration // than the deadline, and than a timer
	for round := range rounds {
		var failed failures
		var all sync.WaitGroup
		for i := range calls {
			time.Sleep(spread / time.Duration(calls)) // clients and server share the processor here: all at once, they would wait for that
			all.Go(func() {
				deadline := time.Now().Add(time.Duration(1+i%50) * time.Millisecond)
				ctx, cancel := context.WithDeadline(t.Context(), deadline)
				defer cancel()
				fired := make(chan time.Time, 1) // what this process makes of the same deadline without a server
				time.AfterFunc(time.Until(deadline), func() { fired <- time.Now() })
				_, err := generate(ctx, clients[i%10], request(markedPrompt(i, 64), 8))
				now := time.Now()
				if codeOf(err) != codes.DeadlineExceeded {
					failed.add(fmt.Errorf("round %d: %w", round, err))
				}
				timer := <-fired
				mu.Lock()
				defer mu.Unlock()
				late = append(late, now.Sub(deadline))
				later = append(later, now.Sub(timer))
			})
		}
		all.Wait()
		failed.report(t, calls)
		r.waitMetric("inferno_requests_queued", is(0))
	}
	if _, marked := r.device.Rows(); marked != 0 {
		t.Errorf("%d rows were computed for requests that had expired", marked)
	}
	leave()
	figure(t, quantile(later, 1) <= 20*time.Millisecond, "%d calls with deadlines of 1 to 50 ms: late by %v at most, p99 %v, median %v; %v, %v, %v later than "+
		"a timer in the clients' process; no row computed", len(late), quantile(late, 1), quantile(late, 0.99), quantile(late, 0.5),
		quantile(later, 1), quantile(later, 0.99), quantile(later, 0.5))
	r.waitMetric("inferno_kv_blocks_used", is(0))
}

// seen waits until the server has ended all calls of these clients.
func (r *rig) seen(clients []infernov1.InferenceServiceClient) {
	r.t.Helper()
	for _, client := range clients { // what comes behind them on the same connection
		if _, err := client.Tokenize(r.t.Context(), &infernov1.TokenizeRequest{Model: "m", Input: &infernov1.TokenizeRequest_Text{Text: "x"}}); err != nil {
			r.t.Fatal(err)
		}
	}
	const method = `grpc_method="GenerateStream"`
	for r.metric("grpc_server_started_total", method) != r.metric("grpc_server_handled_total", method)+1 { // one takes a place
		time.Sleep(5 * time.Millisecond)
	}
}

// Requests that come and expire while one step runs are not part of the next, though places are free.
func TestDeadlinesDuringAStep(t *testing.T) {
	const calls = 50
	r := serve(t, settings{
		Device: devicescript.Options{Bytes: 64 << 20, Step: time.Millisecond}, Context: 1 << 14,
		Flags: []string{"--max-batch=64", "--kv-memory=16MiB"},
	})
	clients := r.dial(2)
	leave := r.occupy(1)
	r.device.Hold()
	var failed failures
	var all sync.WaitGroup
	for i := range calls {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+i%20)*time.Millisecond)
			defer cancel()
			if _, err := generate(ctx, clients[i%2], request(markedPrompt(i, 64), 8)); codeOf(err) != codes.DeadlineExceeded {
				failed.add(fmt.Errorf("a request with a deadline ended with %w", err))
			}
		})
	}
	all.Wait()
	r.seen(clients)
	r.device.Release()
	steps := r.device.Steps()
	failed.report(t, calls)
	r.waitMetric("inferno_requests_queued", is(0))
	r.waitMetric("inferno_steps_total", least(float64(steps+20)))
	if _, marked := r.device.Rows(); marked != 0 {
		t.Errorf("%d rows were computed for requests that had expired", marked)
	}
	leave()
}
