package server

import (
	"context"
	"strings"
	"sync"
	"time"

	orcapb "github.com/cncf/xds/go/xds/data/orca/v3"
	orcaservice "github.com/cncf/xds/go/xds/service/orca/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/inferno-serve/inferno/internal/discovery"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Load reports go to clients by ORCA, the format of gRPC's load balancers: with the trailer of every call that generates, and on a stream
// beside the calls. docs/api.md has the names.
const (
	orcaTrailer   = "endpoint-load-metrics-bin"
	metricRunning = "inferno.running_requests"
	metricQueued  = "inferno.queued_requests"
	metricKVUse   = "inferno.kv_use"
)

const (
	loadAge         = 50 * time.Millisecond // how old a report may be; many calls that end at once share one look at the engines
	minReportPeriod = 100 * time.Millisecond
	maxReportPeriod = time.Minute
	reportPeriod    = time.Second // where the client names none
)

// loadReporter says how busy this instance is.
type loadReporter struct {
	load func() discovery.Load
	name string // of the calls whose trailers carry reports: a method begins so

	mu    sync.Mutex
	at    time.Time
	last  *orcapb.OrcaLoadReport // as of at; nobody changes it
	bytes string                 // last on the wire
}

func newLoadReporter(load func() discovery.Load) *loadReporter {
	return &loadReporter{load: load, name: "/" + infernov1.InferenceService_ServiceDesc.ServiceName + "/"}
}

func (l *loadReporter) report() (*orcapb.OrcaLoadReport, string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last != nil && time.Since(l.at) < loadAge {
		return l.last, l.bytes
	}
	now := l.load()
	report := &orcapb.OrcaLoadReport{
		ApplicationUtilization: now.KVUse,
		NamedMetrics: map[string]float64{
			metricRunning: float64(now.Running), metricQueued: float64(now.Queued), metricKVUse: now.KVUse,
		},
	}
	wire, err := proto.Marshal(report)
	if err != nil {
		panic("server: load report: " + err.Error()) // numbers and our own names
	}
	l.at, l.last, l.bytes = time.Now(), report, string(wire)
	return l.last, l.bytes
}

func (l *loadReporter) options() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(l.unary), grpc.ChainStreamInterceptor(l.stream)}
}

func (l *loadReporter) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	response, err := handler(ctx, req)
	if strings.HasPrefix(info.FullMethod, l.name) {
		_, wire := l.report()
		_ = grpc.SetTrailer(ctx, metadata.Pairs(orcaTrailer, wire)) // fails for a call that has ended
	}
	return response, err
}

func (l *loadReporter) stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	err := handler(server, stream)
	if strings.HasPrefix(info.FullMethod, l.name) {
		_, wire := l.report()
		stream.SetTrailer(metadata.Pairs(orcaTrailer, wire))
	}
	return err
}

// loadService is ORCA's stream of reports. gRPC's own one sends none more often than every 30 s.
type loadService struct {
	orcaservice.UnimplementedOpenRcaServiceServer
	*Server
}

// StreamCoreMetrics reports at once, then every report_interval (100 ms to a minute), until the server drains.
func (s loadService) StreamCoreMetrics(
	req *orcaservice.OrcaLoadReportRequest, stream orcaservice.OpenRcaService_StreamCoreMetricsServer,
) error {
	period := reportPeriod
	if asked := req.GetReportInterval(); asked != nil {
		period = min(max(asked.AsDuration(), minReportPeriod), maxReportPeriod)
	}
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		report, _ := s.loads.report()
		if err := stream.Send(report); err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-s.drained:
			return errStopping
		case <-stream.Context().Done():
			return context.Cause(stream.Context())
		}
	}
}
