package model

import "hash/crc32"

// digest is the checksum of a tensor's bytes: CRC-32C, which a core computes faster than it reads. It notices every change of up to 32
// bits in a row, any other but once in 2³², and is no protection from a forger; a cryptographic hash would cost more than the load.
type digest struct {
	tensor *Tensor
	sum    uint32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// joinCRC is the CRC of a text from those of its two halves, the second of n bytes: the first is moved past the second by a product with
// x^(8n), modulo the polynomial. Coefficients lie mirrored, as the table has them: x⁰ is the highest bit.
func joinCRC(first, second uint32, n int64) uint32 {
	const one, x = uint32(1) << 31, uint32(1) << 30
	shift, power := one, x
	for bits := 8 * n; bits > 0; bits >>= 1 {
		if bits&1 != 0 {
			shift = multiplyCRC(shift, power)
		}
		power = multiplyCRC(power, power)
	}
	return multiplyCRC(shift, first) ^ second
}

func multiplyCRC(a, b uint32) (product uint32) {
	for bit := uint32(1) << 31; bit > 0; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
		}
		carry := b & 1
		b >>= 1
		if carry != 0 {
			b ^= crc32.Castagnoli
		}
	}
	return product
}
