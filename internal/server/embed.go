package server

import (
	"context"
	"fmt"
	"math"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

const maxEmbedInputs = 256

// Embed turns inputs into vectors.
func (s inferenceService) Embed(ctx context.Context, req *infernov1.EmbedRequest) (*infernov1.EmbedResponse, error) {
	var f faults
	f.unsupported("", req.ProtoReflect())
	f.inputs(len(req.GetInputs()), maxEmbedInputs)
	f.noTruncation(req.GetPromptOptions())
	pooling := f.pooling("pooling", req.GetPooling())
	c, end, err := s.beginItems(ctx, &f, &req.RequestId, req.GetModel(), len(req.GetInputs()))
	if err != nil {
		return nil, err
	}
	defer end()
	for i, in := range req.GetInputs() {
		if c.items[i], err = c.embedItem(fmt.Sprintf("inputs[%d].", i), in, req.GetPromptOptions()); err != nil {
			return nil, err
		}
	}
	if err := c.run(func(*item) *engine.Request { return &engine.Request{Pooling: pooling} }); err != nil {
		return nil, err
	}
	answer := &infernov1.EmbedResponse{RequestId: c.requestID, Model: c.model.Info.Name, ModelRevision: c.model.Info.Revision, Usage: c.usage()}
	for _, it := range c.items {
		if it.fault != nil {
			answer.Results = append(answer.Results, &infernov1.EmbedResult{Error: itemError(it.fault)})
			continue
		}
		vector := it.finish.Vector
		if orElse(req.Normalize, true) {
			vector = normalised(vector)
		}
		answer.Results = append(answer.Results, &infernov1.EmbedResult{Embedding: vector, PromptTokens: uint32(len(it.prompt))})
	}
	return answer, nil
}

func (f *faults) pooling(field string, p infernov1.Pooling) engine.Pooling {
	switch p {
	case infernov1.Pooling_POOLING_UNSPECIFIED, infernov1.Pooling_POOLING_MEAN:
		return engine.MeanPooling
	case infernov1.Pooling_POOLING_LAST_TOKEN:
		return engine.LastTokenPooling
	}
	f.add(field, "is %d, want POOLING_MEAN or POOLING_LAST_TOKEN", p)
	return engine.NoPooling
}

// embedItem turns an input into tokens. The error is that of ctx.
func (c *itemsCall) embedItem(path string, in *infernov1.EmbedInput, o *infernov1.PromptOptions) (it *item, err error) {
	var f faults
	it = &item{}
	switch input := in.GetInput().(type) {
	case nil:
		f.add(path+"input", "none is set, want exactly one of text and token_ids")
	case *infernov1.EmbedInput_TokenIds:
		it.prompt = f.wholeIDs(path+"token_ids.ids", input.TokenIds.GetIds(), c.model)
	case *infernov1.EmbedInput_Text:
		if input.Text == "" {
			f.add(path+"text", "is empty, want at least 1 character")
			break
		}
		it.prompt, err = c.encodeWhole(c.ctx, &f, path+"text", input.Text, o, c.model)
	}
	it.fault = f.err()
	return it, err
}

// normalised is v scaled to length 1; zeros stay.
func normalised(v []float32) []float32 {
	sum := 0.0
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	if sum == 0 {
		return v
	}
	out := make([]float32, len(v))
	for i, x := range v {
		out[i] = float32(float64(x) / math.Sqrt(sum))
	}
	return out
}
