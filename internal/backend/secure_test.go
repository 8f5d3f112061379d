package backend

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/inferno-serve/inferno/internal/auth/authtest"
	"github.com/inferno-serve/inferno/internal/config"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// guarded is a backend behind TLS that asks for certificates and tokens, and the files of both sides.
type guarded struct {
	*running
	dir   string
	ca    *authtest.Authority // of the server
	roots *x509.CertPool
}

const workload = "spiffe://test/ns/default/sa/client"

func entry(name, token, roles string) string {
	hash := sha256.Sum256([]byte(token))
	return fmt.Sprintf("  - {name: %s, roles: [%s], tokens: ['sha256:%s']}\n", name, roles, hex.EncodeToString(hash[:]))
}

func startGuarded(t *testing.T, clients *authtest.Authority, identities string) *guarded {
	t.Helper()
	g := &guarded{dir: t.TempDir(), ca: authtest.NewAuthority(t, "servers"), roots: x509.NewCertPool()}
	g.roots.AddCert(g.ca.Cert)
	cert, key := g.ca.Server().Files(t, g.dir)
	authtest.Write(t, g.path("clients.pem"), clients.PEM)
	authtest.Write(t, g.path("access.yaml"), []byte("identities:\n"+identities))
	g.running = startReloading(t, 20*time.Millisecond, func(c *config.Config) {
		c.TLSCert, c.TLSKey, c.TLSClientCA, c.TLSClientAuth = cert, key, g.path("clients.pem"), "optional"
		c.AccessFile = g.path("access.yaml")
	})
	return g
}

func (g *guarded) path(name string) string { return filepath.Join(g.dir, name) }

