package model_test

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/model"
	"github.com/inferno-serve/inferno/internal/model/gguf"
	"github.com/inferno-serve/inferno/internal/model/gguf/gguftest"
)

// ggufWith are the keys of a small llama with some replaced or added; a nil value removes a key.
func ggufWith(change ...any) []any {
	keyValues := []any{
		"general.architecture", "llama", "general.alignment", uint32(32), "vendor.note", "not ours",
		"llama.block_count", uint32(1), "llama.context_length", uint32(512), "llama.embedding_length", uint32(64),
		"llama.feed_forward_length", uint32(96), "llama.attention.head_count", uint32(4), "llama.attention.head_count_kv", uint32(2),
		"llama.attention.layer_norm_rms_epsilon", float32(1e-5), "llama.rope.freq_base", float32(5e5), "llama.vocab_size", uint32(3),
		"llama.rope.dimension_count", uint32(16), "tokenizer.ggml.bos_token_id", uint32(1), "tokenizer.ggml.eos_token_id", uint32(2),
		"tokenizer.ggml.eot_token_id", uint32(0),
	}
	for i := 0; i < len(change); i += 2 {
		at := slices.Index(keyValues, change[i])
		switch {
		case at < 0:
			keyValues = append(keyValues, change[i], change[i+1])
		case change[i+1] == nil:
			keyValues = slices.Delete(keyValues, at, at+2)
		default:
			keyValues[at+1] = change[i+1]
		}
	}
	return keyValues
}

func f32Tensor(name string, shape ...int) gguftest.Tensor {
	bytes := 4
	for _, n := range shape {
		bytes *= n
	}
	return gguftest.Tensor{Name: name, DType: device.F32, Shape: shape, Data: make([]byte, bytes)}
}

