package engine

import (
	"encoding/binary"
	"encoding/hex"
	"testing"
)

// The digests are OpenSSL's (openssl mac -macopt hexkey:000102030405060708090a0b0c0d0e0f -macopt size:16 SIPHASH) of the bytes 0, 1, 2, …
func TestSipHashIsThatOfOthers(t *testing.T) {
	key := digest128{0x0706050403020100, 0x0f0e0d0c0b0a0908}
	for length, want := range map[int]string{
		16: "6ee2a4ca67b054bbfd3315bf85230577",
		17: "473d06e8738db89854c066c47ae47740",
		23: "c9d184ddd5a9f5e0cf8ce29a9abf691c",
		24: "2db479ae78bd50d8882a8a178a6132ad",
		31: "2939b0183223fafc1723de4f52c43d35",
		32: "7c3956ca5eeafc3e363e9d556546eb68",
		63: "5150d1772f50834a503e069a973fbd7c",
	} {
		message := make([]byte, length)
		for i := range message {
			message[i] = byte(i)
		}
		head := digest128{binary.LittleEndian.Uint64(message), binary.LittleEndian.Uint64(message[8:])}
		sum := sipHash(key, head, message[16:])
		got := hex.EncodeToString(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, sum[0]), sum[1]))
		if got != want {
			t.Errorf("%d bytes: got %s, want %s", length, got, want)
		}
	}
}
