package model

import (
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
)

func TestJoinedSumsAreThatOfTheWhole(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 2, 31, 4096, 100_003} {
		text := make([]byte, n)
		for i := range text {
			text[i] = byte(rng.Uint32())
		}
		want := crc32.Checksum(text, castagnoli)
		for range 10 {
			cut := rng.IntN(n + 1)
			first, second := crc32.Checksum(text[:cut], castagnoli), crc32.Checksum(text[cut:], castagnoli)
			if got := joinCRC(first, second, int64(n-cut)); got != want {
				t.Errorf("%d bytes cut at %d: %#x, want %#x", n, cut, got, want)
			}
		}
	}
}

// Pieces cover every row once, in whole rows of the file that become whole rows of the matrix, and are small where the order allows it.
func TestPiecesCoverTheMatrix(t *testing.T) {
	halves := func(rows int) []int32 { // a matrix that is one head: every row of the first half has a neighbour from the second
		return RotaryOrder(1, rows)
	}
	for _, c := range []struct {
		rows, cols int
		order      []int32
		pieces     int
	}{
		{1, 64, nil, 1}, {1000, 64, nil, 1}, {128256, 4096, nil, 251}, {1000, 14336, nil, 6},
		{4096, 4096, RotaryOrder(32, 128), 8}, {64 * 96, 4096, RotaryOrder(64, 96), 11}, {4096, 4096, halves(4096), 1},
	} {
		t.Run(fmt.Sprintf("%dx%d", c.rows, c.cols), func(t *testing.T) {
			tensor := &Tensor{DType: device.BF16, Shape: []int{c.rows, c.cols}, Bytes: int64(2 * c.rows * c.cols)}
			pieces := job{tensor: tensor, matrix: &matrix{tensor: tensor, order: c.order}}.pieces()
			next := 0
			for _, p := range pieces {
				if p.first != next || p.from != int64(2*c.cols*p.first) || p.bytes != int64(2*c.cols*p.rows) {
					t.Fatalf("piece %+v after row %d", p, next)
				}
				if p.first%device.PackAlignment != 0 || p.rows < 1 {
					t.Errorf("piece of %d rows from row %d on", p.rows, p.first)
				}
				if c.order != nil {
					used := slices.Sorted(slices.Values(p.order))
					for i, row := range used {
						if int(row) != i {
							t.Fatalf("the piece from row %d on takes rows %v of itself", p.first, used)
						}
					}
					for i, row := range p.order {
						if want := c.order[p.first+i]; row+int32(p.first) != want {
							t.Fatalf("row %d comes from %d, want %d", p.first+i, row+int32(p.first), want)
						}
					}
				}
				next += p.rows
			}
			if next != c.rows || len(pieces) != c.pieces {
				t.Errorf("%d pieces of %d rows, want %d of %d", len(pieces), next, c.pieces, c.rows)
			}
		})
	}
}
