package server

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Errors of a Loader.
var (
	ErrBadPath     = errors.New("leads out of the model roots") // or to what is no file or directory
	ErrNoPath      = errors.New("not found below a model root")
	ErrModelExists = errors.New("model exists")           // under the name, from other files
	ErrLoadFailed  = errors.New("model cannot be loaded") // as its files are
	ErrNoRoom      = errors.New("no room for the model")  // of memory, or of --max-models
	ErrLoadUndone  = errors.New("model was unloaded while it was loading")
)

// errForbidden means that a call may not change the server.
var errForbidden = errors.New("models are loaded and unloaded by callers with the role admin, or, without an access file, " +
	"by those on the same host: this server has none, and listens on an address that others reach too")

// Loader changes which models there are. Methods are called from any goroutine.
type Loader interface {
	// Load has a model loaded and returns once it is ready or will not be. Loads of one name from one path are one. progress is called
	// with each news, the end included, on the caller's goroutine. When ctx or progress fails the load goes on. The error wraps one of those
	// above.
	Load(ctx context.Context, r LoadRequest, progress func(LoadProgress) error) error
	// Unload refuses new requests of the model, lets those at hand finish within drain (nil: the server's own patience), aborts the rest, and
	// returns the model once its memory is free. When ctx ends the unloading goes on. The error wraps ErrUnknownModel.
	Unload(ctx context.Context, name string, drain *time.Duration) (ModelInfo, error)
}

// LoadRequest says what to load.
type LoadRequest struct {
	Name   string // that requests will use
	Path   string // below a root of the configuration
	Pinned bool   // never unload it to make room
}

// LoadProgress is how far a load has come.
type LoadProgress struct {
	Model         ModelInfo
	Loaded, Total int64 // bytes of weights
}

// mayAdminister is the one place that decides whether a call may change the server. Where callers are asked who they are, it takes the
// role that methodRoles names, without which the call has not come here; elsewhere any may, if nobody but this host's users can call.
func (s *Server) mayAdminister(ctx context.Context) error {
	if _, asked := callerOf(ctx); asked {
		return nil
	}
	if !s.localOnly {
		return errForbidden
	}
	return nil
}

// LoadModel loads a model and tells how far it has come.
func (s registryService) LoadModel(req *infernov1.LoadModelRequest, stream infernov1.RegistryService_LoadModelServer) error {
	if err := s.mayChangeModels(stream.Context()); err != nil {
		return err
	}
	var f faults
	f.unsupported("", req.ProtoReflect())
	f.newModelName("name", req.GetName())
	f.modelPath("path", req.GetPath())
	if err := f.err(); err != nil {
		return err
	}
	err := s.loader.Load(stream.Context(), LoadRequest{Name: req.GetName(), Path: req.GetPath(), Pinned: req.GetPinned()},
		func(p LoadProgress) error {
			return stream.Send(&infernov1.LoadModelResponse{
				Model: modelProto(p.Model), LoadedBytes: uint64(p.Loaded), TotalBytes: uint64(p.Total),
			})
		})
	if errors.Is(err, ErrBadPath) {
		f.add("path", "is %s, which %v", quote(req.GetPath()), ErrBadPath)
		return f.err()
	}
	return err
}

// UnloadModel unloads a model.
func (s registryService) UnloadModel(ctx context.Context, req *infernov1.UnloadModelRequest) (*infernov1.UnloadModelResponse, error) {
	if err := s.mayChangeModels(ctx); err != nil {
		return nil, err
	}
	var f faults
	f.unsupported("", req.ProtoReflect())
	f.modelName("name", req.GetName())
	drain := f.drainTimeout("drain_timeout", req.GetDrainTimeout())
	if err := f.err(); err != nil {
		return nil, err
	}
	info, err := s.loader.Unload(ctx, req.GetName(), drain)
	if err != nil {
		return nil, err
	}
	return &infernov1.UnloadModelResponse{Model: modelProto(info)}, nil
}

func (s registryService) mayChangeModels(ctx context.Context) error {
	if s.loader == nil {
		return status.Error(codes.Unimplemented, "the models of this server do not change")
	}
	if err := s.mayAdminister(ctx); err != nil {
		return err
	}
	if s.live.isClosed() {
		return errStopping
	}
	return nil
}

// maxDrainTimeout bounds how long an unloading may wait for requests.
const maxDrainTimeout = 24 * time.Hour

func (f *faults) drainTimeout(field string, d *durationpb.Duration) *time.Duration {
	if d == nil {
		return nil
	}
	drain := d.AsDuration()
	if d.CheckValid() != nil || drain < 0 || drain > maxDrainTimeout {
		f.add(field, "is %d s and %d ns, want 0 s to %v", d.GetSeconds(), d.GetNanos(), maxDrainTimeout)
	}
	return &drain
}
