package server

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"github.com/inferno-serve/inferno/internal/health"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// ceased is a checker whose rounds ended a while ago, when all was well.
type ceased struct{ asked time.Time }

func (c ceased) Report() health.Report {
	return health.Report{
		State: health.Serving, Asked: c.asked,
		Components: []health.Status{{Component: "model/m", State: health.Serving, Critical: true, Since: c.asked}},
	}
}

func (c ceased) Watch(ctx context.Context) <-chan health.Report {
	w := make(chan health.Report, 1)
	w <- c.Report()
	context.AfterFunc(ctx, func() { close(w) })
	return w
}

func TestChecksThatCeasedAreNotServing(t *testing.T) {
	f := start(t, newScript())
	f.Server.health = ceased{time.Now().Add(-time.Minute)}
	standard := healthgrpc.NewHealthClient(f.conn)
	for _, service := range []string{"", "liveness", "inferno.v1.InferenceService", "checks"} {
		got, err := standard.Check(t.Context(), &healthgrpc.HealthCheckRequest{Service: service})
		if err != nil || got.GetStatus() != healthgrpc.HealthCheckResponse_NOT_SERVING {
			t.Errorf("service %q: %v, %v, want NOT_SERVING", service, got, err)
		}
	}
	got, err := infernov1.NewHealthServiceClient(f.conn).Check(t.Context(), &infernov1.CheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	checks := got.GetReport().GetComponents()[0]
	if checks.GetName() != "checks" || checks.GetReason() == "" || got.GetReport().GetState() != infernov1.HealthState_HEALTH_STATE_NOT_SERVING {
		t.Errorf("report %v, want the checks as the reason", got.GetReport())
	}
}

// TestWatchNoticesThatChecksCeased: nobody tells a watch of that; it looks.
func TestWatchNoticesThatChecksCeased(t *testing.T) {
	f := start(t, newScript())
	f.Server.health = ceased{time.Now().Add(-4 * time.Second)} // they cease to count a second from now
	standard, err := healthgrpc.NewHealthClient(f.conn).Watch(t.Context(), &healthgrpc.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	own, err := infernov1.NewHealthServiceClient(f.conn).Watch(t.Context(), &infernov1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		got, err := standard.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got.GetStatus() == healthgrpc.HealthCheckResponse_NOT_SERVING {
			break
		}
	}
	var last *infernov1.HealthReport
	for last.GetState() != infernov1.HealthState_HEALTH_STATE_NOT_SERVING {
		got, err := own.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if proto.Equal(got.GetReport(), last) {
			t.Fatalf("told twice: %v", last)
		}
		last = got.GetReport()
	}
}

func TestComponentsComeAndGoInStandardHealth(t *testing.T) {
	f := start(t, newScript())
	stream, err := healthgrpc.NewHealthClient(f.conn).Watch(t.Context(), &healthgrpc.HealthCheckRequest{Service: "model/new"})
	if err != nil {
		t.Fatal(err)
	}
	want := func(s healthgrpc.HealthCheckResponse_ServingStatus) {
		t.Helper()
		if got, err := stream.Recv(); err != nil || got.GetStatus() != s {
			t.Fatalf("got %v, %v, want %v", got, err, s)
		}
	}
	want(healthgrpc.HealthCheckResponse_SERVICE_UNKNOWN)
	f.checker.Add(&component{name: "model/new", state: health.Serving}, true)
	want(healthgrpc.HealthCheckResponse_SERVING)
	f.checker.Remove("model/new")
	want(healthgrpc.HealthCheckResponse_SERVICE_UNKNOWN)
	f.checker.Add(&component{name: "model/new", state: health.Degraded}, true)
	want(healthgrpc.HealthCheckResponse_SERVING)
	f.Drain()
	want(healthgrpc.HealthCheckResponse_NOT_SERVING)
	_, err = stream.Recv()
	wantStatus(t, err, codes.Unavailable, "DRAINING")
}
