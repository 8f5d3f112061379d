package devicetest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"
	"unsafe"

	"github.com/inferno-serve/inferno/internal/device"
)

func upload[T any](b *bench, t device.Tensor, v []T) device.Tensor {
	b.dev.Upload(t.Data, unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), len(v)*int(unsafe.Sizeof(v[0]))))
	b.wait()
	return t
}

// BenchmarkCUDASample times the choice of a token a row by itself, for what a row may ask for: µs an op.
func BenchmarkCUDASample(t *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const vocab, tokens, block = 128_256, 2048, 16
	for _, rows := range []int{1, 32, 256} {
		for _, kind := range []struct {
			name   string
			params device.SampleParams
			adjust device.Adjustment
		}{
			{"greedy", device.SampleParams{TopP: 1}, device.Adjustment{}},
			{"random", device.SampleParams{TopP: 1, Temperature: 1}, device.Adjustment{}},
			{"top_p", device.SampleParams{TopP: 0.9, Temperature: 1}, device.Adjustment{}},
			{"typical_p", device.SampleParams{TopP: 1, Temperature: 1, TypicalP: 0.9}, device.Adjustment{}},
			{"penalties of 2048 tokens", device.SampleParams{TopP: 1, Temperature: 1}, device.Adjustment{Repetition: 1.1, Presence: 0.1, Frequency: 0.1}},
			{"mask", device.SampleParams{TopP: 1, Temperature: 1}, device.Adjustment{Repetition: 1, Masked: 1}},
		} {
			t.Run(fmt.Sprintf("rows=%d/%s", rows, kind.name), func(t *testing.B) {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				dev := openCUDA(t, false)
				defer dev.Close()
				b, rng := &bench{TB: t, dev: dev}, rand.New(rand.NewPCG(1, 2))
				logits, params := make([]float32, rows*vocab), make([]device.SampleParams, rows)
				for i := range logits {
					logits[i] = float32(rng.NormFloat64() * 3)
				}
				history, table, words := make([]int32, rows*tokens), make([]int32, rows*tokens/block), (vocab+31)/32
				for i := range history {
					history[i] = rng.Int32N(vocab)
				}
				for i := range table {
					table[i] = int32(i)
				}
				var pool []uint32
				for i := range params {
					params[i] = kind.params
					params[i].Seed, params[i].Position = uint64(i), tokens
					a := kind.adjust
					if a == (device.Adjustment{}) {
						continue
					}
					params[i].Adjustment = int32(len(pool)) + 1
					pool = append(pool, math.Float32bits(a.Repetition), math.Float32bits(a.Presence), math.Float32bits(a.Frequency), 0, tokens/2,
						uint32(i), 0, uint32(a.Masked))
					for range words * int(a.Masked) {
						pool = append(pool, 0x55555555)
					}
				}
				pool = append(pool, 0)
				args := device.SampleArgs{
					Logits:      upload(b, b.alloc(device.F32, rows, vocab), logits),
					Params:      upload(b, b.alloc(device.I32, rows, device.SampleParamsBytes/4), params),
					IDs:         b.alloc(device.I32, 1, rows),
					Adjustments: upload(b, b.alloc(device.I32, 1, len(pool)), pool),
					History:     upload(b, b.alloc(device.I32, len(history)/block, block), history),
					BlockTable:  upload(b, b.alloc(device.I32, rows, tokens/block), table),
				}
				b.run(t, 20, 20*4*int64(len(logits)), func() {
					for range 20 {
						dev.Sample(args)
					}
				})
			})
		}
	}
}
