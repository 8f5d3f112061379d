package devicetest

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/inferno-serve/inferno/internal/device"
)

// matrix is a host matrix in float64: what a tensor or a weight means.
type matrix struct {
	rows, cols int
	v          []float64 // [rows·cols]
}

func newMatrix(rows, cols int) matrix { return matrix{rows, cols, make([]float64, rows*cols)} }

func (m matrix) row(i int) []float64 { return m.v[i*m.cols : (i+1)*m.cols] }

// top is the first rows of m, shared with it.
func (m matrix) top(rows int) matrix { return matrix{rows, m.cols, m.v[:rows*m.cols]} }

func (m matrix) clone() matrix { return matrix{m.rows, m.cols, slices.Clone(m.v)} }

// pick is a matrix of the rows of m named in rows.
func (m matrix) pick(rows []int32) matrix {
	p := newMatrix(len(rows), m.cols)
	for i, row := range rows {
		copy(p.row(i), m.row(int(row)))
	}
	return p
}

// normal draws a matrix of the type's numbers with the given spread around 0.
func (r *rig) normal(t device.DType, rows, cols int, spread float64) matrix {
	m := newMatrix(rows, cols)
	for i := range m.v {
		m.v[i] = round(t, r.rng.NormFloat64()*spread)
	}
	return m
}

// source is a weight as a file holds it, and what it means.
type source struct {
	dtype  device.DType
	bytes  []byte
	values matrix
	// parts bounds what a value is summed from: |d|·q + |m| for Q4_1, whose terms a kernel may sum apart, |value| for the others.
	parts matrix
}

// pick is the source of which row i is row rows[i] of s.
func (s source) pick(rows []int32) source {
	s.values, s.parts = s.values.pick(rows), s.parts.pick(rows)
	s.bytes = nil
	return s
}

// randomSource draws valid bytes of type t: numbers of some 0.05 for float types, any quants with scales of some 0.02/8 otherwise.
// Among them are the extremes that saturating instructions trip over: rows 0 and 1 have quants of the largest magnitude only.
func (r *rig) randomSource(t device.DType, rows, cols int) source {
	bytes := make([]byte, int64(rows)*t.RowBytes(cols))
	if !t.Quantised() {
		for i := 0; i < len(bytes); i += t.Size() {
			encode(t, bytes[i:], r.rng.NormFloat64()*0.05)
		}
		return newSource(t, bytes, rows, cols)
	}
	blockBytes := int(t.RowBytes(t.Block()))
	for i := 0; i < len(bytes); i += blockBytes {
		block := bytes[i : i+blockBytes]
		for j := range block {
			block[j] = byte(r.rng.Uint32())
		}
		if row := i / int(t.RowBytes(cols)); row < 2 {
			r.extremeQuants(t, block, row == 0)
		}
		binary.LittleEndian.PutUint16(block, r.randomScale())
		if t == device.Q4_1 {
			binary.LittleEndian.PutUint16(block[2:], r.randomScale())
		}
	}
	return newSource(t, bytes, rows, cols)
}

func (r *rig) extremeQuants(t device.DType, block []byte, low bool) {
	q := byte(0xff) // two nibbles of 15
	if t == device.Q8_0 {
		q = 127
	}
	if low {
		q = map[device.DType]byte{device.Q8_0: 0x80, device.Q4_0: 0, device.Q4_1: 0}[t]
	}
	for j := range block {
		block[j] = q
	}
}

// randomScale is a half of either sign; now and then zero or subnormal.
func (r *rig) randomScale() uint16 {
	switch r.rng.IntN(40) {
	case 0:
		return 0
	case 1:
		return uint16(r.rng.IntN(0x400)) // subnormal
	}
	return halfBits(float32(r.rng.NormFloat64() * 0.0025))
}

// newSource works out what the bytes mean, by the definitions in kernels/inferno.h.
func newSource(t device.DType, bytes []byte, rows, cols int) source {
	s := source{t, bytes, newMatrix(rows, cols), newMatrix(rows, cols)}
	if !t.Quantised() {
		for i := range s.values.v {
			s.values.v[i] = decode(t, bytes[i*t.Size():])
			s.parts.v[i] = math.Abs(s.values.v[i])
		}
		return s
	}
	blockBytes := int(t.RowBytes(t.Block()))
	for i := range s.values.v {
		s.values.v[i], s.parts.v[i] = dequantise(t, bytes[i/32*blockBytes:], i%32)
	}
	return s
}

// dequantise is element j of the block at the front of b, rounded once to float32, and the sum of the magnitudes of its terms.
func dequantise(t device.DType, b []byte, j int) (value, parts float64) {
	d := halfValue(binary.LittleEndian.Uint16(b))
	switch t {
	case device.Q8_0:
		value = d * float64(int8(b[2+j]))
	case device.Q4_0:
		value = d * float64(int(nibble(b[2:], j))-8)
	case device.Q4_1:
		m, q := halfValue(binary.LittleEndian.Uint16(b[2:])), float64(nibble(b[4:], j))
		return float64(float32(d*q + m)), math.Abs(d)*q + math.Abs(m)
	}
	return value, math.Abs(value)
}

// nibble is element j of 32: the low nibbles come first.
func nibble(b []byte, j int) byte {
	if j < 16 {
		return b[j] & 15
	}
	return b[j-16] >> 4
}