// dialAs shows a certificate, where there is one.
func (g *guarded) dialAs(t *testing.T, pair *authtest.Pair) *grpc.ClientConn {
	t.Helper()
	c := &tls.Config{RootCAs: g.roots, MinVersion: tls.VersionTLS13}
	if pair != nil {
		mine, err := tls.X509KeyPair(pair.Cert, pair.Key)
		if err != nil {
			t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{mine}
	}
	conn, err := grpc.NewClient(g.address, grpc.WithTransportCredentials(credentials.NewTLS(c)), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// waitTaken tries until all go well: files are read again when the machine gets to it.
func (g *guarded) waitTaken(t *testing.T, all ...func() error) {
	t.Helper()
	for began := time.Now(); len(all) > 0; time.Sleep(10 * time.Millisecond) {
		err := all[0]()
		if err == nil {
			all = all[1:]
		} else if time.Since(began) > time.Minute {
			t.Fatalf("not taken within a minute: %v", err)
		}
	}
}

func (g *guarded) end(t *testing.T) {
	t.Helper()
	g.stop()
	if err := <-g.done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// swapTime is how long files are swapped under load: 3 s, or as the variable says.
func swapTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("INFERNO_SWAP_TIME")
	if text == "" {
		return 3 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Every second the server gets a new certificate, a new authority of clients and a new token, and clients a new certificate and that token;
// what went before and what comes next count too, as they do where somebody renews them.
func TestSwappingCertificatesAndTokensFailsNoRequest(t *testing.T) {
	first := authtest.NewAuthority(t, "clients 0")
	token := func(i int) string { return fmt.Sprintf("inferno_token_%d", i) }
	identities := func(i int) string {
		hashes := ""
		for j := max(i-2, 0); j <= i+1; j++ { // calls that have the one before last are under way
			hash := sha256.Sum256([]byte(token(j)))
			hashes += "'sha256:" + hex.EncodeToString(hash[:]) + "',"
		}
		return "  - {name: alice, roles: [infer, health], tokens: [" + hashes + "]}\n  - {name: bob, roles: [infer], certificates: ['" + workload + "']}\n"
	}
	g := startGuarded(t, first, identities(0))
	g.waitReady(t)

	var current atomic.Int64 // of the token that clients show
	var shown atomic.Pointer[authtest.Pair]
	pair := first.Client([]string{workload})
	shown.Store(&pair)
	stop := make(chan struct{})
	var calls, failed, streams atomic.Int64
	fail := func(what string, err error) {
		if failed.Add(1) < 10 {
			t.Errorf("%s: %v", what, err)
		}
	}
	generate := func(ctx context.Context, conn *grpc.ClientConn) error {
		stream, err := infernov1.NewInferenceServiceClient(conn).GenerateStream(ctx, request(4))
		for err == nil {
			_, err = stream.Recv()
		}
		if !errors.Is(err, io.EOF) {
			return err
		}
		calls.Add(1)
		return nil
	}
	until := func(work func()) func() {
		return func() {
			for {
				select {
				case <-stop:
					return
				default:
					work()
				}
			}
		}
	}
	var load sync.WaitGroup
	kept := g.dialAs(t, nil)
	defer kept.Close()
	for range 2 { // on one connection, by tokens
		load.Go(until(func() {
			if err := generate(withToken(t.Context(), token(int(current.Load()))), kept); err != nil {
				fail("a token on a kept connection", err)
			}
		}))
	}
	load.Go(until(func() { // a new connection each time, by certificate
		conn := g.dialAs(t, shown.Load())
		defer conn.Close()
		if err := generate(t.Context(), conn); err != nil {
			fail("a certificate on a new connection", err)
		}
	}))
	load.Go(until(func() { // a stream that is open over a swap
		ctx, cancel := context.WithTimeout(withToken(t.Context(), token(int(current.Load()))), 1500*time.Millisecond)
		defer cancel()
		watch, err := infernov1.NewHealthServiceClient(kept).Watch(ctx, &infernov1.WatchRequest{})
		for err == nil {
			_, err = watch.Recv()
		}
		if status.Code(err) != codes.DeadlineExceeded {
			fail("a watch", err)
		}
		streams.Add(1)
	}))
	bundle := first.PEM
	swaps := 0
	ticks := time.NewTicker(time.Second)
	defer ticks.Stop()
	for deadline := time.Now().Add(swapTime(t)); time.Now().Before(deadline); swaps++ {
		next := authtest.NewAuthority(t, fmt.Sprint("clients ", swaps+1))
		bundle = append(bytes.Clone(bundle), next.PEM...)
		authtest.Write(t, g.path("clients.pem"), bundle)
		g.ca.Server().Files(t, g.dir)
		authtest.Write(t, g.path("access.yaml"), []byte("identities:\n"+identities(swaps+1)))
		pair := next.Client([]string{workload})
		g.waitTaken(t, func() error { // the authority, and the token that is the youngest of all
			conn := g.dialAs(t, &pair)
			defer conn.Close()
			return generate(t.Context(), conn)
		}, func() error { return generate(withToken(t.Context(), token(swaps+2)), kept) })
		<-ticks.C
		current.Add(1)
		shown.Store(&pair)
	}
	close(stop)
	load.Wait()
	text := g.log.all()
	reloads := strings.Count(text, "msg=reloaded")
	t.Logf("%d swaps, %d reloads, %d generations, %d watches, %d failed", swaps, reloads, calls.Load(), streams.Load(), failed.Load())
	if reloads < 2*swaps || calls.Load() == 0 {
		t.Errorf("%d reloads of %d swaps, %d generations", reloads, swaps, calls.Load())
	}
	g.end(t)
}

// waitReady returns once the model can be called.
func (g *guarded) waitReady(t *testing.T) {
	t.Helper()
	if _, err := g.log.field(t.Context(), `"model ready"`, "model"); err != nil {
		t.Fatal(err)
	}
}

func TestTheAdminListenerAsksWhoCalls(t *testing.T) {
	g := startGuarded(t, authtest.NewAuthority(t, "clients"), entry("reader", "r", "read")+entry("ops", "a", "admin, read")+entry("user", "u", "infer"))
	admin, err := g.log.field(t.Context(), "listening", "admin")
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: g.roots}}
	defer transport.CloseIdleConnections()
	get := func(path, token string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+admin+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		answer, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		_, _ = io.Copy(io.Discard, answer.Body)
		return answer.StatusCode
	}
	for _, c := range []struct {
		path, token string
		want        int
	}{
		{"/metrics", "", 401}, {"/metrics", "x", 401}, {"/metrics", "u", 403}, {"/metrics", "r", 200}, {"/metrics", "a", 200},
		{"/debug/pprof/", "", 401}, {"/debug/pprof/", "r", 403}, {"/debug/pprof/cmdline", "r", 403}, {"/debug/pprof/cmdline", "a", 200},
		{"//metrics", "r", 403}, {"/metrics/../debug/pprof/cmdline", "r", 403}, {"/METRICS", "r", 403}, {"/nothing", "r", 403}, {"/nothing", "a", 404},
	} {
		if got := get(c.path, c.token); got != c.want {
			t.Errorf("%s with token %q: %d, want %d", c.path, c.token, got, c.want)
		}
	}
	plain, err := http.Get("http://" + admin + "/metrics")
	if err == nil {
		plain.Body.Close()
		if plain.StatusCode == http.StatusOK {
			t.Error("metrics in plain text")
		}
	}
	http.DefaultClient.CloseIdleConnections()
	conn, err := grpc.NewClient(g.address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := infernov1.NewRegistryServiceClient(conn).ListModels(withToken(t.Context(), "r"), &infernov1.ListModelsRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("gRPC in plain text: %v", err)
	}
	g.end(t)
}

func TestFilesThatCannotBeUsedEndTheStart(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	for name, change := range map[string]func(*config.Config){
		"tls-cert":    func(c *config.Config) { c.TLSCert, c.TLSKey = missing, missing },
		"access-file": func(c *config.Config) { c.AccessFile = missing },
	} {
		c, err := config.Load([]string{"--model=tiny=" + tiny, "--listen=127.0.0.1:0", "--admin-listen="}, "test", io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		change(c)
		err = Run(t.Context(), Options{Config: c})
		if !errors.Is(err, ErrStart) || !strings.Contains(err.Error(), name) || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := prometheus.NewCounter(prometheus.CounterOpts{Name: "x"})
	l := limitConnections(inner, 3, 2, refused)
	defer l.Close()
	accepted := make(chan net.Conn, 8)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	dial := func(from string) net.Conn {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := d.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	closed := func(conn net.Conn) {
		t.Helper()
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && err == nil {
			t.Error("a connection beyond the bound was served")
		}
	}
	dial("127.0.0.1")
	first := <-accepted
	dial("127.0.0.1")
	second := <-accepted
	closed(dial("127.0.0.1")) // the third of one address
	dial("127.0.0.2")
	third := <-accepted
	closed(dial("127.0.0.3")) // the fourth in all
	first.Close()
	first.Close() // gives one place back, not two
	dial("127.0.0.3")
	fourth := <-accepted
	closed(dial("127.0.0.4"))
	for _, conn := range []net.Conn{second, third, fourth} {
		conn.Close()
	}
	l.Close()
	<-done
	if l.open != 0 || len(l.byAddress) != 0 {
		t.Errorf("%d open, %v, want none", l.open, l.byAddress)
	}
}
