package native

// #include "trampoline.h"
// #cgo noescape call_logprobs
// #cgo nocallback call_logprobs
// #cgo noescape call_pool
// #cgo nocallback call_pool
import "C"

import (
	"unsafe"

	"github.com/inferno-serve/inferno/internal/device"
)

type (
	logProbsArgs struct {
		size                           uint32
		top                            int32
		logits, rows, chosen, ids, out device.Tensor
	}
	poolArgs struct {
		size, _          uint32
		out, x, from, to device.Tensor
	}
)

// Compiles only where each pair has one size.
var _ = [...][0]struct{}{
	[unsafe.Sizeof(logProbsArgs{}) - C.sizeof_inferno_logprobs_args]struct{}{},
	[unsafe.Sizeof(poolArgs{}) - C.sizeof_inferno_pool_args]struct{}{},
}

// Compiles only where both bounds are the same.
var _ = [1][0]struct{}{C.INFERNO_MAX_TOP_LOGPROBS - device.MaxTopLogProbs: {}}

// LogProbs implements device.Device.
func (d *native) LogProbs(a device.LogProbsArgs) {
	d.mustBeOpen()
	device.CheckLogProbs(a)
	args := logProbsArgs{
		size: C.sizeof_inferno_logprobs_args, top: int32(a.Top),
		logits: a.Logits, rows: a.Rows, chosen: a.Chosen, ids: a.IDs, out: a.Out,
	}
	C.call_logprobs(d.table, d.dev, unsafe.Pointer(&args))
}

// Pool implements device.Device.
func (d *native) Pool(out, x, from, to device.Tensor) {
	d.mustBeOpen()
	device.CheckPool(out, x, from, to)
	args := poolArgs{size: C.sizeof_inferno_pool_args, out: out, x: x, from: from, to: to}
	C.call_pool(d.table, d.dev, unsafe.Pointer(&args))
}
