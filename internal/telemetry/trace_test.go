package telemetry

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
)

// receiver is an OTLP receiver.
type receiver struct {
	collector.UnimplementedTraceServiceServer
	got chan *collector.ExportTraceServiceRequest
}

func (r *receiver) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.got <- req
	return &collector.ExportTraceServiceResponse{}, nil
}

func TestTracesReachAReceiver(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	far, s := &receiver{got: make(chan *collector.ExportTraceServiceRequest, 8)}, grpc.NewServer()
	collector.RegisterTraceServiceServer(s, far)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	for ratio, want := range map[float64]int{1: 3, 0: 0} {
		traces, err := NewTraces(t.Context(), TraceOptions{
			Endpoint: "http://" + l.Addr().String(), Ratio: ratio, Version: "v", Instance: "i", Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			_, span := traces.Tracer().Start(t.Context(), "a request")
			span.End()
		}
		traces.Close() // sends what is left
		spans, resource := 0, ""
		for range len(far.got) {
			for _, r := range (<-far.got).GetResourceSpans() {
				resource = r.GetResource().String()
				for _, scope := range r.GetScopeSpans() {
					spans += len(scope.GetSpans())
				}
			}
		}
		if spans != want || want > 0 && !strings.Contains(resource, "service.instance.id") {
			t.Errorf("ratio %v: %d spans of %q, want %d", ratio, spans, resource, want)
		}
	}
	s.Stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// firstLine keeps the first line of a log that several goroutines write.
type firstLine chan string

func (f firstLine) Write(line []byte) (int, error) {
	select {
	case f <- string(line):
	default:
	}
	return len(line), nil
}

// TestReceiverThatIsAwayCostsSpansOnly: neither the start nor a request waits for it, and the end but for its time.
func TestReceiverThatIsAwayCostsSpansOnly(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	said := make(firstLine, 1)
	traces, err := NewTraces(t.Context(), TraceOptions{Endpoint: "http://" + address, Ratio: 1, Log: slog.New(slog.NewTextHandler(said, nil))})
	if err != nil {
		t.Fatal(err)
	}
	for range 10_000 { // more than the queue holds
		_, span := traces.Tracer().Start(t.Context(), "a request")
		span.End()
	}
	traces.Close()
	if line := <-said; !strings.Contains(line, "traces are not exported") {
		t.Errorf("told %q", line)
	}
}
