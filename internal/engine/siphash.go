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
	s.take(head[0])
	s.take(head[1])
	for ; len(tail) >= 8; tail = tail[8:] {
		s.take(binary.LittleEndian.Uint64(tail))
	}
	for i, b := range tail {
		last |= uint64(b) << (8 * i)
	}
	s.take(last)
	s.c ^= 0xee
	first := s.finish()
	s.b ^= 0xdd
	return digest128{first, s.finish()}
}

type sipState struct{ a, b, c, d uint64 }

func (s *sipState) take(word uint64) {
	s.d ^= word
	s.round()
	s.round()
	s.a ^= word
}

func (s *sipState) finish() uint64 {
	for range 4 {
		s.round()
	}
	return s.a ^ s.b ^ s.c ^ s.d
}

func (s *sipState) round() {
	a, b, c, d := s.a, s.b, s.c, s.d
	a += b
	b = bits.RotateLeft64(b, 13) ^ a
	a = bits.RotateLeft64(a, 32)
	c += d
	d = bits.RotateLeft64(d, 16) ^ c
	a += d
	d = bits.RotateLeft64(d, 21) ^ a
	c += b
	b = bits.RotateLeft64(b, 17) ^ c
	c = bits.RotateLeft64(c, 32)
	s.a, s.b, s.c, s.d = a, b, c, d
}
