package devicetest

import (
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"

	"go.uber.org/goleak"

	"github.com/inferno-serve/inferno/internal/device"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The known answers of the algorithm's authors (Random123, kat_vectors).
func TestPhiloxKnownAnswers(t *testing.T) {
	const ones = math.MaxUint32
	for _, c := range []struct {
		key     [2]uint32
		counter [4]uint32
		want    [4]uint32
	}{
		{want: [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{
			[2]uint32{ones, ones}, [4]uint32{ones, ones, ones, ones},
			[4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
		},
		{
			[2]uint32{0xa4093822, 0x299f31d0}, [4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
			[4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
		},
	} {
		if got := philox(c.key, c.counter); got != c.want {
			t.Errorf("philox(%#x, %#x) = %#x, want %#x", c.key, c.counter, got, c.want)
		}
	}
}

// Gumbel noise has mean γ and variance π²/6, whatever of seed, position and token varies.
func TestGumbelMoments(t *testing.T) {
	for name, noise := range map[string]func(i int) float64{
		"tokens":    func(i int) float64 { return gumbel(1, 2, i) },
		"positions": func(i int) float64 { return gumbel(1, uint32(i), 2) },
		"seeds":     func(i int) float64 { return gumbel(uint64(i)<<20, 1, 2) },
	} {
		const n = 20_000
		sum, squares := 0.0, 0.0
		for i := range n {
			g := noise(i)
			sum, squares = sum+g, squares+g*g
		}
		mean := sum / n
		variance := squares/n - mean*mean
		if math.Abs(mean-0.5772) > 0.04 || math.Abs(variance-math.Pi*math.Pi/6) > 0.12 {
			t.Errorf("%s: mean %.4f, variance %.4f, want 0.5772 and 1.6449", name, mean, variance)
		}
	}
}

func TestSampleKeepsWhatTheCutsSay(t *testing.T) {
	logits := []float32{1, 3, 2, 3, 0} // probabilities .056 .413 .152 .413 .021 by id, renormalised below
	sorted := func() []candidate {
		return []candidate{{id: 1, logit: 3}, {id: 3, logit: 3}, {id: 2, logit: 2}, {id: 0, logit: 1}, {id: 4, logit: 0}}
	}
	for _, c := range []struct {
		name string
		p    device.SampleParams
		want int // of sorted remain
	}{
		{"no cut", device.SampleParams{TopP: 1}, 5},
		{"top_k", device.SampleParams{TopK: 3, TopP: 1}, 3},
		{"top_k of all", device.SampleParams{TopK: 9, TopP: 1}, 5},
		{"top_p within a tie", device.SampleParams{TopP: 0.3}, 1},
		{"top_p", device.SampleParams{TopP: 0.8}, 3},
		{"top_p of what top_k left", device.SampleParams{TopK: 3, TopP: 0.83}, 2},
		{"min_p", device.SampleParams{TopP: 1, MinP: 0.2}, 3},
		{"min_p 1", device.SampleParams{TopP: 1, MinP: 1}, 2},
		{"min_p after top_p", device.SampleParams{TopP: 0.3, MinP: 1}, 1},
		// With an entropy of 1.198 nats the surprises .938 and .938 are .26 away, 1.938 is .74, 2.938 is 1.74, 3.938 is 2.74.
		{"typical_p", device.SampleParams{TopP: 1, TypicalP: 0.7}, 2},
		{"typical_p of the first", device.SampleParams{TopP: 1, TypicalP: 0.3}, 1},
		{"typical_p of all", device.SampleParams{TopP: 1, TypicalP: 1}, 5},
		{"typical_p after top_k", device.SampleParams{TopP: 1, TopK: 1, TypicalP: 0.1}, 1},
		{"top_p of what typical_p left", device.SampleParams{TopP: 0.55, TypicalP: 0.95}, 2},
		{"min_p of what typical_p left", device.SampleParams{TopP: 1, MinP: 0.4, TypicalP: 0.95}, 2},
	} {
		c.p.Temperature = 1
		if got := keep(sorted(), c.p, 0); len(got) != c.want {
			t.Errorf("%s: %d kept, want %d", c.name, len(got), c.want)
		}
	}
	if got := sample(logits, device.SampleParams{TopP: 1}, []int32{1}, 0); got.id != 3 {
		t.Errorf("greedy with 1 banned chose %d, want 3", got.id)
	}
	// One token of .5 and four of .125: an entropy of 1.386 nats, .69 from the likeliest's surprise and .69 from the others', where
	// rounding leaves the former nearer by .0006.
	flat := []candidate{{id: 2, logit: math.Log(4.003)}, {id: 0}, {id: 1}, {id: 3}, {id: 4}}
	if got := keep(flat, device.SampleParams{TopP: 1, TypicalP: 0.3, Temperature: 1}, 0); len(got) != 1 || got[0].id != 2 {
		t.Errorf("typical_p kept %v, want id 2", got)
	}
	// And of .49 against four of .1275: the others are nearer, and the likeliest goes.
	flat = []candidate{{id: 2, logit: math.Log(3.85)}, {id: 0}, {id: 1}, {id: 3}, {id: 4}}
	if got := keep(flat, device.SampleParams{TopP: 1, TypicalP: 0.3, Temperature: 1}, 0); len(got) != 3 || got[0].id != 0 || got[2].id != 3 {
		t.Errorf("typical_p kept %v, want ids 0, 1 and 3", got)
	}
}

func TestHalfConversion(t *testing.T) {
	for bits := range 1 << 16 {
		v := halfValue(uint16(bits))
		got := halfBits(float32(v))
		if math.IsNaN(v) {
			if got&0x7c00 != 0x7c00 || got&0x3ff == 0 {
				t.Fatalf("NaN %#04x became %#04x", bits, got)
			}
		} else if got != uint16(bits) {
			t.Fatalf("%#04x is %v, which became %#04x", bits, v, got)
		}
	}
	for _, c := range []struct {
		f    float32
		want uint16
	}{
		{1, 0x3c00}, {-2, 0xc000}, {65504, 0x7bff}, {65519.996, 0x7bff}, {65520, 0x7c00},
		{1 + 0x1p-11, 0x3c00}, {1 + 0x3p-11, 0x3c02}, {1 + 0x1.1p-11, 0x3c01}, // ties to even
		{0x1p-24, 1}, {0x1p-25, 0}, {0x1.8p-24, 2}, {0x1p-14 - 0x1p-26, 0x400}, {2 - 0x1p-12, 0x4000},
	} {
		if got := halfBits(c.f); got != c.want {
			t.Errorf("halfBits(%v) = %#04x, want %#04x", c.f, got, c.want)
		}
	}
}

func TestRoundIsTheNearest(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, dt := range []device.DType{device.F16, device.BF16} {
		for range 10_000 {
			v := float64(float32(rng.NormFloat64() * math.Exp(rng.NormFloat64()*2)))
			got := round(dt, v)
			if off := math.Abs(got - v); off > halfULP(dt)*math.Abs(v)+0x1p-25 {
				t.Fatalf("round(%v, %v) = %v, off by %v", dt, v, got, off)
			}
			if round(dt, got) != got {
				t.Fatalf("round(%v, %v) is no fixed point", dt, got)
			}
		}
	}
	if got := bfloatBits(1 + 0x1p-8); got != 0x3f80 { // ties to even
		t.Errorf("bfloatBits(1+2⁻⁸) = %#04x, want 0x3f80", got)
	}
	if got := bfloatBits(1 + 0x3p-8); got != 0x3f82 {
		t.Errorf("bfloatBits(1+3·2⁻⁸) = %#04x, want 0x3f82", got)
	}
}

func TestQuantiseStaysWithinHalfAStep(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	x := make([]float64, 320)
	for i := range x {
		x[i] = rng.NormFloat64()
	}
	clear(x[64:96])
	x[5], x[6] = 127, 2.5 // d = 1: a tie
	got, unsure := quantise(x)
	for i, v := range got {
		if limit := map[bool]float64{true: 0.5, false: 4.0 / 127 / 2}[i < 32]; math.Abs(v-x[i]) > limit {
			t.Errorf("element %d: %v became %v, more than %v away", i, x[i], v, limit)
		}
	}
	if len(unsure) == 0 || unsure[0] != (uncertain{6, 1}) {
		t.Errorf("uncertain %v, want element 6 with a step of 1 first", unsure)
	}
}

func TestSampleParamsSize(t *testing.T) {
	if got := unsafe.Sizeof(device.SampleParams{}); got != device.SampleParamsBytes {
		t.Errorf("SampleParams has %d bytes, want %d", got, device.SampleParamsBytes)
	}
}
