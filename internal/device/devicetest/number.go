package devicetest

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/inferno-serve/inferno/internal/device"
)

// Conversions between float64 and the element types, bit by bit and by IEEE 754's definition, round to nearest even.

// encode writes v as an element of type t to the front of b.
func encode(t device.DType, b []byte, v float64) {
	switch t {
	case device.F32:
		binary.LittleEndian.PutUint32(b, math.Float32bits(float32(v)))
	case device.F16:
		binary.LittleEndian.PutUint16(b, halfBits(float32(v)))
	case device.BF16:
		binary.LittleEndian.PutUint16(b, bfloatBits(float32(v)))
	case device.I32:
		binary.LittleEndian.PutUint32(b, uint32(int32(v)))
	default:
		panic(fmt.Sprintf("devicetest: encode %v", t))
	}
}

// decode reads the element of type t at the front of b.
func decode(t device.DType, b []byte) float64 {
	switch t {
	case device.F32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
	case device.F16:
		return halfValue(binary.LittleEndian.Uint16(b))
	case device.BF16:
		return float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16))
	case device.I32:
		return float64(int32(binary.LittleEndian.Uint32(b)))
	default:
		panic(fmt.Sprintf("devicetest: decode %v", t))
	}
}

// round is the number of type t that is nearest to v.
func round(t device.DType, v float64) float64 {
	var b [4]byte
	encode(t, b[:], v)
	return decode(t, b[:])
}

// halfULP bounds the relative error of rounding to t.
func halfULP(t device.DType) float64 {
	switch t {
	case device.F16:
		return 0x1p-11
	case device.BF16:
		return 0x1p-8
	default:
		return 0x1p-24
	}
}

func halfBits(f float32) uint16 {
	bits := math.Float32bits(f)
	sign := uint16(bits>>16) & 0x8000
	abs := math.Abs(float64(f))
	switch {
	case f != f:
		return sign | 0x7e00
	case abs >= 65520: // halfway between the largest finite number and 2¹⁶
		return sign | 0x7c00
	case abs < 0x1p-14: // multiples of 2⁻²⁴; 1024 of them are the smallest normal number
		return sign | uint16(math.RoundToEven(abs*0x1p24))
	}
	exponent := int(bits>>23&0xff) - 127
	mantissa := uint16(math.RoundToEven(math.Ldexp(abs, 10-exponent))) // 1024 to 2048, where 2048 carries into the exponent
	return sign | (uint16(exponent+15)<<10 + mantissa - 1024)
}

func halfValue(h uint16) float64 {
	mantissa, exponent := float64(h&0x3ff), int(h>>10&0x1f)
	v := math.Ldexp(1024+mantissa, exponent-25)
	switch {
	case exponent == 0:
		v = mantissa * 0x1p-24
	case exponent == 31 && mantissa == 0:
		v = math.Inf(1)
	case exponent == 31:
		return math.NaN()
	}
	if h&0x8000 != 0 {
		v = -v
	}
	return v
}

func bfloatBits(f float32) uint16 {
	bits := math.Float32bits(f)
	if f != f {
		return uint16(bits>>16) | 0x40
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}
