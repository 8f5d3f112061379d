package server

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/inferno-serve/inferno/internal/discovery"
	"github.com/inferno-serve/inferno/internal/discovery/record"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// registryService is RegistryService.
type registryService struct {
	infernov1.UnimplementedRegistryServiceServer
	*Server
}

// ListModels tells what this server holds.
func (s registryService) ListModels(_ context.Context, req *infernov1.ListModelsRequest) (*infernov1.ListModelsResponse, error) {
	if err := onlySupported(req); err != nil {
		return nil, err
	}
	out := &infernov1.ListModelsResponse{}
	for _, m := range s.models.List() {
		out.Models = append(out.Models, modelProto(m))
	}
	return out, nil
}

// GetModel tells of one model, whatever its state.
func (s registryService) GetModel(_ context.Context, req *infernov1.GetModelRequest) (*infernov1.GetModelResponse, error) {
	var f faults
	f.unsupported("", req.ProtoReflect())
	f.modelName("name", req.GetName())
	if err := f.err(); err != nil {
		return nil, err
	}
	for _, m := range s.models.List() {
		if m.Name == req.GetName() {
			return &infernov1.GetModelResponse{Model: modelProto(m)}, nil
		}
	}
	return nil, fmt.Errorf("model %s: %w", quote(req.GetName()), ErrUnknownModel)
}

// ListInstances tells which instances are registered.
func (s registryService) ListInstances(
	ctx context.Context, req *infernov1.ListInstancesRequest,
) (*infernov1.ListInstancesResponse, error) {
	if err := checkInstances(req); err != nil {
		return nil, err
	}
	list := s.instances.List
	if req.GetWithLeases() {
		list = s.instances.ListWithLeases
	}
	all, err := list(ctx)
	if err != nil {
		return nil, fmt.Errorf("list instances: %w", err)
	}
	return &infernov1.ListInstancesResponse{Instances: holders(all, req.GetModel())}, nil
}

// WatchInstances tells which instances are registered, and every change, until the server drains.
func (s registryService) WatchInstances(
	req *infernov1.WatchInstancesRequest, stream infernov1.RegistryService_WatchInstancesServer,
) error {
	if err := checkInstances(req); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	events, err := s.instances.Watch(ctx)
	if err != nil {
		return fmt.Errorf("watch instances: %w", err)
	}
	view := instanceView{model: req.GetModel(), shown: map[string]bool{}}
	for {
		select {
		case <-s.drained:
			return errStopping
		case event, open := <-events:
			if !open {
				return watchEnd(ctx)
			}
			if m := view.message(event); m != nil {
				if err := stream.Send(m); err != nil {
					return err
				}
			}
		}
	}
}

// watchEnd tells a client that left from a registry that gave the watch up.
func watchEnd(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return status.Error(codes.Unavailable, "the registry ended the watch")
}

// instanceView is what a client who asked for the instances of one model has been told of. An instance that no longer holds the model is
// gone from its view.
type instanceView struct {
	model string // "": all instances
	shown map[string]bool
}

// message is what the client is told of an event: nil for nothing.
func (v *instanceView) message(e discovery.Event) *infernov1.WatchInstancesResponse {
	switch {
	case e.Snapshot != nil:
		list := holders(*e.Snapshot, v.model)
		v.shown = map[string]bool{}
		for _, i := range list {
			v.shown[i.GetId()] = true
		}
		return &infernov1.WatchInstancesResponse{
			Event: &infernov1.WatchInstancesResponse_Snapshot{Snapshot: &infernov1.InstanceList{Instances: list}},
		}
	case e.Put != nil && holds(*e.Put, v.model):
		v.shown[e.Put.ID] = true
		return &infernov1.WatchInstancesResponse{Event: &infernov1.WatchInstancesResponse_Put{Put: record.Of(*e.Put)}}
	case e.Put != nil:
		return v.removed(e.Put.ID)
	}
	return v.removed(e.RemovedID)
}

func (v *instanceView) removed(id string) *infernov1.WatchInstancesResponse {
	if !v.shown[id] {
		return nil
	}
	delete(v.shown, id)
	return &infernov1.WatchInstancesResponse{Event: &infernov1.WatchInstancesResponse_RemovedId{RemovedId: id}}
}

func holders(all []discovery.Instance, model string) []*infernov1.Instance {
	var out []*infernov1.Instance
	for _, i := range all {
		if holds(i, model) {
			out = append(out, record.Of(i))
		}
	}
	return out
}

func holds(i discovery.Instance, model string) bool {
	return model == "" || slices.ContainsFunc(i.Models, func(m discovery.Model) bool { return m.Name == model })
}

func modelProto(m ModelInfo) *infernov1.Model {
	return &infernov1.Model{
		Name:            m.Name,
		Revision:        m.Revision,
		State:           modelState(m.State),
		Reason:          m.Reason,
		Since:           timestamppb.New(m.Since),
		Architecture:    m.Architecture,
		Parameters:      uint64(m.Parameters),
		WeightType:      m.WeightType,
		KvType:          m.KVType,
		Device:          m.Device,
		VocabularySize:  uint32(m.VocabularySize),
		MaxContext:      uint32(m.MaxContext),
		MaxBatch:        uint32(m.MaxBatch),
		MaxQueue:        uint32(m.MaxQueue),
		HasTokenizer:    m.HasTokenizer,
		HasChatTemplate: m.HasChatTemplate,
		KvBlockSize:     uint32(m.KVBlockSize),
		KvBlocks:        uint32(m.KVBlocks),
		Memory: &infernov1.MemoryUse{
			WeightBytes: uint64(m.WeightBytes), ActivationBytes: uint64(m.ActivationBytes), KvBytes: uint64(m.KVBytes),
		},
		Pinned: m.Pinned,
	}
}

func modelState(s ModelState) infernov1.ModelState {
	switch s {
	case ModelLoading:
		return infernov1.ModelState_MODEL_STATE_LOADING
	case ModelReady:
		return infernov1.ModelState_MODEL_STATE_READY
	case ModelDraining:
		return infernov1.ModelState_MODEL_STATE_DRAINING
	case ModelUnloaded:
		return infernov1.ModelState_MODEL_STATE_UNLOADED
	case ModelFailed:
		return infernov1.ModelState_MODEL_STATE_FAILED
	}
	panic(fmt.Sprintf("server: model state %d has no counterpart in the API", s))
}
