package backend

import (
	"context"
	"errors"
	"fmt"

	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/memory"
	"github.com/inferno-serve/inferno/internal/model"
)

// Most tokens of a step where the configuration leaves it to the engine's own measurement: what activations are allocated for.
const (
	maxStepTokensCPU  = 1024
	maxStepTokensCUDA = 8192
)

// Most sequences of a step where the configuration leaves that open: docs/performance.md has what more of them bring on a card.
const (
	DefaultBatch     = 64 // on a CPU, and the least of all
	defaultBatchCUDA = 256
)

const (
	// kvMemoryCPU is --kv-memory auto on the CPU, whose memory others want too.
	kvMemoryCPU = 1 << 30
	// cardReserve stays outside the pools of a card: the driver's, for kernels when they are first used (11 MiB, measured) and for captured
	// graphs.
	cardReserve = 256 << 20
)

// errTooLarge means that a model with the least of keys and values needs more memory than its device has for it.
var errTooLarge = errors.New("does not fit")

// plan is a model's memory, decided before a weight is read.
type plan struct {
	limits    model.Limits
	need      model.Need
	kv        model.KVLayout
	config    *model.Config
	blocks    int
	blockSize int
	bytes     int64 // of the whole reservation
}

// room is what a device has for a model.
type room struct {
	info  device.Info
	taken int64 // bytes that this server holds there: other models, and scratch of the ops
	later int   // models that are still to come there
}

func newPlan(ctx context.Context, loader *model.Loader, checkpoint *model.Checkpoint, o model.Options, c *config.Config, r room) (plan, error) {
	p := plan{blockSize: r.info.KVBlock, config: checkpoint.Config}
	contextLimit := checkpoint.Config.Context
	if c.Context > contextLimit {
		return p, fmt.Errorf("context: %d tokens, want at most the %d of the model", c.Context, contextLimit)
	}
	if c.Context > 0 {
		contextLimit = c.Context
	}
	batch := maxBatch(c, r.info)
	tokens := stepTokens(c, r.info, batch)
	p.limits = model.Limits{MaxTokens: tokens, MaxSeqs: batch, MaxRows: engine.LogitRows(batch, tokens), Context: contextLimit}
	o.Limits = p.limits
	var err error
	if p.need, p.kv, err = loader.Measure(ctx, checkpoint, o); err != nil {
		return p, err
	}
	least := p.blocksFor(max(c.Context, 1))
	if p.blocks, err = p.chooseBlocks(c, r, least); err != nil {
		return p, err
	}
	// More blocks than all running requests could fill would never be used.
	p.blocks = min(p.blocks, batch*p.blocksFor(contextLimit))
	p.bytes = p.bytesWith(p.blocks)
	if p.bytes > r.bytes(c) {
		return p, p.tooLarge(c, r)
	}
	return p, nil
}

// chooseBlocks is how many KV blocks the configuration asks for, or the device has room for; at least least.
func (p *plan) chooseBlocks(c *config.Config, r room, least int) (int, error) {
	blockBytes := p.kv.BlockBytes(p.blockSize)
	asked := int64(c.KVMemory)
	if asked == 0 && r.info.Kind == "cpu" {
		asked = kvMemoryCPU
	}
	if asked > 0 {
		blocks := int(asked / blockBytes)
		if blocks < least {
			return 0, fmt.Errorf("kv-memory: %v holds %d tokens of this model, want at least the %d of the context (%v a token)",
				config.Bytes(asked), blocks*p.blockSize, max(c.Context, p.blockSize), config.Bytes(blockBytes/int64(p.blockSize)))
		}
		return blocks, nil
	}
	share := r.bytes(c) / int64(1+r.later)
	blocks := least + int(max(0, share-p.bytesWith(least))/blockBytes)
	for blocks > least && p.bytesWith(blocks) > share { // block tables grow with the blocks
		blocks--
	}
	return blocks, nil
}

func (p *plan) blocksFor(tokens int) int { return (tokens + p.blockSize - 1) / p.blockSize }

// bytesWith is the reservation of a model with so many KV blocks.
func (p *plan) bytesWith(blocks int) int64 {
	return p.need.Total() + engine.Bytes(p.limits, p.kv, p.config, blocks, p.blockSize)
}

// bytes is the most that a model may reserve.
func (r room) bytes(c *config.Config) int64 {
	if r.info.Kind == "cpu" {
		return r.info.TotalBytes - r.taken
	}
	return min(r.allowed(c)-r.taken, r.info.FreeBytes) - cardReserve
}

func (r room) allowed(c *config.Config) int64 {
	return int64(c.GPUUtilization * float64(r.info.TotalBytes))
}

// tooLarge says what the plan needs, what there is, and which settings change either.
func (p *plan) tooLarge(c *config.Config, r room) error {
	size := func(bytes int64) string { return config.Bytes(bytes).Short() }
	kv := int64(p.blocks) * p.kv.BlockBytes(p.blockSize)
	weights := p.need[memory.Weights]
	needs := fmt.Sprintf("it needs %s (weights %s, keys and values of %d tokens %s, activations and inputs %s",
		size(p.bytes), size(weights), p.blocks*p.blockSize, size(kv), size(p.bytes-weights-kv))
	name := deviceName(r.info)
	if r.info.Kind == "cpu" {
		return fmt.Errorf("%w: %s), and %s has %s, of which this server already holds %s; lower --kv-memory, --context, --max-batch or "+
			"--max-batch-tokens", errTooLarge, needs, name, size(r.info.TotalBytes), size(r.taken))
	}
	has := fmt.Sprintf("%s has %s free of %s", name, size(r.info.FreeBytes), size(r.info.TotalBytes))
	if r.allowed(c)-r.taken < r.info.FreeBytes {
		has += fmt.Sprintf(", of which --gpu-memory-utilization %v allows %s", c.GPUUtilization, size(r.allowed(c)))
	}
	if r.taken > 0 {
		has += fmt.Sprintf("; this server already holds %s", size(r.taken))
	}
	return fmt.Errorf("%w: %s, and %s stay for the driver), and %s; lower --kv-memory, --context, --max-batch or --max-batch-tokens, raise "+
		"--gpu-memory-utilization, or take another card by --gpu", errTooLarge, needs, size(cardReserve), has)
}

// maxBatch is how many sequences a step may have.
func maxBatch(c *config.Config, i device.Info) int {
	batch := defaultBatchCUDA
	if i.Kind == "cpu" {
		batch = DefaultBatch
	}
	switch {
	case c.MaxBatch > 0:
		return c.MaxBatch
	case c.MaxBatchTokens > 0:
		return min(batch, max(c.MaxBatchTokens-engine.PromptTokens, 1))
	}
	return batch
}

// stepTokens is at least a row for each of `batch` sequences of a step, and some for prompts.
func stepTokens(c *config.Config, i device.Info, batch int) int {
	tokens := maxStepTokensCUDA
	if i.Kind == "cpu" {
		tokens = maxStepTokensCPU
	}
	if c.MaxBatchTokens > 0 {
		tokens = c.MaxBatchTokens // which Validate holds against the same bound
	}
	return max(tokens, batch+engine.PromptTokens)
}
