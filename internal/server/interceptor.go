package server

import (
	"context"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// durationBuckets, in seconds, fit calls that last from a health check to a long generation.
var durationBuckets = []float64{0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600}

func newMetrics() *grpcprom.ServerMetrics {
	return grpcprom.NewServerMetrics(grpcprom.WithServerHandlingTimeHistogram(grpcprom.WithHistogramBuckets(durationBuckets)))
}

// interceptors wrap every call, the first outermost: metrics and log see the status that the client sees, which is made of the
// handler's error, or of its panic.
func interceptors(metrics *grpcprom.ServerMetrics, log *slog.Logger, tracer trace.Tracer, gate *gate) []grpc.ServerOption {
	recovered := recovery.WithRecoveryHandlerContext(func(ctx context.Context, p any) error {
		log.ErrorContext(ctx, "panic in a call", "panic", p, "stack", string(debug.Stack()))
		return errPanic
	})
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(
			metrics.UnaryServerInterceptor(), logUnary(log, tracer), unaryStatus, recovery.UnaryServerInterceptor(recovered), gate.unary,
		),
		grpc.ChainStreamInterceptor(
			metrics.StreamServerInterceptor(), logStream(log, tracer), streamStatus, recovery.StreamServerInterceptor(recovered), gate.stream,
		),
	}
}

func unaryStatus(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	response, err := handler(ctx, req)
	return response, toStatus(err, requestID(ctx))
}

func streamStatus(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return toStatus(handler(server, stream), requestID(stream.Context()))
}

func logUnary(log *slog.Logger, tracer trace.Tracer) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		f := &facts{begin: time.Now()}
		ctx = f.beginSpan(ctx, tracer, info.FullMethod)
		response, err := handler(context.WithValue(ctx, factsKey{}, f), req)
		f.endSpan(info.FullMethod, err)
		f.log(ctx, log, info.FullMethod, err)
		return response, err
	}
}

func logStream(log *slog.Logger, tracer trace.Tracer) grpc.StreamServerInterceptor {
	return func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		f := &facts{begin: time.Now()}
		ctx := f.beginSpan(stream.Context(), tracer, info.FullMethod)
		err := handler(server, streamWithContext{stream, context.WithValue(ctx, factsKey{}, f)})
		f.endSpan(info.FullMethod, err)
		f.log(ctx, log, info.FullMethod, err)
		return err
	}
}

type streamWithContext struct {
	grpc.ServerStream
	ctx context.Context
}

func (s streamWithContext) Context() context.Context { return s.ctx }

// facts are what the log line of a call tells beside method, code and time: ids and counts, never contents. They belong to the call's
// goroutine.
type facts struct {
	begin     time.Time
	requestID string // of a generation; "" in other calls
	attrs     []slog.Attr
	span      trace.Span // nil: the call is not traced
}

type factsKey struct{}

// note adds facts to the log line of the call that ctx belongs to; a key that is there already gets the new value.
func note(ctx context.Context, attrs ...slog.Attr) {
	f, ok := ctx.Value(factsKey{}).(*facts)
	if !ok {
		return
	}
	for _, a := range attrs {
		i := slices.IndexFunc(f.attrs, func(b slog.Attr) bool { return a.Key == b.Key })
		if i < 0 {
			f.attrs = append(f.attrs, a)
		} else {
			f.attrs[i] = a
		}
	}
}

// nameRequest tells the call that ctx belongs to which request it is.
func nameRequest(ctx context.Context, id string) {
	if f, ok := ctx.Value(factsKey{}).(*facts); ok {
		f.requestID = id
	}
	note(ctx, slog.String("request_id", clip(id)))
}

func requestID(ctx context.Context) string {
	if f, ok := ctx.Value(factsKey{}).(*facts); ok {
		return f.requestID
	}
	return ""
}

func (f *facts) log(ctx context.Context, log *slog.Logger, method string, err error) {
	code := status.Code(err)
	level := levelOf(method, code)
	if !log.Enabled(ctx, level) {
		return
	}
	attrs := append([]slog.Attr{
		slog.String("method", strings.TrimPrefix(method, "/")),
		slog.String("code", code.String()),
		slog.Duration("duration", time.Since(f.begin)),
	}, f.attrs...)
	if err != nil {
		attrs = append(attrs, slog.String("error", clip(err.Error())))
	}
	log.LogAttrs(ctx, level, "call finished", attrs...)
}

// levelOf keeps what orchestrators call all day out of the log, and raises what an operator should look at.
func levelOf(method string, code codes.Code) slog.Level {
	switch code {
	case codes.Internal, codes.Unknown, codes.DataLoss:
		return slog.LevelError
	}
	for _, quiet := range []string{"/grpc.health.", "/grpc.reflection.", "/inferno.v1.HealthService/"} {
		if strings.HasPrefix(method, quiet) {
			return slog.LevelDebug
		}
	}
	return slog.LevelInfo
}

// clip bounds what a client can put into the log.
func clip(s string) string {
	const most = 512
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
