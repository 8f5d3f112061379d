package server

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" // of the W3C's own example

func startTraced(t *testing.T, s *script) (*fixture, *tracetest.SpanRecorder) {
	t.Helper()
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	return start(t, s, func(o *Options) { o.Tracer = provider.Tracer("test") }), recorder
}

func TestRequestIsOneSpanOfTheClientsTrace(t *testing.T) {
	timings := engine.Timings{Queued: 2 * time.Millisecond, Prefill: 3 * time.Millisecond, Decode: 4 * time.Millisecond, Total: 10 * time.Millisecond}
	f, recorder := startTraced(t, play(
		part{ids: []int32{'a'}}, part{ids: []int32{'b'}, finish: &engine.Finish{Reason: engine.MaxTokens, Token: 'b', Timings: timings}},
	))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", traceparent)
	if _, err := f.api.Generate(ctx, textRequest("secret prompt")); err != nil {
		t.Fatal(err)
	}
	if _, err := healthgrpc.NewHealthClient(f.conn).Check(ctx, &healthgrpc.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	spans := recorder.Ended()
	if len(spans) != 1 {
		t.Fatalf("%d spans, want that of the request alone", len(spans))
	}
	s := spans[0]
	if s.SpanContext().TraceID().String() != traceparent[3:35] || s.Parent().SpanID().String() != traceparent[36:52] || !s.Parent().IsRemote() {
		t.Errorf("trace %v, parent %v, want those of %s", s.SpanContext().TraceID(), s.Parent().SpanID(), traceparent)
	}
	if s.Name() != "inferno.v1.InferenceService/Generate" || s.Status().Code != otelcodes.Unset {
		t.Errorf("span %q, %v", s.Name(), s.Status())
	}
	attributes := map[attribute.Key]attribute.Value{}
	for _, a := range s.Attributes() {
		attributes[a.Key] = a.Value
		if text := fmt.Sprint(a.Value.AsInterface()); len(text) > 64 {
			t.Errorf("attribute %s is %q", a.Key, text)
		}
	}
	if attributes["gen_ai.usage.output_tokens"].AsInt64() != 2 || attributes["gen_ai.request.model"].AsString() != "m" ||
		attributes["inferno.request_id"].AsString() == "" || attributes["rpc.method"].AsString() != "Generate" ||
		attributes["gen_ai.usage.input_tokens"].AsInt64() == 0 {
		t.Errorf("attributes %v", attributes)
	}
	at := map[string]time.Time{}
	for _, e := range s.Events() {
		at[e.Name] = e.Time
	}
	if at["prefill"].Sub(at["queued"]) != 2*time.Millisecond || at["decode"].Sub(at["prefill"]) != 3*time.Millisecond ||
		at["last token"].Sub(at["decode"]) != 4*time.Millisecond {
		t.Errorf("events %v, want them as far apart as %+v says", at, timings)
	}
}

func TestSpanTellsTheServersFaultsAndNotTheClients(t *testing.T) {
	f, recorder := startTraced(t, newScript())
	if _, err := f.api.Generate(t.Context(), &infernov1.GenerateRequest{Model: "none"}); err == nil {
		t.Fatal("an unknown model was taken")
	}
	g, other := startTraced(t, &script{panics: "at a test's wish", requests: make(chan *scripted, 1)})
	if _, err := g.api.Generate(t.Context(), textRequest("a")); err == nil {
		t.Fatal("a panic went unnoticed")
	}
	if s := recorder.Ended()[0].Status(); s.Code != otelcodes.Unset {
		t.Errorf("a client's fault: %v", s)
	}
	if s := other.Ended()[0].Status(); s.Code != otelcodes.Error || s.Description != "Internal" {
		t.Errorf("a server's fault: %v", s)
	}
}

// BenchmarkCall is what a call costs around its handler with traces and without, and how much of the latter is there for them.
func BenchmarkCall(b *testing.B) {
	request := &infernov1.GenerateRequest{}
	ctx := metadata.NewIncomingContext(context.Background(), metadata.Pairs("traceparent", traceparent, "user-agent", "x"))
	info := &grpc.UnaryServerInfo{FullMethod: "/inferno.v1.InferenceService/Generate"}
	handler := func(ctx context.Context, _ any) (any, error) {
		note(ctx, slog.String("model", "m"), slog.Int("prompt_tokens", 5))
		return nil, nil
	}
	discard := slog.New(slog.DiscardHandler)
	provider := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.AlwaysSample()))
	b.Run("off", func(b *testing.B) {
		call := logUnary(discard, nil)
		for b.Loop() {
			_, _ = call(ctx, request, info, handler)
		}
	})
	b.Run("on", func(b *testing.B) {
		call := logUnary(discard, provider.Tracer("test"))
		for b.Loop() {
			_, _ = call(ctx, request, info, handler)
		}
	})
	b.Run("part that traces add when off", func(b *testing.B) {
		f := &facts{}
		for b.Loop() {
			f.beginSpan(ctx, nil, info.FullMethod)
			f.endSpan(info.FullMethod, nil)
		}
	})
}
