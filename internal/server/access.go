package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/inferno-serve/inferno/internal/auth"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// methodRoles is the one table of what each method takes. A method that is not in it is refused, whoever calls.
var methodRoles = map[string]auth.Role{
	healthgrpc.Health_Check_FullMethodName:       auth.Health,
	healthgrpc.Health_Watch_FullMethodName:       auth.Health,
	healthgrpc.Health_List_FullMethodName:        auth.Health,
	infernov1.HealthService_Check_FullMethodName: auth.Health,
	infernov1.HealthService_Watch_FullMethodName: auth.Health,

	infernov1.InferenceService_Generate_FullMethodName:       auth.Infer,
	infernov1.InferenceService_GenerateStream_FullMethodName: auth.Infer,
	infernov1.InferenceService_Score_FullMethodName:          auth.Infer,
	infernov1.InferenceService_Embed_FullMethodName:          auth.Infer,
	infernov1.InferenceService_Tokenize_FullMethodName:       auth.Infer,
	infernov1.InferenceService_Detokenize_FullMethodName:     auth.Infer,
	infernov1.InferenceService_Abort_FullMethodName:          auth.Infer,

	infernov1.RegistryService_ListModels_FullMethodName:     auth.Read,
	infernov1.RegistryService_GetModel_FullMethodName:       auth.Read,
	infernov1.RegistryService_ListInstances_FullMethodName:  auth.Read,
	infernov1.RegistryService_WatchInstances_FullMethodName: auth.Read,
	infernov1.RegistryService_LoadModel_FullMethodName:      auth.Admin,
	infernov1.RegistryService_UnloadModel_FullMethodName:    auth.Admin,

	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      auth.Read,
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": auth.Read,
}

// errNoRule means that a method was registered and has no rule.
var errNoRule = errors.New("no rule allows this method to anybody")

// gate lets calls in.
type gate struct {
	access  *auth.Access
	log     *slog.Logger
	refused *prometheus.CounterVec
}

func newGate(access *auth.Access, log *slog.Logger) *gate {
	return &gate{access, log, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "inferno_auth_refused_total", Help: "Calls that were refused before their message was read.",
	}, []string{"reason"})}
}

// options are none where everybody may do everything.
func (g *gate) options() []grpc.ServerOption {
	if g.access == nil {
		return nil
	}
	return []grpc.ServerOption{grpc.InTapHandle(g.tap)}
}

type callerKey struct{}

// callerOf is who makes the call; ok is false where the server asks nobody who he is.
func callerOf(ctx context.Context) (caller auth.Caller, ok bool) {
	caller, ok = ctx.Value(callerKey{}).(auth.Caller)
	return caller, ok
}

// tap sees a call's headers on the goroutine that reads the connection, so that a caller who may not call has neither a goroutine nor
// memory for a message. gRPC itself answers methods that are not registered.
func (g *gate) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	role, ruled := methodRoles[info.FullMethodName]
	if !ruled {
		return ctx, nil // the interceptors refuse it, if gRPC does not
	}
	address, state := peerOf(ctx)
	caller, err := g.access.Identify(info.Header["authorization"], state, address)
	if err == nil {
		err = caller.Allow(role)
	}
	if err == nil {
		return context.WithValue(ctx, callerKey{}, caller), nil
	}
	failure := failureOf(err)
	g.refused.WithLabelValues(failure.reason).Inc()
	attrs := []any{"method", strings.TrimPrefix(info.FullMethodName, "/"), "code", failure.code.String(), "peer", addressText(address), "error", err}
	if caller.Identity != nil {
		attrs = append(attrs, "identity", caller.Name)
	}
	g.log.InfoContext(ctx, "call refused", attrs...)
	return nil, failure.status("").Err()
}

func peerOf(ctx context.Context) (net.Addr, *tls.ConnectionState) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, nil
	}
	if info, secure := p.AuthInfo.(credentials.TLSInfo); secure {
		return p.Addr, &info.State
	}
	return p.Addr, nil
}

func addressText(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

// begin takes the call within its caller's limits. end is to be called when it has ended.
func (g *gate) begin(ctx context.Context, method string) (end func(), err error) {
	if g.access == nil {
		return func() {}, nil
	}
	role, ruled := methodRoles[method]
	caller, known := callerOf(ctx)
	if !ruled || !known {
		return nil, status.Error(codes.PermissionDenied, errNoRule.Error())
	}
	note(ctx, slog.String("identity", caller.Name))
	if err := caller.Begin(role); err != nil {
		return nil, err
	}
	return func() { caller.End(role) }, nil
}

func (g *gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	end, err := g.begin(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	defer end()
	return handler(ctx, req)
}

func (g *gate) stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	end, err := g.begin(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	defer end()
	return handler(server, stream)
}

// charge counts tokens against the minute of the call's caller.
func charge(ctx context.Context, tokens int) {
	if caller, ok := callerOf(ctx); ok {
		caller.Charge(tokens)
	}
}

// ownerOf is whose requests the call makes; "" where the server asks nobody who he is.
func ownerOf(ctx context.Context) string {
	if caller, ok := callerOf(ctx); ok {
		return caller.Key
	}
	return ""
}

// mayAbort says whether the call may abort requests of this owner.
func mayAbort(ctx context.Context) func(owner string) bool {
	caller, ok := callerOf(ctx)
	if !ok || caller.Roles.Has(auth.Admin) {
		return func(string) bool { return true }
	}
	return func(owner string) bool { return owner == caller.Key }
}
