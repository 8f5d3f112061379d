package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// TraceOptions say where spans go.
type TraceOptions struct {
	Endpoint string  // URL of an OTLP receiver that speaks gRPC: http://HOST:PORT, or https
	Ratio    float64 // of the requests whose caller has not decided whether they are traced
	Version  string
	Instance string
	Log      *slog.Logger
}

const (
	exportTimeout = 5 * time.Second // of one batch; a receiver that is away costs spans, never requests
	lastExport    = time.Second     // of what is left when the server ends
)

// Traces makes spans and sends them in batches from a goroutine of its own. Its queue is bounded; what finds it full is dropped.
type Traces struct {
	provider *sdktrace.TracerProvider
	exporter sdktrace.SpanExporter
}

// NewTraces connects in the background: a receiver that is not there is no reason not to serve.
func NewTraces(ctx context.Context, o TraceOptions) (*Traces, error) {
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(o.Endpoint), otlptracegrpc.WithTimeout(exportTimeout))
	if err != nil {
		return nil, fmt.Errorf("traces to %s: %w", o.Endpoint, err)
	}
	// The library has one place for failures that have no caller, and would print them itself.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { o.Log.Warn("traces are not exported", "error", err) }))
	return &Traces{exporter: exporter, provider: sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(o.Ratio))),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "inferno"),
			attribute.String("service.version", o.Version),
			attribute.String("service.instance.id", o.Instance),
		)),
	)}, nil
}

// Tracer starts spans.
func (t *Traces) Tracer() trace.Tracer { return t.provider.Tracer("github.com/inferno-serve/inferno") }

// Close sends what is left, as far as its time allows.
func (t *Traces) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), lastExport)
	defer cancel()
	err := t.provider.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, t.exporter.Shutdown(ctx)) // ends what the provider has given up waiting for
		otel.Handle(err)
	}
}
