package backend

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/discovery"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

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

// A model of the start may be unloaded while the last one comes up, which goes on.
func TestUnloadBesideTheLastLoadOfTheStart(t *testing.T) {
	begun, proceed := make(chan struct{}), make(chan struct{})
	var opened atomic.Int64
	open := func() (device.Device, error) {
		if opened.Add(1) == 2 {
			close(begun)
			<-proceed
		}
		return openCPU()
	}
	r := startOn(t, open, false, func(c *config.Config) { c.Models = append(c.Models, config.Model{Name: "last", Path: tiny}) })
	<-begun
	conn := r.dial()
	m := &models{r, "", conn, infernov1.NewRegistryServiceClient(conn), infernov1.NewInferenceServiceClient(conn)}
	err := m.unload("tiny", 0)
	close(proceed)
	if err != nil {
		t.Error(err)
	}
	r.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	m.wantStates("last READY", "tiny UNLOADED")
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
	fleet, err := m.running.registry.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
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
		for leaving := !patient; !leaving; { // the registry hears of it too; of the second time only if not at once after the first
			e := <-fleet
			leaving = e.Put != nil && slices.ContainsFunc(e.Put.Models, func(of discovery.Model) bool { return of.Name == "x" && of.Leaving && !of.Ready })
		}
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

func TestAStopEndsAnUnloadingThatWaits(t *testing.T) {
	m := startModels(t, func(c *config.Config) { c.DrainTimeout = 0 })
	until := m.watch("x")
	m.mustLoad("x", "a", false)
	until(healthgrpc.HealthCheckResponse_SERVING)
	m.held.Store(true)
	stream, err := m.inference.GenerateStream(t.Context(), asked("x", 40))
	if err != nil {
		t.Fatal(err)
	}
	m.running.release <- struct{}{}
	unloaded := make(chan error, 1)
	go func() { unloaded <- m.unload("x", time.Hour) }()
	until(healthgrpc.HealthCheckResponse_NOT_SERVING)
	m.held.Store(false)
	close(m.running.release)
	m.stopped()
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unavailable && !errors.Is(err, io.EOF) {
		t.Errorf("the request ended with %v, want UNAVAILABLE or its end", err)
	}
	if err := <-unloaded; err != nil && status.Code(err) != codes.Unavailable {
		t.Errorf("the unloading ended with %v", err)
	}
	if m.allocations.Load() != 0 || m.devices.Load() != 0 {
		t.Errorf("%d allocations, %d devices are left", m.allocations.Load(), m.devices.Load())
	}
}
