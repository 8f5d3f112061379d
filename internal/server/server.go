// Package server answers gRPC calls: InferenceService, HealthService and RegistryService, with grpc.health.v1 and reflection beside them.
// It checks what comes in, turns it into plain Go and gives it to what it was given: models, health, instances. Each call has its own
// goroutine, which gRPC makes; of its own the server has one for each connection that streams (sender.go), and one for the time that Stop takes.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync"
	"time"

	orcaservice "github.com/cncf/xds/go/xds/service/orca/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/inferno-serve/inferno/internal/auth"
	"github.com/inferno-serve/inferno/internal/discovery"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Bounds of a connection. gRPC's own defaults leave most of them open.
const (
	maxReceiveBytes      = 4 << 20
	maxSendBytes         = 16 << 20
	maxHeaderBytes       = 16 << 10
	maxConcurrentStreams = 256 // of one connection; clients wait for a place, so the bound on work is the engine's queue
	connectionTimeout    = 10 * time.Second

	// A client that vanished is found within the sum of the first two, and its request's blocks are free again.
	keepaliveTime    = 20 * time.Second
	keepaliveTimeout = 10 * time.Second
	minPingInterval  = 10 * time.Second // clients that ping more often are sent away; grpc-go's cannot

	connectionAge      = 30 * time.Minute // then a client is asked to connect anew, so that load spreads over new instances
	connectionAgeGrace = 2 * time.Hour    // for the streams that it still has; longer than any generation
)

const (
	// defaultSendTimeout is how long a client may leave a message unread before its request ends.
	defaultSendTimeout = 30 * time.Second

	// lastWords is how long calls may take to tell their clients how they ended, once Stop waits for no generation any more.
	lastWords = time.Second
)

// Options are what a server is given. Models, Health and Instances must be set.
type Options struct {
	Models     Models
	Health     Health
	Instances  Instances
	Loader     Loader                // loads and unloads models; nil means that they do not change
	LocalOnly  bool                  // only this host's users can call: they may change what the server holds
	Registerer prometheus.Registerer // takes the metrics of calls; nil means that none are kept
	Log        *slog.Logger          // one line for each finished call; nil means none
	Tracer     trace.Tracer          // a span for each request; nil means none
	Reflection bool                  // serve gRPC reflection, for grpcurl and the like
	Access     *auth.Access          // who may call what; nil: everybody everything
	TLS        *auth.TLS             // nil: connections in plain text

	SendTimeout time.Duration // how long a client may leave a message unread; 0 means 30 s

	Load func() discovery.Load // how busy this instance is, for the clients' balancers; nil: they are not told
}

// Server is made by New. Serve runs it, Drain has it refuse new work, Stop ends it.
type Server struct {
	models      Models
	health      Health
	instances   Instances
	loader      Loader // nil: models do not change
	localOnly   bool
	log         *slog.Logger
	sendTimeout time.Duration

	grpc      *grpc.Server
	loads     *loadReporter // nil: none
	live      liveRequests
	encoders  chan struct{} // a slot for each call that may tokenize a long text at once
	compilers chan struct{} // the same of calls that compile a constraint
	drain     sync.Once
	drained   chan struct{} // closed by Drain
}

// New makes a server that does not listen yet.
func New(o Options) (*Server, error) {
	if o.Models == nil || o.Health == nil || o.Instances == nil {
		return nil, errors.New("server: Models, Health and Instances must be set")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.SendTimeout <= 0 {
		o.SendTimeout = defaultSendTimeout
	}
	s := &Server{
		models: o.Models, health: o.Health, instances: o.Instances, log: o.Log, sendTimeout: o.SendTimeout,
		loader: o.Loader, localOnly: o.LocalOnly,
		live:     newLiveRequests(),
		drained:  make(chan struct{}),
		encoders: make(chan struct{}, runtime.GOMAXPROCS(0)), compilers: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
	}
	metrics, gate := newMetrics(), newGate(o.Access, o.Log)
	if o.Registerer != nil {
		for _, c := range []prometheus.Collector{metrics, gate.refused} {
			if err := o.Registerer.Register(c); err != nil {
				return nil, fmt.Errorf("server: register metrics: %w", err)
			}
		}
	}
	options := slices.Concat(limits(), gate.options(), interceptors(metrics, s.log, o.Tracer, gate))
	if o.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(o.TLS.Config())))
	}
	if o.Load != nil {
		s.loads = newLoadReporter(o.Load)
		options = append(s.loads.options(), options...) // outermost: after all that a call does
	}
	s.grpc = grpc.NewServer(options...)
	infernov1.RegisterInferenceServiceServer(s.grpc, inferenceService{Server: s})
	infernov1.RegisterHealthServiceServer(s.grpc, healthService{Server: s})
	infernov1.RegisterRegistryServiceServer(s.grpc, registryService{Server: s})
	healthgrpc.RegisterHealthServer(s.grpc, standardHealth{Server: s})
	if s.loads != nil {
		orcaservice.RegisterOpenRcaServiceServer(s.grpc, loadService{Server: s})
	}
	if o.Reflection {
		reflection.Register(s.grpc)
	}
	metrics.InitializeMetrics(s.grpc)
	return s, nil
}

func limits() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(maxReceiveBytes),
		grpc.MaxSendMsgSize(maxSendBytes),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.MaxConcurrentStreams(maxConcurrentStreams),
		grpc.ConnectionTimeout(connectionTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: keepaliveTime, Timeout: keepaliveTimeout,
			MaxConnectionAge: connectionAge, MaxConnectionAgeGrace: connectionAgeGrace,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPingInterval, PermitWithoutStream: true}),
		// Without it Stop returns while handlers still run, and the engine would be closed under them.
		grpc.WaitForHandlers(true),
	}
}

// Serve answers calls on l, which it closes, until Stop. It may run on several listeners at once.
func (s *Server) Serve(l net.Listener) error {
	if err := s.grpc.Serve(listener{l}); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}

// Drain refuses new generations with UNAVAILABLE, says NOT_SERVING, and ends all watches. What runs goes on. Idempotent.
func (s *Server) Drain() {
	s.drain.Do(func() {
		s.live.close()
		close(s.drained)
	})
}

// Stop drains, and waits for the generations that run; until they have ended, probes are answered still. When ctx ends first, they end
// with UNAVAILABLE, and Stop returns how many it cut off so. A call that does not end even then loses its connection. Stop returns when
// no handler runs any more; a handler that waits for an engine ends with its context.
func (s *Server) Stop(ctx context.Context) (cut int) {
	s.Drain()
	select {
	case <-s.live.idle:
	case <-ctx.Done():
		if cut = len(s.live.cancelAll(errCut, func(string) bool { return true })); cut > 0 {
			s.log.Warn("requests cut off at stop", "requests", cut)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	select {
	case <-done:
	case <-time.After(lastWords):
		s.grpc.Stop()
		<-done
	}
	return cut
}
