package model

import (
	"encoding/binary"
	"math"

	"github.com/inferno-serve/inferno/internal/device"
)

// decodeFloats reads len(dst) little-endian numbers of type F32, F16 or BF16.
func decodeFloats(dst []float32, src []byte, t device.DType) {
	switch t {
	case device.F32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case device.F16:
		for i := range dst {
			dst[i] = fromHalf(binary.LittleEndian.Uint16(src[2*i:]))
		}
	case device.BF16:
		for i := range dst {
			dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
		}
	}
}

// encodeFloats writes src as little-endian numbers of type F32, F16 or BF16, rounded to nearest, ties to even.
func encodeFloats(dst []byte, src []float32, t device.DType) {
	switch t {
	case device.F32:
		for i, v := range src {
			binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
		}
	case device.F16:
		for i, v := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], toHalf(v))
		}
	case device.BF16:
		for i, v := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], toBrain(v))
		}
	}
}

// fromHalf widens a float16.
func fromHalf(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exponent, mantissa := uint32(h>>10&31), uint32(h&0x3ff)
	switch exponent {
	case 0: // zero and subnormal numbers: mantissa · 2⁻²⁴
		return math.Float32frombits(sign | math.Float32bits(float32(mantissa)*0x1p-24))
	case 31:
		return math.Float32frombits(sign | 0xff<<23 | mantissa<<13)
	}
	return math.Float32frombits(sign | (exponent+127-15)<<23 | mantissa<<13)
}

// toHalf rounds to float16; what is too large becomes infinite.
func toHalf(v float32) uint16 {
	bits := math.Float32bits(v)
	sign := uint16(bits >> 16 & 0x8000)
	magnitude := bits & 0x7fffffff
	switch {
	case magnitude > 0x7f800000: // NaN
		return sign | 0x7e00
	case magnitude >= 0x47800000: // from 65536 on
		return sign | 0x7c00
	case magnitude < 0x38800000: // below 2⁻¹⁴: adding 0.5 lets the hardware round to a multiple of 2⁻²⁴
		return sign | uint16(math.Float32bits(math.Float32frombits(magnitude)+0.5)-math.Float32bits(0.5))
	}
	rounded := magnitude + 0xfff + magnitude>>13&1
	return sign | uint16((rounded-(127-15)<<23)>>13)
}

// toBrain rounds to bfloat16.
func toBrain(v float32) uint16 {
	bits := math.Float32bits(v)
	if bits&0x7fffffff > 0x7f800000 { // NaN: rounding could make it infinite
		return uint16(bits>>16 | 0x40)
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}
