package model

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/model/gguf/gguftest"
)

func TestHalfWidensAllValues(t *testing.T) {
	for h := range 1 << 16 {
		got, want := fromHalf(uint16(h)), gguftest.FromHalf(uint16(h))
		if math.Float32bits(got) != math.Float32bits(want) && !(math.IsNaN(float64(got)) && math.IsNaN(float64(want))) {
			t.Fatalf("fromHalf(%#04x) = %v, want %v", h, got, want)
		}
		if back := toHalf(want); back != uint16(h) && !math.IsNaN(float64(want)) {
			t.Fatalf("toHalf(%v) = %#04x, want %#04x", want, back, h)
		}
	}
	if h := toHalf(float32(math.NaN())); !math.IsNaN(float64(fromHalf(h))) {
		t.Errorf("toHalf(NaN) = %#04x", h)
	}
}

func TestRounding(t *testing.T) {
	values := []float32{
		0, 65504, 65519.996, 65520, 65536, 1e30, 0x1p-14, 0x1.ffcp-15, 0x1p-24, 0x1p-25, 0x1.000002p-25, 0x1.8p-24, 0x1.8p-25, 0x1p-149, 1.0009765,
		float32(math.Inf(1)), math.MaxFloat32,
	}
	for h := range 0x7c00 { // halfway between neighbours, and next to it
		middle := (float64(fromHalf(uint16(h))) + min(float64(fromHalf(uint16(h+1))), 65536)) / 2
		values = append(values, float32(middle), math.Nextafter32(float32(middle), 0), math.Nextafter32(float32(middle), 1e9))
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		values = append(values, math.Float32frombits(r.Uint32()>>1))
	}
	for _, v := range values {
		for _, v := range []float32{v, -v} {
			if math.IsNaN(float64(v)) {
				continue
			}
			if got, want := toHalf(v), gguftest.Half(v); got != want {
				t.Fatalf("toHalf(%x) = %#04x, want %#04x", v, got, want)
			}
			want := gguftest.Decode(device.BF16, gguftest.Encode(device.BF16, []float32{v}))[0]
			if got := math.Float32frombits(uint32(toBrain(v)) << 16); got != want {
				t.Fatalf("toBrain(%x) = %v, want %v", v, got, want)
			}
		}
	}
	if b := toBrain(math.Float32frombits(0x7f800001)); b&0x7f == 0 {
		t.Errorf("toBrain(NaN) = %#04x, which is infinite", b)
	}
}

func TestConvertByPieces(t *testing.T) {
	values := make([]float32, 5000)
	for i := range values {
		values[i] = float32(i) / 7
	}
	for _, from := range []device.DType{device.F32, device.F16, device.BF16} {
		for _, to := range []device.DType{device.F32, device.F16, device.BF16} {
			src := gguftest.Encode(from, values)
			dst := make([]byte, len(values)*to.Size())
			convert(dst, to, src, from)
			if want := gguftest.Encode(to, gguftest.Decode(from, src)); string(dst) != string(want) {
				t.Errorf("%v to %v differs", from, to)
			}
		}
	}
}

func TestNamesTranslateBothWays(t *testing.T) {
	for stored, name := range map[string]string{
		"token_embd.weight":        "model.embed_tokens.weight",
		"output.weight":            "lm_head.weight",
		"output_norm.weight":       "model.norm.weight",
		"blk.0.attn_norm.weight":   "model.layers.0.input_layernorm.weight",
		"blk.12.attn_q.bias":       "model.layers.12.self_attn.q_proj.bias",
		"blk.7.attn_output.weight": "model.layers.7.self_attn.o_proj.weight",
		"blk.3.ffn_down.weight":    "model.layers.3.mlp.down_proj.weight",
	} {
		if got := fromGGUFName(stored); got != name {
			t.Errorf("fromGGUFName(%s) = %s, want %s", stored, got, name)
		}
		if got := toGGUFName(name); got != stored {
			t.Errorf("toGGUFName(%s) = %s, want %s", name, got, stored)
		}
	}
	for _, name := range []string{"rope_freqs.weight", "blk.0.attn_q_norm.weight", "blk.", "blk.5.weight", "output", "", "blk.0.attn_q.scale"} {
		if got := fromGGUFName(name); got != name {
			t.Errorf("fromGGUFName(%s) = %s", name, got)
		}
	}
}

func TestRotaryOrder(t *testing.T) {
	want := []int32{0, 2, 1, 3, 4, 6, 5, 7}
	for i, from := range RotaryOrder(2, 4) {
		if from != want[i] {
			t.Errorf("row %d comes from %d, want %d", i, from, want[i])
		}
	}
}

// The formulas by a second, direct reading: each pair by itself, wavelengths instead of rotations.
func TestFrequencies(t *testing.T) {
	const k = 128
	near := func(got float32, want float64) bool { return math.Abs(float64(got)-want) <= 1e-7*want }
	plain := func(i int, theta float64) float64 { return 1 / math.Pow(theta, float64(2*i)/k) }

	llama3 := Rope{Kind: RopeLlama3, Theta: 5e5, Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OriginalContext: 8192}
	yarn := Rope{Kind: RopeYarn, Theta: 1e6, Factor: 4, OriginalContext: 32768, BetaFast: 32, BetaSlow: 1, Truncate: true, AttentionFactor: 1.25}
	divided := Rope{Kind: RopeDivided, Theta: 1e4, Divisors: make([]float32, k/2)}
	for i := range divided.Divisors {
		divided.Divisors[i] = float32(i + 1)
	}
	for i := range k / 2 {
		f := plain(i, 5e5)
		wavelength := 2 * math.Pi / f
		switch {
		case wavelength > 8192:
			f /= 8
		case wavelength > 2048:
			smooth := (8192/wavelength - 1) / 3
			f = (1-smooth)*f/8 + smooth*f
		}
		if freq, scale := llama3.Frequencies(k); !near(freq[i], f) || scale != 1 {
			t.Errorf("llama3: pair %d turns %v, want %v; scale %v", i, freq[i], f, scale)
		}

		// For θ 10⁶, C 32768 and k 128 the ends are 128·ln(32768/(2π·32))/(2·ln 10⁶) = 23.6 and 39.6: floor and ceiling 23 and 40.
		f = plain(i, 1e6)
		ramp := min(max((float64(i)-23)/(40-23), 0), 1)
		if freq, scale := yarn.Frequencies(k); !near(freq[i], f*(1-ramp)+f/4*ramp) || scale != 1.25 {
			t.Errorf("yarn: pair %d turns %v, want %v; scale %v", i, freq[i], f*(1-ramp)+f/4*ramp, scale)
		}
		for kind, c := range map[string]struct {
			rope Rope
			want float64
		}{
			"none":    {Rope{Theta: 1e4}, plain(i, 1e4)},
			"linear":  {Rope{Kind: RopeLinear, Theta: 1e4, Factor: 3}, plain(i, 1e4) / 3},
			"divided": {divided, plain(i, 1e4) / float64(i+1)},
		} {
			if freq, scale := c.rope.Frequencies(k); !near(freq[i], c.want) || scale != 1 {
				t.Errorf("%s: pair %d turns %v, want %v; scale %v", kind, i, freq[i], c.want, scale)
			}
		}
	}
}
