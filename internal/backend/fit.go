package backend

import (
	"context"

	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/memory"
	"github.com/inferno-serve/inferno/internal/model"
)

// Fit is what a model would take of a device, in bytes.
type Fit struct {
	Name                   string
	Weights, KV, Remainder int64 // the remainder is activations and inputs
	KVTokens               int
	Context                int   // most tokens of one request
	Err                    error // why it cannot be served there
}

// Fits plans the models of a configuration as a server would load them, one after the other, and reads no weights.
func Fits(ctx context.Context, c *config.Config, d device.Device, architectures map[string]model.Builder) (fits []Fit) {
	loader := &model.Loader{Architectures: architectures}
	room := room{info: d.Info()}
	for i, m := range c.Models {
		room.later = len(c.Models) - 1 - i
		p, err := fit(ctx, loader, m.Path, d, c, room)
		f := Fit{Name: m.Name, Err: err}
		if err == nil {
			f.Weights, f.KV = p.need[memory.Weights], int64(p.blocks)*p.kv.BlockBytes(p.blockSize)
			f.Remainder = p.bytes - f.Weights - f.KV
			f.KVTokens = p.blocks * p.blockSize
			f.Context = min(p.limits.Context, f.KVTokens)
			room.taken += p.bytes
			room.info.FreeBytes -= p.bytes
		}
		fits = append(fits, f)
	}
	return fits
}

func fit(ctx context.Context, loader *model.Loader, path string, d device.Device, c *config.Config, r room) (plan, error) {
	checkpoint, _, err := openModel(path, c.Format)
	if err != nil {
		return plan{}, err
	}
	defer checkpoint.Close()
	return newPlan(ctx, loader, checkpoint, model.Options{Device: d, DType: weightTypes[c.DType]}, c, r)
}
