package native

// #include "trampoline.h"
import "C"

import (
	"time"

	"github.com/inferno-serve/inferno/internal/device"
)

// maxProfileRows is more than a model's steps have kinds of ops.
const maxProfileRows = 512

// Profile implements device.Profiler.
func (d *native) Profile() []device.ProfileRow {
	d.mustBeOpen()
	var rows [maxProfileRows]C.inferno_profile_row
	n := C.call_profile(d.table, d.dev, &rows[0], maxProfileRows)
	profile := make([]device.ProfileRow, 0, n)
	for _, r := range rows[:n] {
		profile = append(profile, device.ProfileRow{
			Op: C.GoString(&r.op[0]), Shape: C.GoString(&r.shape[0]), Rows: int(r.rows), Count: int(r.count), Bytes: int64(r.bytes),
			Took: time.Duration(float64(r.seconds) * float64(time.Second)),
		})
	}
	return profile
}
