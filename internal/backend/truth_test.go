package backend

import (
	"context"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/inferno-serve/inferno/internal/config"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// TestHealthIsAnsweredBesideTheWork: five times as many requests as the server takes, and nobody who asks for health, or for its probe token,
// waits behind them.
func TestHealthIsAnsweredBesideTheWork(t *testing.T) {
	const places, queue = 4, 4
	checks := 40
	if os.Getenv("SOAK") == "full" {
		checks = 1000
	}
	r := start(t, false, func(c *config.Config) { c.MaxBatch, c.MaxQueue = places, queue })
	r.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	ctx, cancel := context.WithCancel(context.Background())
	var workers sync.WaitGroup
	var served, refused atomic.Int64
	for range 5 * (places + queue) {
		client := infernov1.NewInferenceServiceClient(r.dial())
		workers.Go(func() {
			for ctx.Err() == nil {
				_, err := client.Generate(ctx, request(20))
				switch code := status.Code(err); {
				case err == nil:
					served.Add(1)
				case code == codes.ResourceExhausted:
					refused.Add(1)
				case ctx.Err() == nil:
					t.Errorf("a request ended with %v", err)
				}
			}
		})
	}
	conn := r.dial()
	standard, own := healthgrpc.NewHealthClient(conn), infernov1.NewHealthServiceClient(conn)
	var took []time.Duration
	for range checks {
		began := time.Now()
		if got, err := standard.Check(t.Context(), &healthgrpc.HealthCheckRequest{}); err != nil || got.GetStatus() != healthgrpc.HealthCheckResponse_SERVING {
			t.Errorf("%v, %v, want SERVING", got, err)
		}
		if _, err := own.Check(t.Context(), &infernov1.CheckRequest{}); err != nil {
			t.Error(err)
		}
		took = append(took, time.Since(began)/2)
	}
	cancel()
	workers.Wait()
	if served.Load() == 0 || refused.Load() == 0 {
		t.Errorf("%d served, %d refused: that was no overload", served.Load(), refused.Load())
	}
	slices.Sort(took)
	t.Logf("%d requests served, %d refused; health answered in %v (p50), %v (p99), %v (most)", served.Load(), refused.Load(), took[len(took)/2],
		took[len(took)*99/100], took[len(took)-1])
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// TestNothingIsAllocatedOnTheDeviceOnceReady: so that no request can find its memory gone.
func TestNothingIsAllocatedOnTheDeviceOnceReady(t *testing.T) {
	r := start(t, false, nil)
	r.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	before := r.allocated.Load()
	client := infernov1.NewInferenceServiceClient(r.dial())
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() {
			if end := follow(t.Context(), client, uint32(1+10*i)); end.tokens != 1+10*i {
				t.Errorf("%d tokens, %v", end.tokens, end.err)
			}
		})
	}
	all.Wait()
	if n := r.allocated.Load() - before; before == 0 || n != 0 {
		t.Errorf("%d allocations before and %d after the server was ready, want some and none", before, n)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}
