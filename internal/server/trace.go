package server

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// A request of InferenceService is one span, which continues the client's trace (W3C traceparent). It says what the log line says: ids and
// counts, never contents. Its phases are events; they are known once the request has ended, so that a token costs nothing.

var traced = "/" + infernov1.InferenceService_ServiceDesc.ServiceName + "/"

// incoming reads the client's trace context.
type incoming metadata.MD

func (m incoming) Get(key string) string {
	if values := metadata.MD(m).Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

func (incoming) Set(string, string) {}

func (m incoming) Keys() []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	return keys
}

// beginSpan starts the span of a call. Without a tracer there is none.
func (f *facts) beginSpan(ctx context.Context, tracer trace.Tracer, method string) context.Context {
	if tracer == nil || !strings.HasPrefix(method, traced) {
		return ctx
	}
	md, _ := metadata.FromIncomingContext(ctx)
	ctx = withSamplingAlone(propagation.TraceContext{}.Extract(ctx, incoming(md)))
	name := strings.TrimPrefix(method, "/")
	ctx, f.span = tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(f.begin))
	f.attrs = append(f.attrs, slog.String("trace_id", f.span.SpanContext().TraceID().String()))
	return ctx
}

// withSamplingAlone leaves of the notes that a trace brings along those on its sampling, which a receiver counts by. The others may hold anything,
// and nothing behind this server reads them.
func withSamplingAlone(ctx context.Context) context.Context {
	const sampling = "ot" // OpenTelemetry's own key
	span := trace.SpanContextFromContext(ctx)
	if span.TraceState().Len() == 0 {
		return ctx
	}
	kept := trace.TraceState{}
	if value := span.TraceState().Get(sampling); value != "" {
		kept, _ = kept.Insert(sampling, value) // it was valid before
	}
	return trace.ContextWithRemoteSpanContext(ctx, span.WithTraceState(kept))
}

// spanKeys are the names by which OpenTelemetry knows what the log line has.
var spanKeys = map[string]string{
	"model": "gen_ai.request.model", "prompt_tokens": "gen_ai.usage.input_tokens", "completion_tokens": "gen_ai.usage.output_tokens",
	"finish": "gen_ai.response.finish_reason",
}

func (f *facts) endSpan(method string, err error) {
	if f.span == nil {
		return
	}
	defer f.span.End()
	if !f.span.IsRecording() {
		return
	}
	code := status.Code(err)
	f.span.SetAttributes(
		attribute.String("rpc.system", "grpc"),
		attribute.String("rpc.service", strings.Trim(traced, "/")),
		attribute.String("rpc.method", strings.TrimPrefix(method, traced)),
		attribute.Int("rpc.grpc.status_code", int(code)),
	)
	for _, a := range f.attrs {
		key, known := spanKeys[a.Key]
		if !known {
			key = "inferno." + a.Key
		}
		if a.Value.Kind() == slog.KindInt64 {
			f.span.SetAttributes(attribute.Int64(key, a.Value.Int64()))
		} else if a.Key != "trace_id" {
			f.span.SetAttributes(attribute.String(key, a.Value.String()))
		}
	}
	switch code { // the client's own faults are none of the server's
	case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		f.span.SetStatus(otelcodes.Error, code.String())
	}
}

// tracePhases tells when the request waited, when its prompt was computed and when its tokens came.
func (o *output) tracePhases() {
	f, ok := o.ctx.Value(factsKey{}).(*facts)
	if !ok || f.span == nil || !f.span.IsRecording() {
		return
	}
	at := o.request.Arrived
	event := func(name string, after time.Duration) { f.span.AddEvent(name, trace.WithTimestamp(at.Add(after))) }
	event("queued", 0)
	for _, c := range o.continuations {
		if c.finish == nil {
			if c.tokens > 0 { // it left early
				event("prefill", c.stream.Started().Queued)
				return
			}
			continue
		}
		t := o.timings()
		event("prefill", t.GetQueued().AsDuration())
		if o.tokens() > 0 {
			event("decode", t.GetTimeToFirstToken().AsDuration())
			event("last token", t.GetTimeToFirstToken().AsDuration()+t.GetDecode().AsDuration())
		}
		return
	}
}
