package backend

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/discovery"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// loadHold has loads wait until it is opened, or they end.
type loadHold struct {
	begun, open chan struct{}
	once        sync.Once
}

func newLoadHold() *loadHold { return &loadHold{begun: make(chan struct{}), open: make(chan struct{})} }

func (h *loadHold) wait(ctx context.Context) error {
	h.once.Do(func() { close(h.begun) })
	select {
	case <-h.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// modelsOf is a folder of two models, "a" and "b", that answer differently, and of what is no model.
func modelsOf(t *testing.T) (root string) {
	t.Helper()
	root = t.TempDir()
	for _, name := range []string{"a", "b", "short", "torn", "lacking"} {
		if err := os.CopyFS(filepath.Join(root, name), os.DirFS(tiny)); err != nil {
			t.Fatal(err)
		}
	}
	edit := func(name string, change func([]byte) []byte) {
		t.Helper()
		path := filepath.Join(root, filepath.FromSlash(name))
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, change(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	edit("b/model.safetensors", func(data []byte) []byte {
		begin := 8 + int(binary.LittleEndian.Uint64(data)) // of the weights, float32
		for i := begin + 3; i < len(data); i += 12 {
			data[i] ^= 0x80 // the sign of every third
		}
		return data
	})
	edit("short/model.safetensors", func(data []byte) []byte { return data[:len(data)/2] })
	edit("torn/config.json", func(data []byte) []byte { return data[:len(data)/2] })
	edit("lacking/model.safetensors", func(data []byte) []byte {
		return []byte(strings.Replace(string(data), "model.norm.weight", "model.morn.weight", 1))
	})
	if err := os.MkdirAll(filepath.Join(root, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "text"), []byte("no model"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(root, "out")); err != nil {
		t.Fatal(err)
	}
	return root
}

// models is a backend with models that come and go.
type models struct {
	*running
	root      string
	conn      *grpc.ClientConn
	registry  infernov1.RegistryServiceClient
	inference infernov1.InferenceServiceClient
}

func startModels(t *testing.T, change func(*config.Config)) *models {
	t.Helper()
	return startModelsOn(t, openCPU, change)
}

func startModelsOn(t *testing.T, open func() (device.Device, error), change func(*config.Config)) *models {
	t.Helper()
	root := modelsOf(t)
	r := startOn(t, open, false, func(c *config.Config) {
		c.ModelRoots, c.KVMemory, c.MaxBatch, c.MaxQueue = []string{root}, 1<<20, 8, 64
		if change != nil {
			change(c)
		}
	}, 0)
	r.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	conn := r.dial()
	return &models{r, root, conn, infernov1.NewRegistryServiceClient(conn), infernov1.NewInferenceServiceClient(conn)}
}

// load returns the last that the load told, and how it ended.
func (m *models) load(ctx context.Context, name, path string, pinned bool) (last *infernov1.Model, err error) {
	stream, err := m.registry.LoadModel(ctx, &infernov1.LoadModelRequest{Name: name, Path: path, Pinned: pinned})
	for err == nil {
		var told *infernov1.LoadModelResponse
		if told, err = stream.Recv(); err == nil {
			last = told.GetModel()
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return last, err
}

func (m *models) mustLoad(name, path string, pinned bool) *infernov1.Model {
	m.t.Helper()
	model, err := m.load(m.t.Context(), name, path, pinned)
	if err != nil || model.GetState() != infernov1.ModelState_MODEL_STATE_READY || model.GetRevision() == "" || model.GetPinned() != pinned {
		m.t.Fatalf("load %s from %s: %v, %v", name, path, model, err)
	}
	return model
}

func (m *models) unload(name string, drain time.Duration) error {
	_, err := m.registry.UnloadModel(m.t.Context(), &infernov1.UnloadModelRequest{Name: name, DrainTimeout: durationpb.New(drain)})
	return err
}

// states are the models as ListModels tells them, "name STATE".
func (m *models) states() (all []string) {
	m.t.Helper()
	list, err := m.registry.ListModels(m.t.Context(), &infernov1.ListModelsRequest{})
	if err != nil {
		m.t.Fatal(err)
	}
	for _, model := range list.GetModels() {
		all = append(all, model.GetName()+" "+strings.TrimPrefix(model.GetState().String(), "MODEL_STATE_"))
	}
	return all
}

func (m *models) wantStates(want ...string) {
	m.t.Helper()
	if got := m.states(); !slices.Equal(got, want) {
		m.t.Errorf("models %q, want %q", got, want)
	}
}

func (m *models) wantCode(err error, want codes.Code, says string) {
	m.t.Helper()
	if status.Code(err) != want || !strings.Contains(err.Error(), says) {
		m.t.Errorf("%v, want %v that says %q", err, want, says)
	}
	if err != nil && strings.Contains(err.Error(), m.root) {
		m.t.Errorf("%v: tells where the root is", err)
	}
}

// wantServing: whatever a model does, the server as a whole goes on.
func (m *models) wantServing() {
	m.t.Helper()
	got, err := healthgrpc.NewHealthClient(m.conn).Check(m.t.Context(), &healthgrpc.HealthCheckRequest{})
	if err != nil || got.GetStatus() != healthgrpc.HealthCheckResponse_SERVING {
		m.t.Errorf("the server as a whole: %v, %v, want SERVING", got, err)
	}
}

// watch returns what waits until grpc.health.v1 tells a state of a model.
func (m *models) watch(name string) func(healthgrpc.HealthCheckResponse_ServingStatus) {
	m.t.Helper()
	watch, err := healthgrpc.NewHealthClient(m.conn).Watch(m.t.Context(), &healthgrpc.HealthCheckRequest{Service: "model/" + name})
	if err != nil {
		m.t.Fatal(err)
	}
	return func(want healthgrpc.HealthCheckResponse_ServingStatus) {
		m.t.Helper()
		for {
			got, err := watch.Recv()
			if err != nil {
				m.t.Fatalf("waiting for %v: %v", want, err)
			}
			if got.GetStatus() == want {
				return
			}
		}
	}
}

func (m *models) stopped() {
	m.t.Helper()
	if err := m.end(); err != nil {
		m.t.Error(err)
	}
}

// asked is a request of n greedy tokens that no end token cuts short.
func asked(model string, n uint32) *infernov1.GenerateRequest {
	r := request(n)
	r.Model = model
	return r
}

func TestModelsComeAndGo(t *testing.T) {
	m := startModels(t, nil)
	fleet, err := m.running.registry.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	announced := func(want ...string) {
		t.Helper()
		for e := range fleet {
			instances := []discovery.Instance{}
			if e.Snapshot != nil {
				instances = *e.Snapshot
			} else if e.Put != nil {
				instances = append(instances, *e.Put)
			}
			for _, i := range instances {
				var names []string
				for _, model := range i.Models {
					if model.Ready {
						names = append(names, model.Name)
					}
				}
				if slices.Equal(names, want) {
					return
				}
			}
		}
	}
	until := m.watch("x")
	announced("tiny")
	until(healthgrpc.HealthCheckResponse_SERVICE_UNKNOWN)

	a := m.mustLoad("x", "a", false)
	until(healthgrpc.HealthCheckResponse_SERVING)
	announced("tiny", "x")
	answer, err := m.inference.Generate(t.Context(), asked("x", 8))
	if err != nil || answer.GetStart().GetModelRevision() != a.GetRevision() || len(answer.GetCompletions()[0].GetTokenIds()) != 8 {
		t.Errorf("%v, %v, want 8 tokens of revision %s", answer, err, a.GetRevision())
	}
	again := m.mustLoad("x", "./a", false)
	if again.GetSince().AsTime() != a.GetSince().AsTime() {
		t.Error("a load of what is there did something")
	}
	_, err = m.load(t.Context(), "x", "b", false)
	m.wantCode(err, codes.AlreadyExists, "x is revision "+a.GetRevision())
	_, err = m.load(t.Context(), "tiny", "a", false)
	m.wantCode(err, codes.AlreadyExists, "tiny is revision")

	if err := m.unload("x", time.Minute); err != nil {
		t.Fatal(err)
	}
	until(healthgrpc.HealthCheckResponse_SERVICE_UNKNOWN)
	announced("tiny")
	m.wantStates("tiny READY", "x UNLOADED")
	_, err = m.inference.Generate(t.Context(), asked("x", 1))
	m.wantCode(err, codes.NotFound, `"x"`)
	if err := m.unload("x", 0); err != nil {
		t.Errorf("unloaded twice: %v", err)
	}
	m.wantCode(m.unload("y", 0), codes.NotFound, `"y"`)

	if b := m.mustLoad("x", "b", false); b.GetRevision() == a.GetRevision() {
		t.Error("other weights have the same revision")
	}
	if err := m.unload("tiny", time.Minute); err != nil {
		t.Errorf("a model of the start: %v", err)
	}
	m.wantStates("tiny UNLOADED", "x READY")
	if err := m.unload("x", time.Minute); err != nil {
		t.Fatal(err)
	}
	m.wantServing()
	m.stopped()
}

func TestLoadedFilesThatChangedAreOthers(t *testing.T) {
	m := startModels(t, nil)
	m.mustLoad("x", "a", false)
	if err := os.Chtimes(filepath.Join(m.root, "a", "model.safetensors"), time.Time{}, time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	_, err := m.load(t.Context(), "x", "a", false)
	m.wantCode(err, codes.AlreadyExists, "or of what these were")
	m.stopped()
}

func TestAServerMayStartWithoutModels(t *testing.T) {
	m := startModels(t, func(c *config.Config) { c.Models = nil })
	m.wantStates()
	m.mustLoad("x", "a", false)
	if _, err := m.inference.Generate(t.Context(), asked("x", 2)); err != nil {
		t.Error(err)
	}
	m.stopped()
}

func TestAModelThatCannotBeLoadedLeavesNothing(t *testing.T) {
	m := startModels(t, nil)
	for i, c := range []struct {
		path string
		code codes.Code
		says string
		past bool // the failure is in the index
	}{
		{"empty", codes.FailedPrecondition, "config.json", true},
		{"text", codes.FailedPrecondition, "text", true},
		{"torn", codes.FailedPrecondition, "config.json", true},
		{"short", codes.FailedPrecondition, "model.safetensors", true},
		{"lacking", codes.FailedPrecondition, "norm", true},
		{"a/config.json", codes.FailedPrecondition, "config.json", true},
		{"none", codes.NotFound, "not found below a model root", false},
		{"out", codes.InvalidArgument, "leads out of the model roots", false},
		{"out/passwd", codes.InvalidArgument, "leads out of the model roots", false},
		{"../" + filepath.Base(m.root) + "/a", codes.InvalidArgument, "leads out of the model roots", false},
		{filepath.Join(m.root, "a"), codes.InvalidArgument, "leads out of the model roots", false},
	} {
		t.Run(strings.ReplaceAll(c.path, "/", "_"), func(t *testing.T) {
			name := fmt.Sprint("x", i)
			allocations, devices := m.allocations.Load(), m.devices.Load()
			last, err := m.load(t.Context(), name, c.path, false)
			if status.Code(err) != c.code || !strings.Contains(err.Error(), c.says) || c.past && strings.Contains(err.Error(), m.root) {
				t.Errorf("%v, want %v that says %q, and not where the root is", err, c.code, c.says)
			}
			if a, d := m.allocations.Load(), m.devices.Load(); a != allocations || d != devices {
				t.Errorf("%d allocations on %d devices are left, before it were %d on %d", a, d, allocations, devices)
			}
			m.wantServing()
			known, err := m.registry.GetModel(t.Context(), &infernov1.GetModelRequest{Name: name})
			if !c.past {
				if status.Code(err) != codes.NotFound {
					t.Errorf("the index has it: %v, %v", known, err)
				}
				return
			}
			for _, told := range []*infernov1.Model{last, known.GetModel()} {
				if told.GetState() != infernov1.ModelState_MODEL_STATE_FAILED || !strings.Contains(told.GetReason(), c.says) {
					t.Errorf("told %v, want it FAILED with the reason", told)
				}
			}
			if _, err := m.inference.Generate(t.Context(), asked(name, 1)); status.Code(err) != codes.Unavailable {
				t.Errorf("a request for it: %v, want UNAVAILABLE", err)
			}
			m.mustLoad(name, "a", false)
			if err := m.unload(name, 0); err != nil {
				t.Fatal(err)
			}
		})
	}
	m.stopped()
}

func TestLoadsOfOneNameAreOne(t *testing.T) {
	m := startModels(t, nil)
	hold := newLoadHold()
	m.holdLoad.Store(hold)
	impatient, leave := context.WithCancel(t.Context())
	type end struct {
		model *infernov1.Model
		err   error
	}
	ends := make(chan end, 2)
	left := make(chan error, 1)
	go func() {
		_, err := m.load(impatient, "x", "a", false)
		left <- err
	}()
	<-hold.begun
	for range 2 {
		go func() {
			model, err := m.load(t.Context(), "x", "a", true)
			ends <- end{model, err}
		}()
	}
	_, err := m.load(t.Context(), "x", "b", false)
	m.wantCode(err, codes.AlreadyExists, "x is being loaded from other files")
	_, err = m.inference.Generate(t.Context(), asked("x", 1))
	m.wantCode(err, codes.Unavailable, "x is loading")
	m.wantStates("tiny READY", "x LOADING")
	m.wantServing()
	leave() // the load goes on
	m.wantCode(<-left, codes.Canceled, "")
	close(hold.open)
	var since []time.Time
	for range 2 {
		e := <-ends
		if e.err != nil || e.model.GetState() != infernov1.ModelState_MODEL_STATE_READY || !e.model.GetPinned() {
			t.Errorf("%v, %v, want it READY and pinned", e.model, e.err)
		}
		since = append(since, e.model.GetSince().AsTime())
	}
	if since[0] != since[1] || m.devices.Load() != 2 {
		t.Errorf("%d devices were opened, want one for each model; ready since %v", m.devices.Load(), since)
	}
	m.stopped()
}

func TestUnloadUndoesALoad(t *testing.T) {
	m := startModels(t, nil)
	allocations := m.allocations.Load()
	hold := newLoadHold()
	m.holdLoad.Store(hold)
	loads := map[string]grpc.ServerStreamingClient[infernov1.LoadModelResponse]{}
	for _, name := range []string{"x", "y"} { // the second waits for the first
		stream, err := m.registry.LoadModel(t.Context(), &infernov1.LoadModelRequest{Name: name, Path: "a"})
		if err != nil {
			t.Fatal(err)
		}
		if told, err := stream.Recv(); err != nil || told.GetModel().GetState() != infernov1.ModelState_MODEL_STATE_LOADING {
			t.Fatalf("%v, %v, want it LOADING", told, err)
		}
		<-hold.begun
		loads[name] = stream
	}
	m.wantStates("tiny READY", "x LOADING", "y LOADING")
	for name, stream := range loads {
		if err := m.unload(name, time.Minute); err != nil {
			t.Error(err)
		}
		var err error
		for err == nil {
			_, err = stream.Recv()
		}
		m.wantCode(err, codes.Aborted, "unloaded while it was loading")
	}
	m.wantStates("tiny READY", "x UNLOADED", "y UNLOADED")
	if m.allocations.Load() != allocations || m.devices.Load() != 1 {
		t.Errorf("%d allocations, %d devices are left", m.allocations.Load()-allocations, m.devices.Load()-1)
	}
	m.stopped()
}

func TestAStopEndsALoadAtOnce(t *testing.T) {
	m := startModels(t, nil)
	hold := newLoadHold()
	m.holdLoad.Store(hold)
	ended := make(chan error, 1)
	go func() {
		_, err := m.load(context.Background(), "x", "a", false)
		ended <- err
	}()
	<-hold.begun
	m.stopped()
	m.wantCode(<-ended, codes.Unavailable, "")
	if m.allocations.Load() != 0 || m.devices.Load() != 0 {
		t.Errorf("%d allocations, %d devices are left", m.allocations.Load(), m.devices.Load())
	}
}

// TestAnUnloadingLetsRequestsFinish: for as long as it was asked to wait; the rest are told to try again.
func TestAnUnloadingLetsRequestsFinish(t *testing.T) {
	m := startModels(t, nil)
	for _, patient := range []bool{true, false} {
		until := m.watch("x")
		m.mustLoad("x", "a", false)
		until(healthgrpc.HealthCheckResponse_SERVING)
		var held atomic.Bool
		held.Store(true)
		m.holdFrom(held.Load)
		stream, err := m.inference.GenerateStream(t.Context(), asked("x", 40))
		if err != nil {
			t.Fatal(err)
		}
		m.release <- struct{}{} // a step begins, which waits: the request is there
		unloaded := make(chan error, 1)
		patience := time.Hour
		if !patient {
			patience = 0
		}
		go func() { unloaded <- m.unload("x", patience) }()
		until(healthgrpc.HealthCheckResponse_NOT_SERVING)
		m.wantStates("tiny READY", "x DRAINING")
		_, err = m.inference.Generate(t.Context(), asked("x", 1))
		m.wantCode(err, codes.Unavailable, "x is being unloaded")
		_, err = m.load(t.Context(), "x", "a", false)
		m.wantCode(err, codes.Unavailable, "x is being unloaded")
		held.Store(false)
		close(m.release)
		tokens := 0
		for err = nil; err == nil; {
			var got *infernov1.GenerateStreamResponse
			if got, err = stream.Recv(); err == nil {
				for _, d := range got.GetDeltas() {
					tokens += len(d.GetTokenIds())
				}
			}
		}
		switch {
		case patient && (!errors.Is(err, io.EOF) || tokens != 40):
			t.Errorf("the request ended with %v after %d tokens, want all 40", err, tokens)
		case !patient && (tokens == 40 || status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "x is being unloaded")):
			t.Errorf("the request ended with %v after %d tokens, want UNAVAILABLE", err, tokens)
		}
		if err := <-unloaded; err != nil {
			t.Error(err)
		}
		m.wantStates("tiny READY", "x UNLOADED")
		m.running.release = make(chan struct{})
	}
	m.stopped()
}

func TestTheModelUsedLeastRecentlyMakesRoom(t *testing.T) {
	for _, by := range []string{"number", "memory"} {
		t.Run(by, func(t *testing.T) {
			m := startModels(t, func(c *config.Config) {
				if by == "number" {
					c.MaxModels = 3
				}
			})
			first := m.mustLoad("x", "a", false)
			m.mustLoad("y", "b", false)
			if by == "memory" { // three such models fit, and not four
				use := first.GetMemory()
				m.memory.Store(int64(use.GetWeightBytes()+use.GetKvBytes()+use.GetActivationBytes()) * 7 / 2)
			}
			if _, err := m.inference.Generate(t.Context(), asked("x", 2)); err != nil {
				t.Fatal(err)
			}
			m.mustLoad("z", "a", true)
			m.wantStates("tiny READY", "x READY", "y UNLOADED", "z READY")
			m.mustLoad("x", "a", true) // pins it
			_, err := m.load(t.Context(), "y", "b", false)
			m.wantCode(err, codes.ResourceExhausted, map[string]string{"number": "3 models, as many as --max-models", "memory": "does not fit"}[by])
			m.wantStates("tiny READY", "x READY", "y FAILED", "z READY")
			if err := m.unload("z", 0); err != nil {
				t.Fatal(err)
			}
			m.mustLoad("y", "b", false)
			m.wantStates("tiny READY", "x READY", "y READY", "z UNLOADED")
			if by == "memory" { // nothing is unloaded for what would not fit anyway
				m.memory.Store(1 << 20)
				_, err := m.load(t.Context(), "z", "a", false)
				m.wantCode(err, codes.ResourceExhausted, "does not fit")
				m.wantStates("tiny READY", "x READY", "y READY", "z FAILED")
			}
			m.stopped()
		})
	}
}

func TestWhoReachesAnAddress(t *testing.T) {
	for address, local := range map[string]bool{
		"127.0.0.1:50051": true, "[::1]:1": true, "unix:///run/s": true, "127.8.9.1:5": true,
		"0.0.0.0:50051": false, "[::]:50051": false, "192.168.0.1:1": false, "": false, "none": false, "localhost.example:1": false,
	} {
		if isLocal(address) != local {
			t.Errorf("%q: %v, want %v", address, !local, local)
		}
	}
	r := start(t, false, func(c *config.Config) { c.Listen, c.ModelRoots = "0.0.0.0:0", []string{t.TempDir()} })
	r.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	_, err := infernov1.NewRegistryServiceClient(r.dial()).UnloadModel(t.Context(), &infernov1.UnloadModelRequest{Name: "tiny"})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("%v, want PERMISSION_DENIED of a server that others reach", err)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

func TestARootHasToBeAFolder(t *testing.T) {
	for _, root := range []string{filepath.Join(t.TempDir(), "none"), filepath.Join(tiny, "config.json")} {
		err := Run(t.Context(), Options{Config: &config.Config{ModelRoots: []string{root}}})
		if !errors.Is(err, ErrStart) || !strings.Contains(err.Error(), "model-root: "+strconv.Quote(root)) {
			t.Errorf("%v, want ErrStart that names %s", err, root)
		}
	}
}
