package devicetest

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"

	"github.com/inferno-serve/inferno/internal/device"
)

// Every tensor of a case is a view into an allocation with room around it. What an op must not read is NaN (all bits set): reading it
// spoils the result. What it must not write is a pattern that no op makes.
const (
	guardBytes = 1024
	poison     = 0xff // around inputs, and in outputs before they are written
	guard      = 0xa5 // around outputs
)

// buffer is an allocation, the view that ops see, and what the allocation has to hold.
type buffer struct {
	device.Tensor
	base    device.Ptr
	image   []byte // the allocation before the op
	got     []byte // and after it: filled by results
	written bool   // an output: the view may change
	opaque  bool   // a packed weight: only the room around it is looked at
	start   int    // of the view in image
}

// layout says how a view lies in its allocation.
type layout bool

const (
	contiguous layout = false
	strided    layout = true // between columns that are not its own, as a slice of a fused projection is
)

// input uploads m as a tensor that no op may change.
func (r *rig) input(t device.DType, m matrix, l layout) *buffer {
	r.Helper()
	b := r.place(t, m.rows, m.cols, l, poison)
	b.set(m)
	r.dev.Upload(b.base, b.image)
	return b
}

// output makes a tensor full of NaN for an op to fill.
func (r *rig) output(t device.DType, rows, cols int, l layout) *buffer {
	r.Helper()
	b := r.place(t, rows, cols, l, guard)
	b.written = true
	for i := range rows {
		row := b.rowBytes(b.image, i)
		for j := range row {
			row[j] = poison
		}
	}
	r.dev.Upload(b.base, b.image)
	return b
}

// inout uploads m as a tensor that an op changes in place.
func (r *rig) inout(t device.DType, m matrix, l layout) *buffer {
	r.Helper()
	b := r.output(t, m.rows, m.cols, l)
	b.set(m)
	r.dev.Upload(b.base, b.image)
	return b
}

// ints uploads a vector of I32.
func (r *rig) ints(v ...int32) *buffer {
	r.Helper()
	return r.input(device.I32, intMatrix(1, v), contiguous)
}

func intMatrix(rows int, v []int32) matrix {
	m := newMatrix(rows, len(v)/rows)
	for i, x := range v {
		m.v[i] = float64(x)
	}
	return m
}

// weight packs s, row i from source row rows[i] (nil: i), with room around the packed form.
func (r *rig) weight(s source, rows []int32) device.Weight {
	r.Helper()
	n := s.values.rows
	if rows != nil {
		n = len(rows)
	}
	w := r.unpacked(s.dtype, n, s.values.cols)
	if err := r.dev.Pack(w, s.bytes, rows); err != nil {
		r.Fatalf("Pack(%v): %v", w, err)
	}
	return w
}

// unpacked is a weight whose memory nothing was packed into, with room around it.
func (r *rig) unpacked(t device.DType, rows, cols int) device.Weight {
	r.Helper()
	w := device.Weight{DType: t, Rows: rows, Cols: cols}
	packed := r.dev.PackBytes(w.DType, w.Rows, w.Cols)
	if packed < 1 {
		r.Fatalf("PackBytes(%v) = %d", w, packed)
	}
	b := &buffer{image: bytes.Repeat([]byte{guard}, int(packed)+2*guardBytes), start: guardBytes, opaque: true}
	r.allocate(b)
	r.dev.Upload(b.base, b.image)
	r.sync()
	w.Data = b.base + guardBytes
	return w
}

func (r *rig) place(t device.DType, rows, cols int, l layout, around byte) *buffer {
	r.Helper()
	size, before, stride := t.Size(), 0, cols
	if l == strided {
		before = roundUp(3, r.o.ViewAlign)
		stride = roundUp(cols+before+2, r.o.ViewAlign)
	}
	b := &buffer{
		Tensor: device.Tensor{DType: t, Rows: rows, Cols: cols, Stride: stride},
		image:  bytes.Repeat([]byte{around}, rows*stride*size+2*guardBytes),
		start:  guardBytes + before*size,
	}
	r.allocate(b)
	b.Data = b.base + device.Ptr(b.start)
	return b
}

func (r *rig) allocate(b *buffer) {
	r.Helper()
	base, err := r.dev.Alloc(int64(len(b.image)))
	if err != nil {
		r.Fatalf("alloc %d bytes: %v", len(b.image), err)
	}
	if base == 0 || base%256 != 0 {
		r.Fatalf("alloc %d bytes: %#x is not aligned to 256", len(b.image), uintptr(base))
	}
	b.base = base
	r.buffers = append(r.buffers, b)
}

// free gives the case's memory back, after whatever a failed case left running.
func (r *rig) free() {
	r.sync()
	for _, b := range r.buffers {
		r.dev.Free(b.base)
	}
	r.buffers = nil
}

// scope frees what f allocates, for cases that would otherwise pile up.
func (r *rig) scope(f func()) {
	r.Helper()
	outer := r.buffers
	r.buffers = nil
	defer func() {
		r.free()
		r.buffers = outer
	}()
	f()
}

