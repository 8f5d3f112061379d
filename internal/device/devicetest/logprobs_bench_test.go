package devicetest

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
)

// BenchmarkCUDALogProbs times log-probabilities beside a step: of the token alone, and with the 20 likeliest ones.
func BenchmarkCUDALogProbs(t *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dev := openCUDA(t, false)
	defer dev.Close()
	b := &bench{TB: t, dev: dev}
	random := rand.New(rand.NewPCG(1, 2))
	for _, vocab := range []int{49_152, 128_256} {
		for _, n := range []int{1, 8, 64} {
			logits := b.alloc(device.F32, n, vocab)
			row := make([]byte, 0, 4*vocab)
			for i := range n {
				row = row[:0]
				for range vocab {
					row = binary.LittleEndian.AppendUint32(row, math.Float32bits(float32(random.NormFloat64()*4)))
				}
				dev.Upload(logits.Data+device.Ptr(4*i*vocab), row)
			}
			rows := b.alloc(device.I32, 1, n)
			var numbers []byte
			for i := range n {
				numbers = binary.LittleEndian.AppendUint32(numbers, uint32(i))
			}
			dev.Upload(rows.Data, numbers)
			for _, top := range []int{0, 20} {
				args := device.LogProbsArgs{Logits: logits, Rows: rows, Chosen: rows, Top: top, Out: b.alloc(device.I32, n, 2+2*top)}
				t.Run(fmt.Sprintf("vocab=%d/rows=%d/top=%d", vocab, n, top), func(t *testing.B) {
					b.TB = t
					const ops = 10
					b.run(t, ops, ops*4*int64(n)*int64(vocab), func() {
						for range ops {
							dev.LogProbs(args)
						}
					})
				})
			}
		}
	}
}
