package server

import (
	"context"
	"testing"
	"time"

	orcapb "github.com/cncf/xds/go/xds/data/orca/v3"
	orcaservice "github.com/cncf/xds/go/xds/service/orca/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/inferno-serve/inferno/internal/discovery"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

var busy = discovery.Load{Running: 3, Queued: 2, KVUse: 0.25}

func wantBusy(t *testing.T, how string, r *orcapb.OrcaLoadReport) {
	t.Helper()
	m := r.GetNamedMetrics()
	if r.GetApplicationUtilization() != 0.25 || m["inferno.running_requests"] != 3 || m["inferno.queued_requests"] != 2 ||
		m["inferno.kv_use"] != 0.25 {
		t.Errorf("%s: %v, want %+v", how, r, busy)
	}
}

// A call that is refused tells the load too: that may be why.
func TestCallsEndWithTheLoad(t *testing.T) {
	f := start(t, newScript(), func(o *Options) { o.Load = func() discovery.Load { return busy } })
	conn := f.conn
	var trailer metadata.MD
	_, err := infernov1.NewInferenceServiceClient(conn).Generate(t.Context(), &infernov1.GenerateRequest{}, grpc.Trailer(&trailer))
	wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")
	stream, err := infernov1.NewInferenceServiceClient(conn).GenerateStream(t.Context(), &infernov1.GenerateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil {
		t.Fatal("an empty request was taken")
	}
	for how, trailer := range map[string]metadata.MD{"unary": trailer, "stream": stream.Trailer()} {
		values := trailer.Get("endpoint-load-metrics-bin")
		if len(values) != 1 {
			t.Fatalf("%s: %d reports, want one", how, len(values))
		}
		var r orcapb.OrcaLoadReport
		if err := proto.Unmarshal([]byte(values[0]), &r); err != nil {
			t.Fatal(err)
		}
		wantBusy(t, how, &r)
	}
	_, err = infernov1.NewRegistryServiceClient(conn).ListModels(t.Context(), &infernov1.ListModelsRequest{}, grpc.Trailer(&trailer))
	if err != nil || len(trailer.Get("endpoint-load-metrics-bin")) != 0 {
		t.Errorf("a list of models ends with a load report (%v)", err)
	}
}

func TestReportsComeUntilTheServerDrains(t *testing.T) {
	f := start(t, newScript(), func(o *Options) { o.Load = func() discovery.Load { return busy } })
	for _, period := range []time.Duration{0, time.Nanosecond, time.Hour} { // the shortest comes twice, all of them at once
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := orcaservice.NewOpenRcaServiceClient(f.conn).StreamCoreMetrics(ctx, &orcaservice.OrcaLoadReportRequest{
			ReportInterval: durationpb.New(period),
		})
		if err != nil {
			t.Fatal(err)
		}
		reports := 1
		if period == time.Nanosecond {
			reports = 2
		}
		for range reports {
			r, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			wantBusy(t, period.String(), r)
		}
		if period == time.Hour {
			f.Drain()
			_, err = stream.Recv()
			wantStatus(t, err, codes.Unavailable, "DRAINING")
		}
		cancel()
	}
}
