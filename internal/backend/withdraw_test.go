package backend

import (
	"context"
	"testing"

	"github.com/inferno-serve/inferno/internal/discovery"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// slowRegistry holds withdrawals up until it is let go.
type slowRegistry struct {
	discovery.Provider
	asked, release chan struct{}
}

type slowRegistration struct {
	discovery.Registration
	*slowRegistry
}

func (r *slowRegistry) Register(ctx context.Context, i discovery.Instance) (discovery.Registration, error) {
	registration, err := r.Provider.Register(ctx, i)
	return slowRegistration{registration, r}, err
}

func (r slowRegistration) Withdraw(ctx context.Context) error {
	close(r.asked)
	<-r.release
	return r.Registration.Withdraw(ctx)
}

// TestStopIsToldThoughTheRegistryHangs: at once, to whoever asks the server itself. Requests are refused only once those who ask the registry know.
func TestStopIsToldThoughTheRegistryHangs(t *testing.T) {
	registry := &slowRegistry{asked: make(chan struct{}), release: make(chan struct{})}
	r := run(t, openCPU, false, nil, func(o *Options) { registry.Provider, o.Registry = o.Registry, registry }, nil)
	r.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	events, err := r.registry.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	<-events // it is registered
	told := r.watchNotServing()
	r.stop()
	<-registry.asked
	<-told
	if answer, err := infernov1.NewInferenceServiceClient(r.dial()).Generate(t.Context(), request(3)); err != nil {
		t.Errorf("%v, %v before the registry knew, want an answer", answer, err)
	}
	if list, err := r.registry.List(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("%v %v, want the instance that is being withdrawn", list, err)
	}
	close(registry.release)
	if err := r.end(); err != nil {
		t.Error(err)
	}
	if list, err := r.registry.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("still announced: %v %v", list, err)
	}
}
