package server

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/inferno-serve/inferno/internal/auth"
	"github.com/inferno-serve/inferno/internal/auth/authtest"
	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// paced makes a token every so often: each then has a write and a TLS record of its own, as those of a stream in service do.
type paced struct {
	endless
	next  time.Time
	every time.Duration
}

func (p *paced) Submit(context.Context, *engine.Request) ([]Stream, error) {
	p.next = time.Now()
	return []Stream{p}, nil
}

func (p *paced) Poll() ([]int32, *engine.Finish, error) {
	if time.Now().Before(p.next) {
		return nil, nil, nil
	}
	p.next = p.next.Add(p.every)
	return p.endless.Poll()
}

func (p *paced) Wait(context.Context) error {
	time.Sleep(time.Until(p.next))
	return nil
}

// BenchmarkSecuredToken is what a streamed token costs a server in CPU time, over TCP, from one of nothing but the service to one with metrics,
// log, TLS 1.3, a token for each call and a limit of tokens. The client is a process of its own, so that it is not counted.
func BenchmarkSecuredToken(b *testing.B) {
	certs := authtest.NewAuthority(b, "ca")
	dir := b.TempDir()
	cert, key := certs.Server().Files(b, dir)
	authtest.Write(b, filepath.Join(dir, "ca.pem"), certs.PEM)
	transport, err := auth.OpenTLS(auth.TLSOptions{Cert: cert, Key: key, MinVersion: tls.VersionTLS13, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	ca := filepath.Join(dir, "ca.pem")
	access := withAccess(b, identity("alice", "infer", ", limits: {tokens_per_minute: 1000000000000, requests_per_second: 1000000, streams: 1000}"))

	b.Run("bare", func(b *testing.B) {
		g := newPaced(b)
		f := start(b, g)
		bare := grpc.NewServer(limits()...)
		infernov1.RegisterInferenceServiceServer(bare, inferenceService{Server: f.Server})
		streamTokens(b, bare.Serve, "")
		bare.Stop()
	})
	for _, c := range []struct {
		name    string
		options func(*Options)
		ca      string
	}{
		{"metrics", func(*Options) {}, ""},
		{"metrics,auth", access, ""},
		{"metrics,auth,TLS", func(o *Options) { access(o); o.TLS = transport }, ca},
	} {
		b.Run(c.name, func(b *testing.B) {
			g := newPaced(b)
			streamTokens(b, start(b, g, c.options).Serve, c.ca)
		})
	}
}

// streamTokens serves one stream of b.N messages to a process that reads it.
func streamTokens(b *testing.B, serve func(net.Listener) error, ca string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = serve(l) }() // ends with the server
	reader := exec.Command(os.Args[0], "-test.run=^TestReaderOfTheBenchmark$")
	reader.Env = append(os.Environ(), readerAddress+"="+l.Addr().String(), readerCA+"="+ca)
	before := cpuTime(b)
	b.ResetTimer()
	if out, err := reader.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	b.StopTimer()
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/token")
}

const (
	readerAddress = "INFERNO_BENCH_ADDRESS"
	readerCA      = "INFERNO_BENCH_CA"
)

// TestReaderOfTheBenchmark is the client process of BenchmarkSecuredToken.
func TestReaderOfTheBenchmark(t *testing.T) {
	address, ca := os.Getenv(readerAddress), os.Getenv(readerCA)
	if address == "" {
		t.Skip("for BenchmarkSecuredToken alone")
	}
	how := insecure.NewCredentials()
	if ca != "" {
		var err error
		if how, err = credentials.NewClientTLSFromFile(ca, "localhost"); err != nil {
			t.Fatal(err)
		}
	}
	// Windows that do not grow, as those of package client: else each message is answered with a ping.
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(how), grpc.WithStaticStreamWindowSize(1<<20), grpc.WithStaticConnWindowSize(4<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := infernov1.NewInferenceServiceClient(conn).GenerateStream(as(t.Context(), "alice"),
		&infernov1.GenerateRequest{Model: "m", Input: textRequest("hi").Input})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(stream); err != nil {
		t.Fatal(err)
	}
}

func newPaced(b *testing.B) *paced {
	return &paced{endless: endless{left: b.N}, every: 100 * time.Microsecond}
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
