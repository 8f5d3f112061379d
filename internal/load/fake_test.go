package load

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/inferno-serve/inferno/client"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// scripted is a server whose answers a test writes. Within a synctest bubble its delays are exact, and take no time.
type scripted struct {
	infernov1.UnimplementedInferenceServiceServer
	infernov1.UnimplementedRegistryServiceServer

	// answer answers the n-th request, from 0; the one that Open makes comes before and is answered at once.
	answer func(n int, req *infernov1.GenerateRequest, a *answer) error

	mu       sync.Mutex
	seen     int
	prompts  [][]uint32
	starts   []time.Duration // since begin
	begin    time.Time
	conns    int
	running  int
	most     int // at once
	listener *bufconn.Listener
}

// answer sends messages of tokens.
type answer struct {
	stream grpc.ServerStreamingServer[infernov1.GenerateStreamResponse]
	sent   uint32
}

func (a *answer) tokens(n int) error {
	d := &infernov1.Delta{Offset: a.sent, TokenIds: make([]uint32, n)}
	m := &infernov1.GenerateStreamResponse{Deltas: []*infernov1.Delta{d}}
	if a.sent == 0 {
		m.Start = &infernov1.GenerationStart{}
	}
	a.sent += uint32(n)
	return a.stream.Send(m)
}

func (a *answer) finish() error {
	return a.stream.Send(&infernov1.GenerateStreamResponse{Finish: &infernov1.GenerationFinish{
		Finishes: []*infernov1.Finish{{Reason: infernov1.FinishReason_FINISH_REASON_MAX_TOKENS}},
	}})
}

// all sends tokens one a message, the first after `first`, each other `gap` after the one before it.
func (a *answer) all(req *infernov1.GenerateRequest, first, gap time.Duration) error {
	for i := range req.GetStopping().GetMaxTokens() {
		wait := gap
		if i == 0 {
			wait = first
		}
		if err := a.sleep(wait); err != nil {
			return err
		}
		if err := a.tokens(1); err != nil {
			return err
		}
	}
	return a.finish()
}

func (a *answer) sleep(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-a.stream.Context().Done():
		return a.stream.Context().Err()
	}
}

func (s *scripted) GenerateStream(req *infernov1.GenerateRequest, stream grpc.ServerStreamingServer[infernov1.GenerateStreamResponse]) error {
	a := &answer{stream: stream}
	s.mu.Lock()
	n := s.seen - 1
	s.seen++
	if n == -1 {
		s.mu.Unlock()
		return a.all(req, 0, 0)
	}
	if n == 0 {
		s.begin = time.Now()
	}
	s.starts = append(s.starts, time.Since(s.begin))
	s.prompts = append(s.prompts, req.GetTokenIds().GetIds())
	s.running++
	s.most = max(s.most, s.running)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.running--
		s.mu.Unlock()
	}()
	return s.answer(n, req, a)
}

func (s *scripted) GetModel(_ context.Context, req *infernov1.GetModelRequest) (*infernov1.GetModelResponse, error) {
	return &infernov1.GetModelResponse{Model: &infernov1.Model{Name: req.GetName(), VocabularySize: 1000, MaxContext: 4096}}, nil
}

// open starts the server, and a generator in front of it.
func (s *scripted) open(t testing.TB, o Options) *Generator {
	t.Helper()
	s.listener = bufconn.Listen(1 << 20)
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	infernov1.RegisterInferenceServiceServer(server, s)
	infernov1.RegisterRegistryServiceServer(server, s)
	served := make(chan error, 1)
	go func() { served <- server.Serve(s.listener) }()
	o.Model = "m"
	o.Dial = func() (*client.Client, error) {
		return client.New(client.Options{Addr: "passthrough:///scripted", DisableRetries: true, DialOptions: []grpc.DialOption{
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				s.mu.Lock()
				s.conns++
				s.mu.Unlock()
				return s.listener.DialContext(ctx)
			}),
		}})
	}
	g, err := Open(t.Context(), o)
	if err != nil {
		server.Stop()
		t.Fatal(err, <-served)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return g
}

func mustRun(t testing.TB, g *Generator, p Point) *Result {
	t.Helper()
	r, err := g.Run(t.Context(), p, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func contextWithin(t testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(t.Context(), d)
}
