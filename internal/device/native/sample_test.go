package native_test

import (
	"math"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
)

// sampleRig samples from one row of logits.
type sampleRig struct {
	testing.TB
	dev  device.Device
	args device.SampleArgs
	in   []device.SampleParams
	out  []int32
}

func newSampleRig(t testing.TB, dev device.Device, logits []float32) *sampleRig {
	t.Helper()
	return &sampleRig{
		TB: t, dev: dev, in: make([]device.SampleParams, 1), out: make([]int32, 1),
		args: device.SampleArgs{
			Logits: put(t, dev, device.F32, 1, logits),
			Params: device.Matrix(alloc(t, dev, device.SampleParamsBytes), device.I32, 1, device.SampleParamsBytes/4),
			IDs:    device.Vector(alloc(t, dev, 4), device.I32, 1),
		},
	}
}

func (r *sampleRig) choose(p device.SampleParams) int32 {
	r.Helper()
	r.in[0] = p
	r.dev.Upload(r.args.Params.Data, bytesOf(r.in))
	r.dev.Sample(r.args)
	r.dev.Download(bytesOf(r.out), r.args.IDs.Data)
	sync(r, r.dev)
	return r.out[0]
}

// The known answer of Random123 for key 0 and counter 0: its four words are the noise of ids 0 to 3 at position 0. A token wins over
// another by a margin of logits just above the difference of their noise, and loses just below.
func TestNoiseOfKnownPhiloxWords(t *testing.T) {
	words := [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}
	gumbel := func(word uint32) float64 { return -math.Log(-math.Log((float64(word) + 0.5) / (1 << 32))) }
	dev := openCPU(t, native.CPUOptions{Threads: 1})
	for i := range words {
		for j := range words {
			if i == j {
				continue
			}
			for _, c := range []struct {
				margin float64
				want   int
			}{{1e-5, i}, {-1e-5, j}} {
				logits := []float32{-200, -200, -200, -200}
				logits[i] = float32(gumbel(words[j]) - gumbel(words[i]) + c.margin)
				logits[j] = 0
				got := newSampleRig(t, dev, logits).choose(device.SampleParams{Temperature: 1, TopP: 1})
				if got != int32(c.want) {
					t.Errorf("tokens %d and %d, margin %g: chose %d, want %d", i, j, c.margin, got, c.want)
				}
			}
		}
	}
}
