package client

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Generate answers dry runs alone.
func (s service) Generate(_ context.Context, req *infernov1.GenerateRequest) (*infernov1.GenerateResponse, error) {
	if !req.GetDryRun() {
		return nil, status.Error(codes.InvalidArgument, "no dry run")
	}
	answer := &infernov1.GenerateResponse{
		Start:  &infernov1.GenerationStart{Model: req.GetModel()},
		DryRun: &infernov1.DryRun{PromptTokens: 7, CachedPromptTokens: 3, Fits: true, QueueLength: 2},
	}
	if req.GetModel() == "busy" {
		answer.DryRun.EstimatedQueueTime = durationpb.New(time.Second)
	}
	return answer, nil
}

func TestDryRunAsksForOne(t *testing.T) {
	c := connect(t, Options{}, nil)
	for model, wait := range map[string]time.Duration{"busy": time.Second, "new": -1} {
		req := &infernov1.GenerateRequest{Model: model}
		start, dry, err := c.DryRun(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		got := time.Duration(-1)
		if dry.EstimatedQueueTime != nil {
			got = *dry.EstimatedQueueTime
		}
		dry.EstimatedQueueTime = nil
		if want := (DryRun{PromptTokens: 7, CachedPromptTokens: 3, Fits: true, QueueLength: 2}); dry != want || got != wait || start.Model != model {
			t.Errorf("%s: %+v, wait %v", model, dry, got)
		}
		if req.GetDryRun() {
			t.Error("the caller's request has changed")
		}
	}
	_, err := c.Generate(t.Context(), &infernov1.GenerateRequest{DryRun: true})
	if err == nil || !strings.Contains(err.Error(), "use DryRun") {
		t.Errorf("Generate of a dry run: %v", err)
	}
}
