package backend

import (
	"fmt"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/health"
	"github.com/inferno-serve/inferno/internal/telemetry"
)

// openCard makes the Provider of the card that models run on; nil where nobody wants one. A card that is lost takes all replicas with it.
func (b *backend) openCard(on device.Info) *health.GPU {
	if b.o.OpenCard == nil {
		return nil
	}
	o := health.GPUOptions{Ordinal: b.o.Config.GPU, Log: b.log, Changed: b.checker.Refresh, Lost: func(err error) {
		err = fmt.Errorf("%w: %w", device.ErrLost, err)
		for _, r := range b.replicas.all() {
			r.lose(b, err)
		}
		b.breaks(err) // where there is no model just then, too
	}}
	if on.Kind == "cpu" {
		o.Absent = "models run on the CPU"
	} else if card, err := b.o.OpenCard(); err != nil {
		o.Absent = err.Error()
		b.log.Info("the card is not watched", "reason", err)
	} else {
		o.Card = card
	}
	gpu := health.NewGPU(o)
	telemetry.NewGPU(b.metrics, gpu)
	b.checker.Add(gpu, true)
	return gpu
}
