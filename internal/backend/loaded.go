package backend

import (
	"context"
	"errors"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/model"
	"github.com/inferno-serve/inferno/internal/server"
)

// Loaded is a model that is up as a server would have it, without the services in front: for measurements.
type Loaded struct {
	Engine *engine.Engine
	Device device.Device // the engine's loop drives it until Close
	Info   server.ModelInfo
	Config *model.Config
	Life   context.Context // ends when the model is lost, with the reason

	backend *backend
	replica *replica
}

// Load brings the first model of the configuration up.
func Load(ctx context.Context, o Options) (*Loaded, error) {
	b, err := newBackend(o, security{}, "")
	if err != nil {
		return nil, err
	}
	if len(o.Config.Models) == 0 {
		return nil, errors.New("model: none given, want NAME=PATH")
	}
	r := b.replicas.find(o.Config.Models[0].Name)
	if err := r.start(ctx, b, 0); err != nil {
		r.close(b.log, closeTimeout)
		return nil, err
	}
	return &Loaded{Engine: r.engine, Device: r.device, Info: r.info(), Config: r.config, Life: r.life, backend: b, replica: r}, nil
}

// Close ends the engine and gives the device back.
func (l *Loaded) Close() { l.replica.close(l.backend.log, closeTimeout) }
