package client

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// DryRun is what would become of a request.
type DryRun struct {
	PromptTokens       int
	CachedPromptTokens int            // of PromptTokens, those that the prefix cache holds
	Fits               bool           // prompt and max_tokens fit the model's context
	QueueLength        int            // requests that wait
	EstimatedQueueTime *time.Duration // to the first step; nil: unknown
}

// DryRun checks a request as Generate would, and says what would become of it; nothing is generated.
func (c *Client) DryRun(ctx context.Context, req *infernov1.GenerateRequest) (Start, DryRun, error) {
	dry := proto.CloneOf(req)
	dry.DryRun = true
	answer, err := c.inference.Generate(ctx, dry)
	if err != nil {
		return Start{}, DryRun{}, err
	}
	d := answer.GetDryRun()
	out := DryRun{
		PromptTokens: int(d.GetPromptTokens()), CachedPromptTokens: int(d.GetCachedPromptTokens()), Fits: d.GetFits(),
		QueueLength: int(d.GetQueueLength()),
	}
	if t := d.GetEstimatedQueueTime(); t != nil {
		wait := t.AsDuration()
		out.EstimatedQueueTime = &wait
	}
	return start(answer.GetStart()), out, nil
}