func parseGGUF(t *testing.T, keyValues []any, tensors ...gguftest.Tensor) (*model.Config, error) {
	t.Helper()
	data := gguftest.File(keyValues, tensors...)
	f, err := gguf.New("test.gguf", bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return model.ConfigFromGGUF(f)
}

func TestConfigFromGGUF(t *testing.T) {
	embedding := f32Tensor("token_embd.weight", 3, 64)
	c, err := parseGGUF(t, ggufWith(), embedding, f32Tensor("blk.0.attn_q.weight", 64, 64))
	if err != nil {
		t.Fatal(err)
	}
	want := &model.Config{
		Architecture: "llama", Dim: 64, Layers: 1, Heads: 4, KVHeads: 2, HeadDim: 16, FFNDim: 96, Vocab: 3, Epsilon: 1e-5,
		Rope: model.Rope{Theta: 5e5}, Context: 512, Tied: true, BOS: 1, EOS: []int32{0, 2}, DType: device.F32,
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("config %+v, want %+v", c, want)
	}
	c, err = parseGGUF(t, ggufWith("llama.attention.head_count_kv", nil, "llama.rope.freq_base", nil, "llama.vocab_size", nil,
		"llama.attention.key_length", uint32(32), "llama.attention.value_length", uint32(32), "llama.rope.dimension_count", uint64(32)),
		embedding, f32Tensor("output.weight", 3, 64), f32Tensor("blk.0.attn_q.bias", 128), f32Tensor("blk.0.attn_output.bias", 64),
		f32Tensor("blk.0.ffn_gate.bias", 96))
	if err != nil {
		t.Fatal(err)
	}
	if c.KVHeads != 4 || c.HeadDim != 32 || c.Rope.Theta != 10000 || c.Vocab != 3 || c.Tied || !c.QKVBias || !c.OutputBias || !c.MLPBias {
		t.Errorf("config %+v", c)
	}
}

func TestConfigFromGGUFRope(t *testing.T) {
	divisors := f32Tensor("rope_freqs.weight", 8)
	divisors.Data = gguftest.Encode(device.F32, []float32{1, 1, 1, 2, 4, 8, 8, 8})
	yarn := model.Rope{
		Kind: model.RopeYarn, Theta: 5e5, Factor: 4, OriginalContext: 128, BetaFast: 32, BetaSlow: 1, Truncate: true,
		AttentionFactor: 0.1*math.Log(4) + 1,
	}
	for _, c := range []struct {
		name    string
		change  []any
		tensors []gguftest.Tensor
		want    model.Rope
	}{
		{"none", []any{"llama.rope.scaling.type", "none", "llama.rope.scaling.factor", float32(4)}, nil, model.Rope{Theta: 5e5}},
		{"linear", []any{"llama.rope.scaling.type", "linear", "llama.rope.scaling.factor", float32(4)}, nil, model.Rope{Kind: model.RopeLinear, Theta: 5e5, Factor: 4}},
		{"linear, older", []any{"llama.rope.scale_linear", float32(4)}, nil, model.Rope{Kind: model.RopeLinear, Theta: 5e5, Factor: 4}},
		{"yarn", []any{"llama.rope.scaling.type", "yarn", "llama.rope.scaling.factor", float32(4), "llama.rope.scaling.original_context_length", uint32(128),
			"llama.rope.scaling.finetuned", true}, nil, yarn},
		{"divided", nil, []gguftest.Tensor{divisors}, model.Rope{Kind: model.RopeDivided, Theta: 5e5, Divisors: []float32{1, 1, 1, 2, 4, 8, 8, 8}}},
	} {
		got, err := parseGGUF(t, ggufWith(c.change...), append(c.tensors, f32Tensor("token_embd.weight", 3, 64))...)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if !reflect.DeepEqual(got.Rope, c.want) {
			t.Errorf("%s: rope %+v, want %+v", c.name, got.Rope, c.want)
		}
	}
}

func TestConfigFromGGUFRefuses(t *testing.T) {
	shortDivisors, zeroDivisors := f32Tensor("rope_freqs.weight", 7), f32Tensor("rope_freqs.weight", 8)
	for _, c := range []struct {
		name    string
		change  []any
		tensors []gguftest.Tensor
		want    string
	}{
		{"no architecture", []any{"general.architecture", nil}, nil, "general.architecture: missing"},
		{"architecture a number", []any{"general.architecture", uint32(1)}, nil, "general.architecture: UINT32 1, want a text"},
		{"another architecture", []any{"general.architecture", "qwen2"}, nil, `"qwen2"; llama is supported`},
		{"an adapter", []any{"general.type", "adapter"}, nil, "general.type: adapter is not supported"},
		{"split", []any{"split.count", uint32(3)}, nil, "split.count: 3, want 1"},
		{"no layers", []any{"llama.block_count", nil}, nil, "llama.block_count: missing"},
		{"0 layers", []any{"llama.block_count", uint32(0)}, nil, "llama.block_count: UINT32 0, want an integer from 1 to 1024"},
		{"2^31 layers", []any{"llama.block_count", uint32(1 << 31)}, nil, "llama.block_count: UINT32 2147483648"},
		{"negative dimension", []any{"llama.embedding_length", int32(-64)}, nil, "llama.embedding_length: INT32 below 0"},
		{"dimension a float", []any{"llama.embedding_length", float32(64)}, nil, "llama.embedding_length: FLOAT32 64, want an integer"},
		{"dimension no multiple of heads", []any{"llama.embedding_length", uint32(66)}, nil, "llama.embedding_length: 66 for 4 heads"},
		{"heads by layer", []any{"llama.attention.head_count", []int32{4, 4}}, nil, "llama.attention.head_count: ARRAY of 2 INT32, want an integer"},
		{"heads no multiple of KV heads", []any{"llama.attention.head_count_kv", uint32(3)}, nil, "4 heads, want a multiple of the 3"},
		{"eps 0", []any{"llama.attention.layer_norm_rms_epsilon", float32(0)}, nil, "epsilon: FLOAT32 0, want a number"},
		{"eps NaN", []any{"llama.attention.layer_norm_rms_epsilon", float32(math.NaN())}, nil, "epsilon: FLOAT32 NaN, want a number"},
		{"eps missing", []any{"llama.attention.layer_norm_rms_epsilon", nil}, nil, "epsilon: missing"},
		{"partial rotation", []any{"llama.rope.dimension_count", uint32(8)}, nil, "llama.rope.dimension_count: 8 is not supported, want the head dimension 16"},
		{"values of another size", []any{"llama.attention.value_length", uint32(8)}, nil, "llama.attention.value_length: 8"},
		{"vocabulary lies", []any{"llama.vocab_size", uint32(4)}, nil, "llama.vocab_size: 4, but tensor token_embd.weight has 3 rows"},
		{"experts", []any{"llama.expert_count", uint32(8)}, nil, "llama.expert_count: UINT32 8 is not supported"},
		{"sliding window", []any{"llama.attention.sliding_window", uint32(4096)}, nil, "llama.attention.sliding_window: UINT32 4096"},
		{"not causal", []any{"llama.attention.causal", false}, nil, "llama.attention.causal: false is not supported"},
		{"unknown key", []any{"llama.attention.clamp_kqv", float32(8)}, nil, "llama.attention.clamp_kqv: FLOAT32 8: unknown key"},
		{"unknown rope", []any{"llama.rope.scaling.type", "longrope"}, nil, `llama.rope.scaling.type: "longrope" is not supported`},
		{"rope type a number", []any{"llama.rope.scaling.type", uint32(1)}, nil, "llama.rope.scaling.type: UINT32 1, want a text"},
		{"rope factor negative", []any{"llama.rope.scaling.type", "linear", "llama.rope.scaling.factor", float32(-1)}, nil, "llama.rope.scaling.factor: FLOAT32 -1"},
		{"scaled attention without yarn", []any{"llama.rope.scaling.attn_factor", float32(2)}, nil, "llama.rope.scaling.attn_factor: 2 is not supported without yarn"},
		{"divisors beside linear", []any{"llama.rope.scaling.type", "linear"}, []gguftest.Tensor{f32Tensor("rope_freqs.weight", 8)}, "linear is not supported beside tensor rope_freqs.weight"},
		{"too few divisors", nil, []gguftest.Tensor{shortDivisors}, "tensor rope_freqs.weight: F32 [7], want F32 [8]"},
		{"divisors of 0", nil, []gguftest.Tensor{zeroDivisors}, "divisor 0 is 0, want it from"},
		{"end token too large", []any{"tokenizer.ggml.eos_token_id", uint32(3)}, nil, "end token 3, want less than the vocabulary's 3"},
		{"end token negative", []any{"tokenizer.ggml.eos_token_id", int32(-1)}, nil, "tokenizer.ggml.eos_token_id: INT32 below 0, want a token id"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseGGUF(t, ggufWith(c.change...), append(c.tensors, f32Tensor("token_embd.weight", 3, 64))...)
			if err == nil {
				t.Fatalf("accepted as %+v, want an error that says %q", got, c.want)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q, want it to say %q", err, c.want)
			}
		})
	}
	if _, err := parseGGUF(t, ggufWith()); err == nil || !strings.Contains(err.Error(), "tensor token_embd.weight: missing") {
		t.Errorf("no embedding: %v", err)
	}
	if _, err := parseGGUF(t, ggufWith("general.architecture", "gemma2")); !errors.Is(err, model.ErrUnsupported) {
		t.Errorf("another architecture: %v", err)
	}
}

