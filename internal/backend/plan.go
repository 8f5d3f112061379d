package backend

import (
	"context"
	"fmt"

	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/model"
)

// Most tokens of a step where the configuration leaves it to the engine's own measurement: what activations are allocated for.
const (
	maxStepTokensCPU  = 1024
	maxStepTokensCUDA = 8192
)

// plan is a model's memory, decided before a weight is read.
type plan struct {
	limits    model.Limits
	kv        model.KVLayout
	blocks    int
	blockSize int
	bytes     int64 // of the whole reservation
}

func newPlan(ctx context.Context, loader *model.Loader, checkpoint *model.Checkpoint, o model.Options, c *config.Config) (plan, error) {
	p := plan{blockSize: engine.DefaultBlockSize}
	contextLimit := checkpoint.Config.Context
	if c.Context > contextLimit {
		return p, fmt.Errorf("context: %d tokens, want at most the %d of the model", c.Context, contextLimit)
	}
	if c.Context > 0 {
		contextLimit = c.Context
	}
	p.limits = model.Limits{MaxTokens: stepTokens(c, o.Device.Info()), MaxSeqs: c.MaxBatch, MaxRows: c.MaxBatch, Context: contextLimit}
	o.Limits = p.limits
	need, kv, err := loader.Measure(ctx, checkpoint, o)
	if err != nil {
		return p, err
	}
	p.kv = kv
	blockBytes := p.kv.BlockBytes(p.blockSize)
	p.blocks = int(int64(c.KVMemory) / blockBytes)
	if tokens := p.blocks * p.blockSize; tokens < max(c.Context, p.blockSize) {
		return p, fmt.Errorf("kv-memory: %v holds %d tokens of this model, want at least the %d of the context (%v a token)",
			c.KVMemory, tokens, max(c.Context, p.blockSize), config.Bytes(blockBytes/int64(p.blockSize)))
	}
	// More blocks than all running requests could fill would never be used.
	p.blocks = min(p.blocks, c.MaxBatch*((contextLimit+p.blockSize-1)/p.blockSize))
	p.bytes = need.Total() + engine.Bytes(p.limits, p.kv, checkpoint.Config.Vocab, p.blocks, p.blockSize)
	return p, nil
}

// stepTokens is at least a row for each sequence of a step, and a block's worth for a prompt.
func stepTokens(c *config.Config, i device.Info) int {
	tokens := maxStepTokensCUDA
	if i.Kind == "cpu" {
		tokens = maxStepTokensCPU
	}
	if c.MaxBatchTokens > 0 {
		tokens = c.MaxBatchTokens // which Validate holds against the same bound
	}
	return max(tokens, c.MaxBatch+engine.DefaultBlockSize)
}
