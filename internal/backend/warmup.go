package backend

import (
	"context"
	"fmt"
	"runtime/debug"
)

// warmUpPatience times what a step may take at least is what one of the warm-up may: a device loads kernels when it first sees them, and how
// long its steps take is not known yet.
const warmUpPatience = 6

// warmUp has the device compute for the first time, on a goroutine that may hang in its driver, and watches it as steps are watched later.
func (r *replica) warmUp(ctx context.Context, b *backend) error {
	warm := make(chan struct{})
	r.warm = warm
	working, end := context.WithCancel(context.Background())
	defer end()
	var err error
	var failed *panicked
	go func() {
		defer end()
		defer close(warm)
		defer func() {
			if p := recover(); p != nil { // for the load's goroutine, which knows whether it ends one model or the process
				failed = &panicked{p, debug.Stack()}
			}
		}()
		err = r.engine.Warmup(ctx)
	}()
	if silent, stuck := newWatchdog(warmUpPatience*r.watchdog.least).watch(working, r.engine.Silence); stuck {
		lost := hung("a step of the warm-up has been running for", silent)
		r.lose(b, lost)
		return lost
	}
	<-warm
	if failed != nil {
		panic(failed)
	}
	return err
}

// panicked is what another goroutine panicked with.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("%v\n%s", p.value, p.stack) }