func FuzzConfigFromGGUF(f *testing.F) {
	divisors := f32Tensor("rope_freqs.weight", 8)
	f.Add(gguftest.File(ggufWith(), f32Tensor("token_embd.weight", 3, 64)))
	f.Add(gguftest.File(ggufWith("llama.rope.scaling.type", "yarn"), f32Tensor("token_embd.weight", 3, 64), f32Tensor("output.weight", 3, 64)))
	f.Add(gguftest.File(ggufWith(), divisors, f32Tensor("token_embd.weight", 3, 64)))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := gguf.New("test.gguf", bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		c, err := model.ConfigFromGGUF(file)
		if err != nil {
			return
		}
		if c.Heads%c.KVHeads != 0 || c.HeadDim%2 != 0 || c.Dim < 1 || c.Layers < 1 || !(c.Epsilon > 0) || c.Vocab < 1 || c.Context < 1 {
			t.Fatalf("accepted %+v", c)
		}
		freq, scale := c.Rope.Frequencies(c.HeadDim)
		for _, v := range append(freq, scale) {
			if !(v >= 0) || math.IsInf(float64(v), 0) {
				t.Fatalf("accepted %+v, whose frequencies are %v", c, freq)
			}
		}
	})
}

func TestGenerationFromGGUF(t *testing.T) {
	read := func(keyValues ...any) (model.GenerationDefaults, error) {
		data := gguftest.File(keyValues)
		f, err := gguf.New("test.gguf", bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		return model.GenerationFromGGUF(f.Metadata())
	}
	for _, c := range []struct {
		keys []any
		want model.GenerationDefaults
	}{
		{nil, model.GenerationDefaults{}},
		{
			[]any{
				"general.sampling.temp", float32(0.5), "general.sampling.top_k", int32(40), "general.sampling.top_p", float32(0.75),
				"general.sampling.min_p", float32(0.25), "general.sampling.penalty_repeat", float32(1.5), "general.sampling.penalty_last_n", int32(64),
				"general.sampling.mirostat", int32(2), // ignored, as unknown samplers are
			},
			model.GenerationDefaults{
				Temperature: new(0.5), TopK: new(40), TopP: new(0.75), MinP: new(0.25), RepetitionPenalty: new(1.5), PenaltyWindow: new(64),
			},
		},
		{[]any{"general.sampling.penalty_repeat", float32(1.5), "general.sampling.penalty_last_n", int32(-1)},
			model.GenerationDefaults{RepetitionPenalty: new(1.5), PenaltyWindow: new(0)}},
		{[]any{"general.sampling.penalty_repeat", float32(1.5), "general.sampling.penalty_last_n", int32(0)}, model.GenerationDefaults{}},
		{[]any{"general.sampling.top_k", int32(-1)}, model.GenerationDefaults{TopK: new(0)}},
	} {
		if got, err := read(c.keys...); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v: %+v, %v, want %+v", c.keys, got, err, c.want)
		}
	}
	for want, keys := range map[string][]any{
		"general.sampling.temp: FLOAT32 -1, want a number from 0 to 100":                                     {"general.sampling.temp", float32(-1)},
		"general.sampling.temp: FLOAT32 NaN":                                                                 {"general.sampling.temp", float32(math.NaN())},
		`general.sampling.top_p: "all", want a number from 0 to 1`:                                           {"general.sampling.top_p", "all"},
		"general.sampling.top_k: FLOAT32 4, want a whole number up to 2147483647":                            {"general.sampling.top_k", float32(4)},
		"general.sampling.penalty_last_n: UINT64 18446744073709551615, want a whole number up to 2147483647": {"general.sampling.penalty_last_n", uint64(math.MaxUint64)},
	} {
		if got, err := read(keys...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %+v, %v, want an error that says %q", keys, got, err, want)
		}
	}
}
