package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/discovery"
	"github.com/inferno-serve/inferno/internal/discovery/static"
	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/health"
	"github.com/inferno-serve/inferno/internal/model"
	"github.com/inferno-serve/inferno/internal/model/llama"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const tiny = "../model/testdata/llama"

// running is a backend in this process, on real sockets, a real device and a real model, with faults that a test switches on.
type running struct {
	t        *testing.T
	registry *static.Registry
	log      logBuffer
	cut      chan struct{}
	stop     context.CancelFunc
	done     chan error
	gate     chan struct{} // the load waits until it is closed
	loading  chan struct{} // closed when the load has come to the gate
	lost     atomic.Bool   // the device fails from now on
	held     atomic.Bool   // a step waits for a value from release, each
	release  chan struct{}
	address  string
	holdWhen atomic.Pointer[func() bool] // steps wait as if held where it says so; nil: never
	holdLoad atomic.Pointer[loadHold]    // a load that begins waits; nil: none
	memory   atomic.Int64                // what the device says to have in all, bytes; 0: what it has

	card    health.Card // beside a device that then says it is none of the CPU's
	between atomic.Bool // the loop waits for one between two steps

	allocated            atomic.Int64 // calls of the device's Alloc
	allocations, devices atomic.Int64 // that are not given back
}

func (r *running) holdFrom(when func() bool) { r.holdWhen.Store(&when) }

func (r *running) holds() bool {
	when := r.holdWhen.Load()
	return when != nil && (*when)()
}

// ObserveStep is called by the loop, at no step.
func (r *running) ObserveStep(*engine.StepInfo) {
	if r.between.Load() {
		<-r.release
	}
}

func (r *running) ObserveRequest(*engine.RequestInfo) {}

// logBuffer tells who waits for a line.
type logBuffer struct {
	mu    sync.Mutex
	text  bytes.Buffer
	grown chan struct{}
	full  atomic.Bool // what is written from now on is dropped
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.full.Load() {
		return len(p), nil
	}
	b.text.Write(p)
	close(b.grown)
	b.grown = make(chan struct{})
	return len(p), nil
}

func (b *logBuffer) all() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// field waits for a line with the message and returns the value of key in it.
func (b *logBuffer) field(ctx context.Context, message, key string) (string, error) {
	for {
		b.mu.Lock()
		text, grown := b.text.String(), b.grown
		b.mu.Unlock()
		for line := range strings.Lines(text) {
			if _, rest, ok := strings.Cut(line, "msg="+message+" "); ok {
				_, value, _ := strings.Cut(" "+rest, " "+key+"=")
				value, _, _ = strings.Cut(strings.TrimSpace(value), " ")
				return value, nil
			}
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return "", fmt.Errorf("no line %q in:\n%s", message, text)
		}
	}
}

// faulty is a device that fails for good, or whose steps wait, once a test says so.
type faulty struct {
	device.Device
	*running
}

func (f faulty) Info() device.Info {
	info := f.Device.Info()
	if total := f.memory.Load(); total > 0 {
		info.TotalBytes = total
	}
	if f.card != nil {
		info.Kind = "fake"
	}
	return info
}

func (f faulty) Alloc(bytes int64) (device.Ptr, error) {
	f.allocated.Add(1)
	p, err := f.Device.Alloc(bytes)
	if err == nil {
		f.allocations.Add(1)
	}
	return p, err
}

func (f faulty) Free(p device.Ptr) {
	f.Device.Free(p)
	f.allocations.Add(-1)
}

func (f faulty) Close() error {
	f.devices.Add(-1)
	return f.Device.Close()
}

func (f faulty) Sync() error {
	if f.held.Load() || f.holds() {
		<-f.release
	}
	if f.lost.Load() {
		return fmt.Errorf("injected: %w", device.ErrLost)
	}
	return f.Device.Sync()
}

func start(t *testing.T, gated bool, change func(*config.Config)) *running {
	t.Helper()
	return startWith(t, gated, change, 0)
}

// startWith sets the watchdog's patience too.
func startWith(t *testing.T, gated bool, change func(*config.Config), stuckStep time.Duration) *running {
	t.Helper()
	return run(t, openCPU, gated, change, func(o *Options) { o.StuckStep = stuckStep }, nil)
}

func openCPU() (device.Device, error) { return native.OpenCPU(native.CPUOptions{Threads: 1}) }

// startOn says which device.
func startOn(t *testing.T, open func() (device.Device, error), gated bool, change func(*config.Config)) *running {
	t.Helper()
	return run(t, open, gated, change, func(*Options) {}, nil)
}

// startReloading looks at files of certificates and identities so often.
func startReloading(t *testing.T, every time.Duration, change func(*config.Config)) *running {
	t.Helper()
	return run(t, openCPU, false, change, func(o *Options) { o.Reload = every }, nil)
}

// startBeside adds a card, as its driver sees it.
func startBeside(t *testing.T, gated bool, change func(*config.Config), stuckStep time.Duration, card health.Card) *running {
	t.Helper()
	return run(t, openCPU, gated, change, func(o *Options) { o.StuckStep = stuckStep }, card)
}

