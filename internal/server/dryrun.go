package server

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// dryRun checks a request and says what would become of it. No engine does anything for it.
func (s *Server) dryRun(ctx context.Context, req *infernov1.GenerateRequest) (*infernov1.GenerationStart, *infernov1.DryRun, error) {
	g, err := s.check(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	prompt := len(g.request.Prompt)
	o, err := g.model.Engine.Outlook(g.request)
	if err != nil {
		return nil, nil, err
	}
	dry := &infernov1.DryRun{
		PromptTokens: uint32(prompt), CachedPromptTokens: uint32(o.Cached), Fits: o.Fits, QueueLength: uint32(o.Queued),
	}
	if !o.Unknown {
		dry.EstimatedQueueTime = durationpb.New(o.Wait)
	}
	return &infernov1.GenerationStart{
		RequestId: g.request.ID, Model: g.model.Info.Name, ModelRevision: g.model.Info.Revision, PromptTokens: uint32(prompt),
		Effective: g.effective,
	}, dry, nil
}
