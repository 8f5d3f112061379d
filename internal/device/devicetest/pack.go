package devicetest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"github.com/inferno-serve/inferno/internal/device"
)

// judgePack: a weight that several goroutines pack in pieces, each from memory of AllocHost, has the bytes of one packed at once. Those
// are judged by the ops that read them.
func judgePack(r *rig) {
	for _, t := range []device.DType{device.F32, device.F16, device.BF16, device.Q8_0, device.Q4_0, device.Q4_1} {
		for _, shape := range [][2]int{{1, 32}, {64, 64}, {197, 96}, {320, 576}} {
			rows, cols := shape[0], shape[1]
			for _, ordered := range []bool{false, true} {
				r.run(fmt.Sprintf("%v/%dx%d/ordered=%v", t, rows, cols, ordered), func(r *rig) {
					s := r.randomSource(t, rows, cols)
					var order []int32
					if ordered {
						order = r.orderWithin(rows)
					}
					whole, pieces := r.weight(s, order), r.unpacked(t, rows, cols)
					r.packPieces(pieces, s, order)
					r.samePacked(pieces, whole)
				})
			}
		}
	}
}

// orderWithin permutes rows within each run of device.PackAlignment.
func (r *rig) orderWithin(rows int) (order []int32) {
	for first := 0; first < rows; first += device.PackAlignment {
		for _, i := range r.rng.Perm(min(device.PackAlignment, rows-first)) {
			order = append(order, int32(first+i))
		}
	}
	return order
}

// packPieces packs runs of device.PackAlignment rows, the last ones first, on three goroutines.
func (r *rig) packPieces(w device.Weight, s source, order []int32) {
	r.Helper()
	const goroutines = 3
	rowBytes := int(w.DType.RowBytes(w.Cols))
	runs := (w.Rows + device.PackAlignment - 1) / device.PackAlignment
	var wait sync.WaitGroup
	for g := range goroutines {
		wait.Go(func() {
			host, err := r.dev.AllocHost(device.PackAlignment * rowBytes)
			if err != nil {
				r.Errorf("AllocHost: %v", err)
				return
			}
			defer r.dev.FreeHost(host)
			for run := runs - 1 - g; run >= 0; run -= goroutines {
				first := run * device.PackAlignment
				n := min(device.PackAlignment, w.Rows-first)
				copy(host, s.bytes[first*rowBytes:(first+n)*rowBytes])
				var within []int32
				for i := 0; order != nil && i < n; i++ {
					within = append(within, order[first+i]-int32(first))
				}
				if err := r.dev.PackRows(w, first, n, host[:n*rowBytes], within); err != nil {
					r.Errorf("PackRows(%v, %d, %d): %v", w, first, n, err)
				}
				clear(host) // it was complete on return
			}
		})
	}
	wait.Wait()
}

// samePacked compares two weights of one shape byte by byte.
func (r *rig) samePacked(got, want device.Weight) {
	r.Helper()
	a := make([]byte, r.dev.PackBytes(want.DType, want.Rows, want.Cols))
	b := make([]byte, len(a))
	r.dev.Download(a, got.Data)
	r.dev.Download(b, want.Data)
	r.results()
	if at := differs(a, b); at >= 0 {
		r.Errorf("%v: byte %d of %d is %#x, want %#x", want, at, len(b), a[at], b[at])
	}
}

// differs is the first byte that does; −1: none.
func differs(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	at := 0
	for a[at] == b[at] {
		at++
	}
	return at
}

// judgeRandom: what a device makes by itself is what device.RandomElement says, rounded once to the weight's type.
func judgeRandom(r *rig) {
	const seed, scale = 0x9876543210fedcba, 0.05
	for _, t := range []device.DType{device.F32, device.F16, device.BF16} {
		for _, shape := range [][2]int{{1, 1}, {70, 33}, {320, 576}} {
			rows, cols := shape[0], shape[1]
			r.run(fmt.Sprintf("%v/%dx%d", t, rows, cols), func(r *rig) {
				w := r.unpacked(t, rows, cols)
				if err := r.dev.Random(w, seed, scale); errors.Is(err, errors.ErrUnsupported) {
					r.Skip("left to the caller")
				} else if err != nil {
					r.Fatal(err)
				}
				raw := make([]byte, rows*cols*t.Size())
				for i := range rows * cols {
					encode(t, raw[i*t.Size():], float64(device.RandomElement(seed, int64(i), scale)))
				}
				r.samePacked(w, r.weight(newSource(t, raw, rows, cols), nil))
			})
		}
	}
}
