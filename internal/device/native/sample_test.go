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

// Where every logit is −Inf nothing is likelier than anything else, and the lowest id that is allowed is taken.
func TestRowOfMinusInfinityGivesLowestAllowedID(t *testing.T) {
	dev := openCPU(t, native.CPUOptions{Threads: 1})
	r := newSampleRig(t, dev, constant(100, float32(math.Inf(-1))))
	r.args.Banned = device.Matrix(alloc(t, dev, 16), device.I32, 1, 4)
	dev.Upload(r.args.Banned.Data, bytesOf([]int32{1, 0, -7, 1000}))
	for _, temperature := range []float32{0, 1} {
		for numBanned, want := range []int32{0, 0, 2, 2, 2} {
			p := device.SampleParams{Temperature: temperature, TopP: 0.9, TopK: 5, NumBanned: int32(numBanned)}
			if got := r.choose(p); got != want {
				t.Errorf("temperature %v, %d banned: chose %d, want %d", temperature, numBanned, got, want)
			}
		}
	}
}

// At the ends of float32 a temperature either leaves the largest logits alone or makes all tokens alike; no cut may lose every token.
func TestExtremeTemperatures(t *testing.T) {
	const vocab = 1000
	logits := constant(vocab, -3)
	logits[700], logits[701] = 2, 2
	r := newSampleRig(t, openCPU(t, native.CPUOptions{Threads: 1}), logits)
	seen := map[int32]bool{}
	for seed := range uint64(200) {
		for _, p := range []device.SampleParams{
			{TopP: 1}, {TopP: 0.5}, {TopP: 1, TopK: 3}, {TopP: 1, MinP: 0.9}, {TopP: 1e-9, MinP: 1, TopK: 999},
		} {
			p.Seed = seed
			p.Temperature = math.SmallestNonzeroFloat32
			if got := r.choose(p); got != 700 && got != 701 {
				t.Fatalf("%+v: chose %d, want 700 or 701", p, got)
			}
			p.Temperature = math.MaxFloat32
			got := r.choose(p)
			if got < 0 || got >= vocab {
				t.Fatalf("%+v: chose %d, want 0 to %d", p, got, vocab-1)
			}
			seen[got] = true
		}
	}
	if len(seen) < 100 {
		t.Errorf("at the highest temperature 200 seeds chose %d tokens in all, want most of them different", len(seen))
	}
}
