package backend

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/discovery"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

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