func run(t *testing.T, open func() (device.Device, error), gated bool, change func(*config.Config), options func(*Options),
	card health.Card,
) *running {
	t.Helper()
	r := &running{
		t: t, card: card, registry: static.New(), cut: make(chan struct{}), done: make(chan error, 1),
		gate: make(chan struct{}), loading: make(chan struct{}), release: make(chan struct{}),
	}
	r.log.grown = make(chan struct{})
	if !gated {
		close(r.gate)
	}
	c, err := config.Load([]string{"--model=tiny=" + tiny, "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"}, "test", &r.log)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(c)
	}
	var openCard func() (health.Card, error)
	if card != nil {
		openCard = func() (health.Card, error) { return card, nil }
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() {
		o := Options{
			Config: c, Version: "test", Log: slog.New(slog.NewTextHandler(&r.log, nil)), Registry: r.registry, Cut: r.cut, Observer: r,
			OpenDevice: func() (device.Device, error) {
				d, err := open()
				r.devices.Add(1)
				return faulty{d, r}, err
			},
			Architectures: map[string]model.Builder{"llama": r.build}, OpenCard: openCard,
		}
		options(&o)
		r.done <- Run(ctx, o)
	}()
	limited, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if r.address, err = r.log.field(limited, "listening", "grpc"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			r.log.mu.Lock()
			defer r.log.mu.Unlock()
			t.Logf("log:\n%s", r.log.text.String())
		}
	})
	return r
}