func (r *rig) sync() {
	r.Helper()
	if err := r.dev.Sync(); err != nil {
		r.Fatalf("sync: %v", err)
	}
}

// results waits for the ops, fetches every buffer of the case, and checks that nothing but outputs changed.
func (r *rig) results() {
	r.Helper()
	for _, b := range r.buffers {
		b.got = make([]byte, len(b.image))
		r.dev.Download(b.got, b.base)
	}
	r.sync()
	for _, b := range r.buffers {
		if at, ok := b.strayWrite(); ok {
			r.Errorf("%v (stride %d): byte %d before or after its elements changed from %#x to %#x",
				b.Tensor, b.Stride, at-b.start, b.image[at], b.got[at])
		}
	}
}

// strayWrite finds a byte that no op may change and one did.
func (b *buffer) strayWrite() (at int, found bool) {
	got := b.got
	switch {
	case b.opaque:
		got = slices.Clone(b.image)
		copy(got[:guardBytes], b.got)
		copy(got[len(got)-guardBytes:], b.got[len(got)-guardBytes:])
	case b.written:
		got = slices.Clone(b.got)
		for i := range b.Rows {
			copy(b.rowBytes(got, i), b.rowBytes(b.image, i))
		}
	}
	if bytes.Equal(got, b.image) {
		return 0, false
	}
	for at = range got {
		if got[at] != b.image[at] {
			break
		}
	}
	return at, true
}

// restore brings the buffer back to what it held first.
func (r *rig) restore(buffers ...*buffer) {
	for _, b := range buffers {
		r.dev.Upload(b.base, b.image)
	}
}

// update changes what the buffer holds to m.
func (r *rig) update(b *buffer, m matrix) {
	b.set(m)
	r.restore(b)
}

func (b *buffer) set(m matrix) {
	size := b.DType.Size()
	for i := range m.rows {
		row := b.rowBytes(b.image, i)
		for j, v := range m.row(i) {
			encode(b.DType, row[j*size:], v)
		}
	}
}

// rowBytes is the bytes of row i of the view within data, which is laid out as image is.
func (b *buffer) rowBytes(data []byte, i int) []byte {
	size := b.DType.Size()
	from := b.start + i*b.Stride*size
	return data[from : from+b.Cols*size]
}

// matrix is what the view holds after results.
func (b *buffer) matrix() matrix {
	m := newMatrix(b.Rows, b.Cols)
	size := b.DType.Size()
	for i := range m.rows {
		row := b.rowBytes(b.got, i)
		for j := range m.cols {
			m.v[i*m.cols+j] = decode(b.DType, row[j*size:])
		}
	}
	return m
}

// bits is row i of the view after results.
func (b *buffer) bits(i int) []byte { return b.rowBytes(b.got, i) }

// all is the view's bytes after results, row after row; before is what they were before the op.
func (b *buffer) all() []byte    { return b.viewOf(b.got) }
func (b *buffer) before() []byte { return b.viewOf(b.image) }

func (b *buffer) viewOf(data []byte) []byte {
	var out []byte
	for i := range b.Rows {
		out = append(out, b.rowBytes(data, i)...)
	}
	return out
}

// row is the view's row i alone.
func (b *buffer) row(i int) device.Tensor {
	t := b.Tensor.Top(1)
	t.Data += device.Ptr(i * b.Stride * b.DType.Size())
	return t
}

// compare reports where got is not within tolerance of want. A nil tolerance asks for equal numbers.
func (r *rig) compare(what string, got, want, tolerance matrix) {
	r.Helper()
	if tolerance.v == nil {
		tolerance = newMatrix(want.rows, want.cols)
	}
	wrong, worst, at := 0, 0.0, 0
	for i := range want.v {
		allowed := tolerance.v[i]
		off := math.Abs(got.v[i] - want.v[i])
		if off <= allowed || got.v[i] == want.v[i] { // false for a NaN
			continue
		}
		excess := off / max(allowed, math.SmallestNonzeroFloat64)
		if wrong == 0 || excess > worst || math.IsNaN(excess) {
			worst, at = excess, i
		}
		wrong++
	}
	if wrong > 0 {
		r.Errorf("%s: %d of %d elements are wrong; at [%d %d]: got %.9g, want %.9g ± %.2g",
			what, wrong, len(want.v), at/want.cols, at%want.cols, got.v[at], want.v[at], tolerance.v[at])
	}
}

func roundUp(n, multiple int) int { return (n + multiple - 1) / multiple * multiple }

// sampleParams uploads the parameters of each row.
func (r *rig) sampleParams(params []device.SampleParams) *buffer {
	r.Helper()
	var raw bytes.Buffer
	if err := binary.Write(&raw, binary.LittleEndian, params); err != nil {
		r.Fatal(err)
	}
	b := r.place(device.I32, len(params), device.SampleParamsBytes/4, contiguous, poison)
	copy(b.image[b.start:], raw.Bytes())
	r.dev.Upload(b.base, b.image)
	return b
}
