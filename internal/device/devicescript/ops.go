package devicescript

import (
	"slices"

	"github.com/inferno-serve/inferno/internal/device"
)

// Upload copies in order with the ops.
func (d *Device) Upload(dst device.Ptr, src []byte) {
	src = slices.Clone(src)
	d.enqueue(op{do: func() { copy(d.bytes(dst, len(src)), src) }})
}

// Fill sets bytes.
func (d *Device) Fill(dst device.Ptr, b byte, bytes int64) {
	d.enqueue(op{do: func() {
		to := d.bytes(dst, int(bytes))
		for i := range to {
			to[i] = b
		}
	}})
}

// Pull is dst = src[k mod slots, :] in step k.
func (d *Device) Pull(dst, src device.Tensor) {
	device.CheckPull(dst, src)
	d.enqueue(op{do: func() { copy(view[int32](d, dst), d.slot(src)) }})
}

// slot is the row of a step's host memory.
func (d *Device) slot(t device.Tensor) []int32 {
	at := t.Data + device.Ptr(4*(int(d.steps.Load())%t.Rows)*t.Stride)
	return view[int32](d, device.Vector(at, device.I32, t.Cols))
}

// Scatter is dst[index[i]] = values[i].
func (d *Device) Scatter(dst, index, values device.Tensor) {
	device.CheckScatter(dst, index, values)
	d.enqueue(op{do: func() {
		to, from := view[int32](d, dst), view[int32](d, values)
		for i, at := range view[int32](d, index) {
			if at >= 0 && int(at) < len(to) {
				to[at] = from[i]
			}
		}
	}})
}

// Feed is tokens[i] = ids[from[i]].
func (d *Device) Feed(tokens, from, ids device.Tensor) {
	device.CheckFeed(tokens, from, ids)
	d.enqueue(op{do: func() {
		to, ids := view[int32](d, tokens), view[int32](d, ids)
		for i, at := range view[int32](d, from) {
			if at >= 0 && int(at) < len(ids) {
				to[i] = ids[at]
			}
		}
	}})
}

// Mark ends a step.
func (d *Device) Mark(values, out device.Tensor) {
	device.CheckMark(values, out)
	if values.Data != 0 {
		d.enqueue(op{do: func() { copy(d.slot(out), view[int32](d, values)) }})
	}
	d.enqueue(op{})
}

// Sample takes the id that the model left in the first column of a row: parameters change nothing.
func (d *Device) Sample(a device.SampleArgs) {
	device.CheckSample(a)
	d.enqueue(op{do: func() {
		logits, ids := view[int32](d, a.Logits), view[int32](d, a.IDs)
		for r := range ids {
			ids[r] = logits[r*a.Logits.Stride]
		}
	}})
}
