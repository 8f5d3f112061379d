package gguftest

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/inferno-serve/inferno/internal/device"
)

const block = 32

// Encode rounds values to type t; their number must be a multiple of its block.
func Encode(t device.DType, values []float32) (data []byte) {
	switch t {
	case device.F32:
		for _, v := range values {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
		}
	case device.F16:
		for _, v := range values {
			data = binary.LittleEndian.AppendUint16(data, Half(v))
		}
	case device.BF16:
		for _, v := range values {
			bits := uint64(math.Float32bits(v))
			data = binary.LittleEndian.AppendUint16(data, uint16((bits+0x7fff+bits>>16&1)>>16))
		}
	case device.Q8_0, device.Q4_0, device.Q4_1:
		for i := 0; i < len(values); i += block {
			data = append(data, encodeBlock(t, values[i:i+block])...)
		}
	default:
		panic(fmt.Sprintf("gguftest: Encode to %v", t))
	}
	return data
}

func encodeBlock(t device.DType, values []float32) (data []byte) {
	low, high, peak := values[0], values[0], float32(0)
	for _, v := range values {
		low, high = min(low, v), max(high, v)
		peak = max(peak, float32(math.Abs(float64(v))))
	}
	var q [block]int
	round := func(scale uint16, offset float32, least, most int) {
		for i, v := range values {
			if s := FromHalf(scale); s != 0 {
				q[i] = min(max(int(math.Round(float64((v-offset)/s))), least), most)
			}
		}
	}
	switch t {
	case device.Q8_0:
		scale := Half(peak / 127)
		round(scale, 0, -127, 127)
		data = binary.LittleEndian.AppendUint16(data, scale)
		for _, n := range q {
			data = append(data, byte(int8(n)))
		}
		return data
	case device.Q4_0:
		scale := Half(peak / 7)
		round(scale, 0, -8, 7)
		for i := range q {
			q[i] += 8
		}
		data = binary.LittleEndian.AppendUint16(data, scale)
	case device.Q4_1:
		scale, offset := Half((high-low)/15), Half(low)
		round(scale, FromHalf(offset), 0, 15)
		data = binary.LittleEndian.AppendUint16(data, scale)
		data = binary.LittleEndian.AppendUint16(data, offset)
	}
	for i := range block / 2 {
		data = append(data, byte(q[i]|q[i+block/2]<<4))
	}
	return data
}

// Decode is the exact values of data.
func Decode(t device.DType, data []byte) (values []float32) {
	size := int(t.RowBytes(t.Block()))
	for ; len(data) >= size; data = data[size:] {
		switch t {
		case device.F32:
			values = append(values, math.Float32frombits(binary.LittleEndian.Uint32(data)))
		case device.F16:
			values = append(values, FromHalf(binary.LittleEndian.Uint16(data)))
		case device.BF16:
			values = append(values, math.Float32frombits(uint32(binary.LittleEndian.Uint16(data))<<16))
		default:
			values = append(values, decodeBlock(t, data[:size])...)
		}
	}
	return values
}

func decodeBlock(t device.DType, b []byte) []float32 {
	values := make([]float32, block)
	d := FromHalf(binary.LittleEndian.Uint16(b))
	for i := range values {
		switch t {
		case device.Q8_0:
			values[i] = d * float32(int8(b[2+i]))
		case device.Q4_0:
			values[i] = d * float32(nibble(b[2:], i)-8)
		case device.Q4_1:
			values[i] = d*float32(nibble(b[4:], i)) + FromHalf(binary.LittleEndian.Uint16(b[2:]))
		default:
			panic(fmt.Sprintf("gguftest: Decode of %v", t))
		}
	}
	return values
}

func nibble(b []byte, i int) int {
	if i < block/2 {
		return int(b[i] & 15)
	}
	return int(b[i-block/2] >> 4)
}

// FromHalf is the value of a float16.
func FromHalf(h uint16) float32 {
	sign := 1.0
	if h&0x8000 != 0 {
		sign = -1
	}
	exponent, mantissa := int(h>>10&31), float64(h&0x3ff)
	switch exponent {
	case 0:
		return float32(sign * math.Ldexp(mantissa, -24))
	case 31:
		if mantissa != 0 {
			return float32(math.NaN())
		}
		return float32(math.Inf(int(sign)))
	}
	return float32(sign * math.Ldexp(1024+mantissa, exponent-25))
}

// Half rounds to float16, ties to even; it looks for the nearest of all 65536.
func Half(v float32) uint16 {
	var sign uint16
	if math.Signbit(float64(v)) {
		sign, v = 0x8000, -v
	}
	low, high := uint16(0), uint16(0x7c00) // positive halves are ordered as their bits
	for high-low > 1 {
		if mid := (low + high) / 2; FromHalf(mid) <= v {
			low = mid
		} else {
			high = mid
		}
	}
	ceiling := float64(FromHalf(high))
	if high == 0x7c00 {
		ceiling = 65536
	}
	below, above := float64(v)-float64(FromHalf(low)), ceiling-float64(v)
	if above < below || above == below && low&1 == 1 {
		return sign | high
	}
	return sign | low
}
