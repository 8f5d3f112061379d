package llama_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/model"
	"github.com/inferno-serve/inferno/internal/model/gguf/gguftest"
)

// The names as llama.cpp's converter writes them, spelled out here once more.
var ggufSpelling = strings.NewReplacer(
	"model.embed_tokens", "token_embd", "model.norm", "output_norm", "lm_head", "output", "model.layers", "blk",
	"input_layernorm", "attn_norm", "self_attn.q_proj", "attn_q", "self_attn.k_proj", "attn_k", "self_attn.v_proj", "attn_v",
	"self_attn.o_proj", "attn_output", "post_attention_layernorm", "ffn_norm",
	"mlp.gate_proj", "ffn_gate", "mlp.up_proj", "ffn_up", "mlp.down_proj", "ffn_down",
)

// writeGGUF converts a tiny checkpoint: matrices to `as`, vectors to F32, the rows of Q and K permuted to neighbours. With exactly set the
// file is F32, and holds the values that `as` would have rounded to.
func writeGGUF(t testing.TB, dir string, as device.DType, exactly bool) string {
	t.Helper()
	c, err := model.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var tensors []gguftest.Tensor
	for _, name := range tensorNames(c.Config) {
		x := c.Tensor(name)
		if x == nil {
			t.Fatalf("no tensor %s", name)
		}
		raw := make([]byte, x.Bytes)
		if _, err := x.Data.ReadAt(raw, 0); err != nil {
			t.Fatal(err)
		}
		values := neighbours(gguftest.Decode(x.DType, raw), name, c.Config)
		dtype := device.F32
		if len(x.Shape) == 2 {
			dtype = as
		}
		data := gguftest.Encode(dtype, values)
		if exactly {
			data = gguftest.Encode(device.F32, gguftest.Decode(dtype, data))
			dtype = device.F32
		}
		tensors = append(tensors, gguftest.Tensor{Name: ggufSpelling.Replace(name), DType: dtype, Shape: x.Shape, Data: data})
	}
	keyValues, more := ggufKeys(c.Config)
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := os.WriteFile(path, gguftest.File(keyValues, append(tensors, more...)...), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func tensorNames(c *model.Config) (names []string) {
	weights := func(names ...string) (all []string) {
		for _, n := range names {
			all = append(all, n+".weight")
			attention, mlp := strings.Contains(n, "self_attn."), strings.Contains(n, "mlp.")
			if attention && c.QKVBias || mlp && c.MLPBias {
				all = append(all, n+".bias")
			}
		}
		return all
	}
	names = weights("model.embed_tokens", "model.norm")
	if !c.Tied {
		names = append(names, "lm_head.weight")
	}
	for i := range c.Layers {
		l := fmt.Sprintf("model.layers.%d.", i)
		names = append(names, weights(l+"input_layernorm", l+"post_attention_layernorm", l+"self_attn.q_proj", l+"self_attn.k_proj",
			l+"self_attn.v_proj", l+"self_attn.o_proj", l+"mlp.gate_proj", l+"mlp.up_proj", l+"mlp.down_proj")...)
	}
	return names
}

// neighbours moves row i of the first half of each head of Q and K to 2i, and row i of the second to 2i + 1.
func neighbours(values []float32, name string, c *model.Config) []float32 {
	var heads int
	switch {
	case strings.Contains(name, "q_proj"):
		heads = c.Heads
	case strings.Contains(name, "k_proj"):
		heads = c.KVHeads
	default:
		return values
	}
	k := c.HeadDim
	row := len(values) / (heads * k)
	moved := make([]float32, len(values))
	for h := range heads {
		for i := range k {
			to := 2*(i%(k/2)) + i/(k/2)
			copy(moved[(h*k+to)*row:][:row], values[(h*k+i)*row:][:row])
		}
	}
	return moved
}

// ggufKeys are the keys of a config, and the tensor in which GGUF keeps llama3's frequencies.
func ggufKeys(c *model.Config) (keyValues []any, more []gguftest.Tensor) {
	keyValues = []any{
		"general.architecture", "llama", "general.name", "tiny", "llama.block_count", uint32(c.Layers), "llama.context_length", uint32(c.Context),
		"llama.embedding_length", uint32(c.Dim), "llama.feed_forward_length", uint32(c.FFNDim), "llama.attention.head_count", uint32(c.Heads),
		"llama.attention.head_count_kv", uint32(c.KVHeads), "llama.attention.layer_norm_rms_epsilon", c.Epsilon,
		"llama.rope.freq_base", float32(c.Rope.Theta), "llama.vocab_size", uint32(c.Vocab), "llama.attention.key_length", uint32(c.HeadDim),
		"llama.attention.value_length", uint32(c.HeadDim), "llama.rope.dimension_count", uint32(c.HeadDim),
	}
	switch r := c.Rope; r.Kind {
	case model.RopeLinear:
		keyValues = append(keyValues, "llama.rope.scaling.type", "linear", "llama.rope.scaling.factor", float32(r.Factor))
	case model.RopeYarn:
		keyValues = append(keyValues, "llama.rope.scaling.type", "yarn", "llama.rope.scaling.factor", float32(r.Factor),
			"llama.rope.scaling.original_context_length", uint32(r.OriginalContext))
	case model.RopeLlama3:
		more = []gguftest.Tensor{{
			Name: "rope_freqs.weight", DType: device.F32, Shape: []int{c.HeadDim / 2},
			Data: gguftest.Encode(device.F32, llama3Divisors(r, c.HeadDim)),
		}}
	}
	return keyValues, more
}

// llama3Divisors is what llama.cpp's converter writes for Llama 3.1.
func llama3Divisors(r model.Rope, k int) (divisors []float32) {
	longest, shortest := float64(r.OriginalContext)/r.LowFreqFactor, float64(r.OriginalContext)/r.HighFreqFactor
	for i := 0; i < k; i += 2 {
		wavelength := 2 * math.Pi * math.Pow(r.Theta, float64(i)/float64(k))
		switch {
		case wavelength < shortest:
			divisors = append(divisors, 1)
		case wavelength > longest:
			divisors = append(divisors, float32(r.Factor))
		default:
			smooth := (float64(r.OriginalContext)/wavelength - r.LowFreqFactor) / (r.HighFreqFactor - r.LowFreqFactor)
			divisors = append(divisors, float32(1/((1-smooth)/r.Factor+smooth)))
		}
	}
	return divisors
}

// A GGUF file of the same float32 values gives the same bits as the directory, but where divisors were rounded.
func TestGGUFOfTheSameWeights(t *testing.T) {
	for _, c := range cases {
		t.Run(c, func(t *testing.T) {
			dir := filepath.Join("..", "testdata", c)
			d := openCPU(t, native.CPUOptions{Threads: 2, Exact: true})
			golden := readGolden(t, filepath.Join(dir, "golden.safetensors"))
			ofDir := tinyRunner(t, dir, model.Options{Device: d, DType: device.F32})
			ofFile := tinyRunner(t, writeGGUF(t, dir, device.F32, false), model.Options{Device: d})
			for i, p := range golden {
				want, got := ofDir.Logits(p.tokens, 80), ofFile.Logits(p.tokens, 80)
				if e := worst(t, got, p.logits); e > 2e-3 {
					t.Errorf("prompt %d: logits are off by %.3g of the largest, want at most 2e-3", i, e)
				}
				if e := worst(t, got, want); e > 1e-5 || e > 0 && c != "llama3-rope-tied-sharded-bf16" {
					t.Errorf("prompt %d: logits differ from the directory's by %.3g of the largest", i, e)
				}
			}
		})
	}
}

// Each type gives what float32 weights of the same values give: to rounding where activations and cache are float32, and near it where the
// cache is float16 and products take activations in 8 bits. (Random weights amplify that far more than trained ones.)
func TestGGUFTypes(t *testing.T) {
	for _, c := range []struct {
		dtype     device.DType
		byDefault float64
	}{
		{device.F16, 5e-3}, {device.BF16, 6e-2}, {device.Q8_0, 0.15}, {device.Q4_0, 0.15}, {device.Q4_1, 0.15},
	} {
		for _, dir := range []string{"llama", "llama-mha-biased-linear"} {
			t.Run(fmt.Sprintf("%v/%s", c.dtype, dir), func(t *testing.T) {
				dir := filepath.Join("..", "testdata", dir)
				exact := openCPU(t, native.CPUOptions{Threads: 1, Exact: true})
				fast := openCPU(t, native.CPUOptions{Threads: 1})
				tokens := readGolden(t, filepath.Join(dir, "golden.safetensors"))[2].tokens
				want := tinyRunner(t, writeGGUF(t, dir, c.dtype, true), model.Options{Device: exact}).Logits(tokens, 80)
				path := writeGGUF(t, dir, c.dtype, false)
				onExact := worst(t, tinyRunner(t, path, model.Options{Device: exact}).Logits(tokens, 80), want)
				onFast := worst(t, tinyRunner(t, path, model.Options{Device: fast}).Logits(tokens, 80), want)
				t.Logf("error %.2g exact, %.2g by default", onExact, onFast)
				if onExact > 1e-4 {
					t.Errorf("logits are off by %.3g of the largest on an exact device, want at most 1e-4", onExact)
				}
				if onFast > c.byDefault {
					t.Errorf("logits are off by %.3g of the largest, want at most %g", onFast, c.byDefault)
				}
			})
		}
	}
}

// Weights that are converted as they load are as if the file held them so.
func TestDTypeConvertsAtLoad(t *testing.T) {
	dir := filepath.Join("..", "testdata", "llama")
	d := openCPU(t, native.CPUOptions{Threads: 1, Exact: true})
	tokens := readGolden(t, filepath.Join(dir, "golden.safetensors"))[1].tokens
	for _, to := range []device.DType{device.F16, device.BF16} {
		want := tinyRunner(t, writeGGUF(t, dir, to, false), model.Options{Device: d}).Logits(tokens, 80)
		got := tinyRunner(t, dir, model.Options{Device: d, DType: to}).Logits(tokens, 80)
		if !sameBits(got, want) {
			t.Errorf("%v: logits differ by %.3g of the largest from those of a file of that type", to, worst(t, got, want))
		}
	}
	quantised := writeGGUF(t, dir, device.Q8_0, false)
	stays := tinyRunner(t, quantised, model.Options{Device: d, DType: device.F32}).Logits(tokens, 80)
	if !sameBits(stays, tinyRunner(t, quantised, model.Options{Device: d}).Logits(tokens, 80)) {
		t.Error("quantised weights changed")
	}
}

func TestKVType(t *testing.T) {
	dir := func(c string) string { return filepath.Join("..", "testdata", c) }
	f16, f32 := dir("llama-headdim-f16"), dir("llama")
	for _, c := range []struct {
		name  string
		path  string
		exact bool
		o     model.Options
		want  device.DType
	}{
		{"F32 weights", f32, false, model.Options{}, device.F32},
		{"F16 weights", f16, false, model.Options{}, device.F16},
		{"F16 weights on an exact device", f16, true, model.Options{}, device.F32},
		{"F16 weights made F32", f16, false, model.Options{DType: device.F32}, device.F32},
		{"F32 weights made BF16", f32, false, model.Options{DType: device.BF16}, device.F16},
		{"asked for", f32, false, model.Options{KVType: device.F16}, device.F16},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Device = openCPU(t, native.CPUOptions{Threads: 1, Exact: c.exact})
			c.o.Limits = model.Limits{MaxTokens: 1, MaxSeqs: 1, MaxRows: 1, Context: 16}
			m, _, _ := load(t, c.path, c.o, 0)
			if got := m.KVLayout().DType; got != c.want {
				t.Errorf("KV type %v, want %v", got, c.want)
			}
		})
	}
}
