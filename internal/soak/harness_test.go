// Package soak holds a whole server to its promises under load: a backend on loopback sockets, real gRPC clients, and a device whose steps
// take a set time. `make test` runs short counts and asserts what does not depend on the machine; SOAK=full (`make soak`) runs the full ones,
// prints the figures of docs/reliability.md and checks them.
package soak

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/inferno-serve/inferno/internal/backend"
	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/devicescript"
	"github.com/inferno-serve/inferno/internal/discovery/static"
	"github.com/inferno-serve/inferno/internal/model"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

func TestMain(m *testing.M) {
	if os.Getenv(childKey) != "" {
		os.Exit(serveChild())
	}
	goleak.VerifyTestMain(m)
}

// full says that the full counts are asked for.
var full = os.Getenv("SOAK") == "full"

// count is the short or the full one.
func count(short, long int) int {
	if full {
		return long
	}
	return short
}

// rig is a server that runs, with its device.
type rig struct {
	t       testing.TB
	device  *devicescript.Device // nil: the server is a process of its own
	address string
	admin   string
}

// settings of a server.
type settings struct {
	Device  devicescript.Options
	Context int
	HeadDim int      // 0: the least, 4, so that a token takes 32 bytes
	Flags   []string // beside those that every server here has
}

// serve starts a server in this process, and ends it with the test.
func serve(t testing.TB, s settings) *rig {
	t.Helper()
	d := devicescript.New(s.Device)
	r := serveOn(t, &s, s.checkpoint(t), d, devicescript.Architectures())
	r.device = d
	t.Cleanup(d.Release) // so that the server can end
	return r
}

// serveOn is serve with any device and model.
func serveOn(t testing.TB, s *settings, checkpoint string, d device.Device, architectures map[string]model.Builder) *rig {
	t.Helper()
	r := &rig{t: t}
	log := newLog()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.run(ctx, log, d, checkpoint, architectures) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the server ended: %v", err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", log.text())
		}
		http.DefaultClient.CloseIdleConnections()
	})
	select {
	case <-log.ready:
	case err := <-done:
		done <- err
		t.Fatalf("the server ended before it was up: %v\n%s", err, log.text())
	}
	r.address, r.admin = log.value("grpc"), log.value("admin")
	return r
}

func (s *settings) checkpoint(t testing.TB) string {
	return devicescript.Checkpoint(t, s.Context, max(s.HeadDim, 4))
}

// run is the server.
func (s *settings) run(
	ctx context.Context, log io.Writer, d device.Device, checkpoint string, architectures map[string]model.Builder,
) error {
	flags := append([]string{"--model=m=" + checkpoint, "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--drain-timeout=1s"}, s.Flags...)
	c, err := config.Load(flags, "test", log)
	if err != nil {
		return err
	}
	return backend.Run(ctx, backend.Options{
		Config: c, Version: "test", Registry: static.New(), StuckStep: time.Hour,
		Log:           slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: quiet{}})),
		OpenDevice:    func() (device.Device, error) { return d, nil },
		Architectures: architectures,
	})
}

// quiet is the level of the log: a line for each call would be most of what a server here does.
type quiet struct{}

func (quiet) Level() slog.Level { return slog.LevelInfo }

// logLines is a server's log but for the lines of calls.
type logLines struct {
	mu    sync.Mutex
	lines []string
	ready chan struct{} // closed when the model is ready
}

func newLog() *logLines { return &logLines{ready: make(chan struct{})} }

func (l *logLines) Write(p []byte) (int, error) {
	line := string(p)
	if strings.Contains(line, `msg="call finished"`) {
		return len(p), nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	if strings.Contains(line, `msg="model ready"`) {
		close(l.ready)
	}
	return len(p), nil
}

func (l *logLines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "")
}

// value is that of a key in the line "listening".
func (l *logLines) value(key string) string {
	for line := range strings.Lines(l.text()) {
		if _, rest, ok := strings.Cut(line, "msg=listening "); ok {
			_, value, _ := strings.Cut(" "+rest, " "+key+"=")
			value, _, _ = strings.Cut(strings.TrimSpace(value), " ")
			return value
		}
	}
	return ""
}

// dial opens so many connections.
func (r *rig) dial(n int, options ...grpc.DialOption) []infernov1.InferenceServiceClient {
	r.t.Helper()
	clients := make([]infernov1.InferenceServiceClient, n)
	for i := range clients {
		clients[i] = infernov1.NewInferenceServiceClient(r.connect(options...))
	}
	return clients
}

func (r *rig) connect(options ...grpc.DialOption) *grpc.ClientConn {
	r.t.Helper()
	options = append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry()}, options...)
	conn, err := grpc.NewClient(r.address, options...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// metric sums the values of a metric of /metrics over its labels, or those that have all of these.
func (r *rig) metric(name string, labels ...string) float64 {
	r.t.Helper()
	response, err := http.Get("http://" + r.admin + "/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	sum, found := 0.0, false
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), " ")
		missing := func(label string) bool { return !strings.Contains(key, label) }
		if (key == name || strings.HasPrefix(key, name+"{")) && !slices.ContainsFunc(labels, missing) {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				r.t.Fatal(err)
			}
			sum, found = sum+v, true
		}
	}
	if !found {
		r.t.Fatalf("/metrics has no %s", name)
	}
	return sum
}

// waitMetric returns once a metric has a value for which ok holds.
func (r *rig) waitMetric(name string, ok func(float64) bool) float64 {
	r.t.Helper()
	patience := time.Now().Add(time.Minute)
	for {
		v := r.metric(name)
		if ok(v) {
			return v
		}
		if time.Now().After(patience) {
			r.t.Fatalf("%s is %v for a minute", name, v)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func is(want float64) func(float64) bool    { return func(v float64) bool { return v == want } }
func least(want float64) func(float64) bool { return func(v float64) bool { return v >= want } }