// build is llama.New behind the gate; a measurement of memory passes it too, but holds no device.
func (r *running) build(ctx context.Context, c *model.Checkpoint, o model.Options) (model.Model, error) {
	select {
	case <-r.gate:
	default:
		close(r.loading)
		select {
		case <-r.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if hold := r.holdLoad.Load(); hold != nil {
		if err := hold.wait(ctx); err != nil {
			return nil, err
		}
	}
	return llama.New(ctx, c, o)
}

func (r *running) dial() *grpc.ClientConn {
	r.t.Helper()
	conn, err := grpc.NewClient(r.address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// waitState reads HealthService.Watch until the whole is in the state, and returns that report.
func (r *running) waitState(want infernov1.HealthState) *infernov1.HealthReport {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	watch, err := infernov1.NewHealthServiceClient(r.dial()).Watch(ctx, &infernov1.WatchRequest{})
	if err != nil {
		r.t.Fatal(err)
	}
	for {
		m, err := watch.Recv()
		if err != nil {
			r.t.Fatalf("waiting for %v: %v", want, err)
		}
		if m.GetReport().GetState() == want {
			return m.GetReport()
		}
	}
}

func (r *running) end() error {
	r.t.Helper()
	r.stop()
	select {
	case err := <-r.done:
		return err
	case <-time.After(time.Minute):
		r.t.Fatal("the backend has not ended within a minute")
		return nil
	}
}

// probe runs the real grpc-health-probe.
func (r *running) probe() int {
	r.t.Helper()
	path := filepath.Join("..", "..", "bin", "tools", "grpc-health-probe")
	if _, err := os.Stat(path); err != nil {
		if path, err = exec.LookPath("grpc-health-probe"); err != nil {
			r.t.Skip("grpc-health-probe is not built: `make tools` builds it")
		}
	}
	cmd := exec.Command(path, "-addr="+r.address)
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		r.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

func TestNotServingWhileLoadingServingAfterATokenWasMade(t *testing.T) {
	r := start(t, true, nil)
	<-r.loading
	if code := r.probe(); code != 4 {
		t.Errorf("grpc-health-probe exits %d while loading, want 4 (NOT_SERVING)", code)
	}
	report := r.waitState(infernov1.HealthState_HEALTH_STATE_STARTING)
	if len(report.GetComponents()) != 2 || report.GetComponents()[1].GetName() != "model/tiny" || report.GetComponents()[1].GetReason() == "" {
		t.Errorf("while loading: %v", report)
	}
	client := infernov1.NewInferenceServiceClient(r.dial())
	if _, err := client.Generate(t.Context(), request(1)); status.Code(err) != codes.Unavailable {
		t.Errorf("Generate while loading: %v, want UNAVAILABLE", err)
	}
	if list, err := r.registry.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("announced before the first token: %v %v", list, err)
	}

	close(r.gate)
	r.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	if code := r.probe(); code != 0 {
		t.Errorf("grpc-health-probe exits %d, want 0", code)
	}
	answer, err := client.Generate(t.Context(), request(7))
	if err != nil || len(answer.GetCompletions()[0].GetTokenIds()) != 7 {
		t.Errorf("Generate: %v %v", answer, err)
	}
	models, err := infernov1.NewRegistryServiceClient(r.dial()).ListModels(t.Context(), &infernov1.ListModelsRequest{})
	if err != nil || len(models.GetModels()) != 1 {
		t.Fatalf("ListModels: %v %v", models, err)
	}
	m := models.GetModels()[0]
	if m.GetState() != infernov1.ModelState_MODEL_STATE_READY || m.GetArchitecture() != "llama" || m.GetVocabularySize() != 320 ||
		m.GetMaxContext() != 512 || m.GetWeightType() != "F32" || m.GetKvType() != "F32" || m.GetParameters() == 0 ||
		m.GetRevision() != answer.GetStart().GetModelRevision() || m.GetMemory().GetWeightBytes() == 0 || m.GetMemory().GetKvBytes() == 0 {
		t.Errorf("ListModels: %v", m)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

func TestInstanceIsAnnouncedWhileItServes(t *testing.T) {
	r := start(t, false, nil)
	events, err := r.registry.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var instance *discovery.Instance
	for instance == nil {
		instance = (<-events).Put
	}
	if instance.State != discovery.Serving || instance.Address != r.address || len(instance.Models) != 1 || !instance.Models[0].Ready {
		t.Errorf("announced as %+v", instance)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
	for e := range events {
		if e.RemovedID == instance.ID {
			return
		}
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	if err := stale.Close(); err != nil { // as a killed server leaves it
		t.Fatal(err)
	}
	r := start(t, false, func(c *config.Config) { c.Listen = "unix://" + path })
	r.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v, want mode 0600", info.Mode(), err)
	}
	if _, err := listenSocket(path); err == nil || !strings.Contains(err.Error(), "answers") {
		t.Errorf("a second server at the same path: %v", err)
	}
	if answer, err := infernov1.NewInferenceServiceClient(r.dial()).Generate(t.Context(), request(2)); err != nil {
		t.Errorf("%v %v", answer, err)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the end: %v, want the file gone", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenSocket(path); err == nil {
		t.Error("a file that is no socket was replaced")
	}
}

func TestStopDuringLoadEndsAtOnce(t *testing.T) {
	r := start(t, true, nil)
	<-r.loading
	if err := r.end(); err != nil {
		t.Errorf("%v, want a clean end", err)
	}
}

func TestFailedLoadEndsWithItsReason(t *testing.T) {
	r := start(t, false, func(c *config.Config) { c.Models[0].Path = "../model" })
	if err := <-r.done; !errors.Is(err, ErrStart) || !strings.Contains(err.Error(), "config.json") {
		t.Errorf("%v, want ErrStart naming config.json", err)
	}
	r.stop()
}

func TestLostDeviceTurnsHealthAndEndsTheServer(t *testing.T) {
	r := start(t, false, nil)
	r.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	stream := r.startHeld()
	watch, err := infernov1.NewHealthServiceClient(r.dial()).Watch(t.Context(), &infernov1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	r.lost.Store(true)
	close(r.release)
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v, want UNAVAILABLE", err)
	}
	if reason := lastReason(watch); !strings.Contains(reason, device.ErrLost.Error()) {
		t.Errorf("health gave %q as the reason, want %q", reason, device.ErrLost)
	}
	if err := <-r.done; !errors.Is(err, device.ErrLost) {
		t.Errorf("the server ended with %v, want device.ErrLost", err)
	}
	if list, err := r.registry.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("still announced: %v %v", list, err)
	}
	r.stop()
}

func TestCutDrainSaysSo(t *testing.T) {
	for _, busy := range []bool{true, false} {
		t.Run(fmt.Sprintf("busy=%v", busy), func(t *testing.T) {
			r := start(t, false, func(c *config.Config) { c.DrainDelay, c.DrainTimeout = time.Hour, time.Hour })
			r.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
			r.held.Store(busy)
			stream, err := infernov1.NewInferenceServiceClient(r.dial()).GenerateStream(t.Context(), request(500))
			if err != nil {
				t.Fatal(err)
			}
			if busy { // one step passes, and the next one waits
				r.release <- struct{}{}
				_, err = stream.Recv()
			}
			r.stop()
			limited, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if _, err := r.log.field(limited, "draining", "delay"); err != nil {
				t.Fatal(err)
			}
			for !busy && err == nil { // accepted still, as the delay says
				_, err = stream.Recv()
			}
			close(r.cut)
			for err == nil {
				_, err = stream.Recv()
			}
			close(r.release)
			ended := r.end()
			switch {
			case busy && (status.Code(err) != codes.Unavailable || !errors.Is(ended, ErrCut)):
				t.Errorf("the stream ended with %v, the server with %v, want UNAVAILABLE and ErrCut", err, ended)
			case !busy && (!errors.Is(err, io.EOF) || ended != nil):
				t.Errorf("the stream ended with %v, the server with %v, want the end of the stream and nothing cut", err, ended)
			}
		})
	}
}

// request asks the tiny model for exactly so many tokens.
func request(maxTokens uint32) *infernov1.GenerateRequest {
	greedy, ignore := float32(0), true
	return &infernov1.GenerateRequest{
		Model:    "tiny",
		Input:    &infernov1.GenerateRequest_TokenIds{TokenIds: &infernov1.TokenIds{Ids: []uint32{1, 5, 9}}},
		Sampling: &infernov1.SamplingParameters{Temperature: &greedy},
		Stopping: &infernov1.StoppingParameters{MaxTokens: &maxTokens, IgnoreEos: &ignore},
	}
}
