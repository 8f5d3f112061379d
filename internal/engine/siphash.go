package engine

import (
	"encoding/binary"
	"math/bits"
)

// digest128 is the output of a keyed hash; a key of the prefix cache.
type digest128 [2]uint64

// sipHash is SipHash-2-4 with 128 bits of output (Aumasson, Bernstein: SipHash, a fast short-input PRF, 2012, and the authors' reference
// code for the longer output) of head, little-endian, and tail behind it. To those who do not know the key its outputs are random, so that
// nobody can make two inputs meet, or guess where another's lie: which clients who see hits could otherwise try.
func sipHash(key, head digest128, tail []byte) digest128 {
	s := sipState{
		0x736f6d6570736575 ^ key[0], 0x646f72616e646f6d ^ key[1] ^ 0xee,
		0x6c7967656e657261 ^ key[0], 0x7465646279746573 ^ key[1],
	}
	last := uint64(16+len(tail)) << 56
	s = s.take(head[0]).take(head[1])
	for ; len(tail) >= 8; tail = tail[8:] {
		s = s.take(binary.LittleEndian.Uint64(tail))
	}
	for i, b := range tail {
		last |= uint64(b) << (8 * i)
	}
	s = s.take(last)
	s.c ^= 0xee
	s = s.round().round().round().round()
	first := s.a ^ s.b ^ s.c ^ s.d
	s.b ^= 0xdd
	s = s.round().round().round().round()
	return digest128{first, s.a ^ s.b ^ s.c ^ s.d}
}

// sipState goes by value, so that it stays in registers.
type sipState struct{ a, b, c, d uint64 }

func (s sipState) take(word uint64) sipState {
	s.d ^= word
	s = s.round().round()
	s.a ^= word
	return s
}

func (s sipState) round() sipState {
	s.a += s.b
	s.c += s.d
	s.b = bits.RotateLeft64(s.b, 13) ^ s.a
	s.d = bits.RotateLeft64(s.d, 16) ^ s.c
	s.a = bits.RotateLeft64(s.a, 32) + s.d
	s.c += s.b
	s.d = bits.RotateLeft64(s.d, 21) ^ s.a
	s.b = bits.RotateLeft64(s.b, 17) ^ s.c
	s.c = bits.RotateLeft64(s.c, 32)
	return s
}
