package backend

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
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
	})
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
