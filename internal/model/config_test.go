package model_test

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/model"
)

// good is a config in the newer spelling, one member a line.
const good = `{
"architectures": ["LlamaForCausalLM"],
"model_type": "llama",
"hidden_size": 64,
"intermediate_size": 160,
"num_hidden_layers": 3,
"num_attention_heads": 4,
"num_key_value_heads": 2,
"head_dim": 32,
"hidden_act": "silu",
"vocab_size": 320,
"max_position_embeddings": 512,
"rms_norm_eps": 1e-05,
"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
"tie_word_embeddings": false,
"attention_bias": false,
"mlp_bias": false,
"pretraining_tp": 1,
"bos_token_id": 1,
"eos_token_id": [2, 3, 2],
"dtype": "bfloat16",
"use_cache": true,
"auto_map": {"AutoModel": "evil.py"},
"transformers_version": "5.17.0"
}`

// with replaces the line of a key of good, or adds it; "" removes it.
func with(t testing.TB, key, value string) string {
	t.Helper()
	lines := strings.Split(good, "\n")
	i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, `"`+key+`":`) })
	switch {
	case value == "" && i < 0:
		t.Fatalf("no key %s to remove", key)
	case value == "":
		lines = slices.Delete(lines, i, i+1)
	case i < 0:
		lines = slices.Insert(lines, 1, `"`+key+`": `+value+`,`)
	default:
		lines[i] = `"` + key + `": ` + value + `,`
	}
	last := len(lines) - 2
	lines[last] = strings.TrimSuffix(lines[last], ",")
	return strings.Join(lines, "\n")
}

func TestParseConfig(t *testing.T) {
	c, err := model.ParseConfig([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	want := &model.Config{
		Architecture: "llama", Dim: 64, Layers: 3, Heads: 4, KVHeads: 2, HeadDim: 32, FFNDim: 160, Vocab: 320, Epsilon: 1e-5,
		Rope: model.Rope{Theta: 10000}, Context: 512, BOS: 1, EOS: []int32{2, 3}, DType: device.BF16,
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("config %+v, want %+v", c, want)
	}
}

func TestParseConfigDefaults(t *testing.T) {
	c, err := model.ParseConfig([]byte(`{"model_type":"llama","hidden_size":64,"intermediate_size":160,"num_hidden_layers":3,
		"num_attention_heads":4,"vocab_size":320,"max_position_embeddings":512,"rms_norm_eps":1e-6,"head_dim":null,"eos_token_id":null}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.KVHeads != 4 || c.HeadDim != 16 || c.Rope.Theta != 10000 || c.BOS != -1 || c.EOS != nil || c.DType != 0 || c.Tied || c.QKVBias || c.MLPBias {
		t.Errorf("config %+v", c)
	}
}

func TestParseConfigRope(t *testing.T) {
	llama3 := model.Rope{Kind: model.RopeLlama3, Theta: 500000, Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OriginalContext: 32}
	yarn := model.Rope{
		Kind: model.RopeYarn, Theta: 10000, Factor: 4, OriginalContext: 32, BetaFast: 32, BetaSlow: 1, Truncate: true,
		AttentionFactor: 0.1*math.Log(4) + 1,
	}
	yarnWith := func(change func(*model.Rope)) model.Rope {
		r := yarn
		change(&r)
		return r
	}
	for _, c := range []struct {
		name, parameters string // members of rope_parameters, or of the whole config
		want             model.Rope
	}{
		{"newer", `"rope_parameters":{"rope_type":"llama3","rope_theta":500000.0,"factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":32}`, llama3},
		{"older", `"rope_theta":500000.0,"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":32}`, llama3},
		{"oldest", `"rope_theta":5e5,"rope_scaling":{"type":"linear","factor":2}`, model.Rope{Kind: model.RopeLinear, Theta: 500000, Factor: 2}},
		{"both spellings of the type", `"rope_scaling":{"type":"linear","rope_type":"linear","factor":2}`, model.Rope{Kind: model.RopeLinear, Theta: 10000, Factor: 2}},
		{"null", `"rope_theta":500000,"rope_scaling":null`, model.Rope{Theta: 500000}},
		{"yarn", `"rope_parameters":{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":32}`, yarn},
		{"yarn of the whole context", `"rope_parameters":{"rope_type":"yarn","factor":4.0}`, yarnWith(func(r *model.Rope) { r.OriginalContext = 512 })},
		{"yarn in full", `"rope_parameters":{"rope_type":"yarn","rope_theta":10000,"factor":4.0,"original_max_position_embeddings":32,"attention_factor":1.5,"beta_fast":16,"beta_slow":2,"truncate":false,"mscale":null}`,
			yarnWith(func(r *model.Rope) { r.AttentionFactor, r.BetaFast, r.BetaSlow, r.Truncate = 1.5, 16, 2, false })},
		{"yarn with two scales", `"rope_parameters":{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":32,"mscale":0.5,"mscale_all_dim":2.0}`,
			yarnWith(func(r *model.Rope) { r.AttentionFactor = (0.05*math.Log(4) + 1) / (0.2*math.Log(4) + 1) })},
		{"yarn with one scale, which says nothing", `"rope_parameters":{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":32,"mscale":0.5}`, yarn},
	} {
		text := strings.Replace(good, `"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}`, c.parameters, 1)
		got, err := model.ParseConfig([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if math.Abs(got.Rope.AttentionFactor-c.want.AttentionFactor) < 1e-12 {
			got.Rope.AttentionFactor = c.want.AttentionFactor
		}
		if !reflect.DeepEqual(got.Rope, c.want) {
			t.Errorf("%s: rope %+v, want %+v", c.name, got.Rope, c.want)
		}
	}
}

func TestParseConfigRefuses(t *testing.T) {
	rope := func(text string) string { return with(t, "rope_parameters", text) }
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", "the text ends"},
		{"not an object", "[]", "an array, want an object"},
		{"rest", good + "x", "text after the value"},
		{"too long", good + strings.Repeat(" ", 1<<20), "want at most 1048576"},
		{"too deep", with(t, "auto_map", strings.Repeat("[", 10_000)), "nested deeper than 64"},
		{"duplicate key", with(t, "hidden_size", `64, "hidden_size": 128`), `duplicate key "hidden_size"`},
		{"duplicate key within", rope(`{"rope_type":"linear","factor":2,"factor":4}`), `rope_parameters: offset`},
		{"case variant", with(t, "Hidden_Size", "128"), `"Hidden_Size": 128: unknown key`},
		{"no model_type", with(t, "model_type", ""), "model_type: missing"},
		{"model_type a number", with(t, "model_type", "5"), "model_type: 5, want a text"},
		{"no hidden_size", with(t, "hidden_size", ""), "hidden_size: missing"},
		{"hidden_size null", with(t, "hidden_size", "null"), "hidden_size: missing"},
		{"hidden_size 0", with(t, "hidden_size", "0"), "hidden_size: 0, want an integer from 1"},
		{"hidden_size negative", with(t, "hidden_size", "-64"), "hidden_size: -64, want"},
		{"hidden_size text", with(t, "hidden_size", `"64"`), `hidden_size: "64", want an integer`},
		{"hidden_size fraction", with(t, "hidden_size", "64.5"), "hidden_size: 64.5, want an integer"},
		{"hidden_size overflow", with(t, "hidden_size", "18446744073709551680"), "hidden_size: 18446744073709551680, want"},
		{"2^31 layers", with(t, "num_hidden_layers", "2147483648"), "num_hidden_layers: 2147483648, want an integer from 1 to 1024"},
		{"no heads", with(t, "num_attention_heads", "0"), "num_attention_heads: 0, want"},
		{"heads no multiple of KV heads", with(t, "num_key_value_heads", "3"), "4 heads, want a multiple of the 3 KV heads"},
		{"hidden_size no multiple of heads", strings.Replace(with(t, "hidden_size", "65"), `"head_dim": 32,`, "", 1), "hidden_size: 65, want a multiple of num_attention_heads 4"},
		{"odd head_dim", with(t, "head_dim", "31"), "head dimension 31, want an even number"},
		{"too many columns", strings.Replace(with(t, "num_attention_heads", "4096"), `"head_dim": 32`, `"head_dim": 1024`, 1), "4096 heads of 1024 are 4194304 columns"},
		{"eps NaN", with(t, "rms_norm_eps", "NaN"), "rms_norm_eps: offset"},
		{"eps 0", with(t, "rms_norm_eps", "0"), "rms_norm_eps: 0, want a number from 1e-12 to 1"},
		{"eps infinite", with(t, "rms_norm_eps", "1e999"), "rms_norm_eps: 1e999, want"},
		{"eps missing", with(t, "rms_norm_eps", ""), "rms_norm_eps: missing"},
		{"another activation", with(t, "hidden_act", `"gelu"`), `hidden_act: "gelu" is not supported, want "silu"`},
		{"another head", with(t, "architectures", `["LlamaForSequenceClassification"]`), `architectures: ["LlamaForSequenceClassification"] is not supported`},
		{"sliding window", with(t, "sliding_window", "4096"), "sliding_window: 4096 is not supported, want null"},
		{"partial rotation", with(t, "partial_rotary_factor", "0.5"), "partial_rotary_factor: 0.5 is not supported"},
		{"interleaved rope", with(t, "rope_interleaved", "true"), "rope_interleaved: true is not supported"},
		{"slices of tensors", with(t, "pretraining_tp", "2"), "pretraining_tp: 2 is not supported"},
		{"quantised by others", with(t, "quantization_config", `{"quant_method":"awq"}`), `quantization_config: {"quant_method": "awq"} is not supported`},
		{"attention multiplier", with(t, "attention_multiplier", "0.5"), `"attention_multiplier": 0.5: unknown key`},
		{"softcapping", with(t, "final_logit_softcapping", "30.0"), `"final_logit_softcapping": 30.0: unknown key`},
		{"unknown key with a newline", with(t, `a\nERROR`, "1"), `"a\nERROR": 1: unknown key`},
		{"bias of another kind", with(t, "attention_bias", `"yes"`), `attention_bias: "yes", want true or false`},
		{"begin token too large", with(t, "bos_token_id", "320"), "begin token 320, want less than the vocabulary's 320"},
		{"two begin tokens", with(t, "bos_token_id", "[1, 2]"), "bos_token_id: 2 ids, want one"},
		{"end token too large", with(t, "eos_token_id", "[2, 320]"), "end token 320"},
		{"end token negative", with(t, "eos_token_id", "-1"), "eos_token_id: -1, want a token id"},
		{"end token text", with(t, "eos_token_id", `["</s>"]`), `eos_token_id: ["</s>"], want a token id`},
		{"unknown dtype", with(t, "dtype", `"float8_e4m3fn"`), `dtype: "float8_e4m3fn", want float32, float16 or bfloat16`},
		{"two dtypes", with(t, "torch_dtype", `"float32"`), `dtype: "bfloat16", but torch_dtype is "float32"`},
		{"unknown rope", rope(`{"rope_type":"longrope","factor":2}`), `rope_parameters.rope_type: "longrope" is not supported`},
		{"two ropes", with(t, "rope_theta", "500000"), "rope_theta: given beside rope_parameters"},
		{"rope of layers", rope(`{"full_attention":{"rope_type":"default"}}`), `rope_parameters."full_attention"`},
		{"rope a text", rope(`"linear"`), `rope_parameters: "linear", want an object`},
		{"rope without factor", rope(`{"rope_type":"linear"}`), "rope_parameters.factor: missing"},
		{"rope factor 0", rope(`{"rope_type":"linear","factor":0}`), "rope_parameters.factor: 0, want a number from 1"},
		{"rope theta 0", rope(`{"rope_type":"default","rope_theta":0}`), "rope_parameters.rope_theta: 0, want"},
		{"rope key of another kind", rope(`{"rope_type":"linear","factor":2,"beta_fast":32}`), `rope_parameters."beta_fast": 32: unknown key`},
		{"llama3 without its context", rope(`{"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4}`), "rope_parameters.original_max_position_embeddings: missing"},
		{"llama3 with equal factors", rope(`{"rope_type":"llama3","factor":8,"low_freq_factor":4,"high_freq_factor":4,"original_max_position_embeddings":32}`), "high_freq_factor 4, want more than low_freq_factor 4"},
		{"yarn with its ends swapped", rope(`{"rope_type":"yarn","factor":8,"beta_fast":1,"beta_slow":32}`), "beta_fast 1, want more than beta_slow 32"},
		{"partial rotation within", rope(`{"rope_type":"default","partial_rotary_factor":0.25}`), "rope_parameters.partial_rotary_factor: 0.25"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := model.ParseConfig([]byte(c.text))
			if err == nil {
				t.Fatalf("accepted as %+v, want an error that says %q", got, c.want)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q, want it to say %q", err, c.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q has more than a line", err)
			}
		})
	}
}

func TestParseConfigReportsAllFaultsAtOnce(t *testing.T) {
	text := strings.NewReplacer(`"hidden_size": 64`, `"hidden_size": 0`, `"silu"`, `"gelu"`, `"use_cache"`, `"logit_scale"`).Replace(good)
	_, err := model.ParseConfig([]byte(text))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"hidden_size: 0", `hidden_act: "gelu"`, `"logit_scale": true`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
}

func TestOtherArchitecturesAreRefusedByName(t *testing.T) {
	for _, name := range []string{"mistral", "qwen2", "qwen3", "granite", "smollm3", "phi3", "gemma2", "gemma3_text", "olmo2", "Llama", "llama4"} {
		_, err := model.ParseConfig([]byte(with(t, "model_type", `"`+name+`"`)))
		if !errors.Is(err, model.ErrUnsupported) || !strings.Contains(err.Error(), `"`+name+`"`) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOtherFamiliesOfTheFixturesAreRefused(t *testing.T) {
	for dir, name := range map[string]string{
		"mistral-window": "mistral", "qwen2": "qwen2", "qwen3": "qwen3", "granite": "granite", "smollm3": "smollm3", "phi3": "phi3",
		"gemma2": "gemma2", "gemma3": "gemma3_text", "olmo2": "olmo2",
	} {
		c, err := model.Open(fixture(t, "models", dir))
		if err == nil {
			t.Errorf("%s: opened as %+v", dir, c.Config)
			continue
		}
		if !errors.Is(err, model.ErrUnsupported) || !strings.Contains(err.Error(), `"`+name+`"`) || !strings.Contains(err.Error(), "config.json") {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func fixture(t testing.TB, elements ...string) string {
	t.Helper()
	root := os.Getenv("INFERNO_FIXTURES")
	if root == "" {
		root = filepath.Join("..", "..", "..", "shared", "fixtures")
	}
	path := filepath.Join(append([]string{root}, elements...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no fixtures (INFERNO_FIXTURES): %v", err)
	}
	return path
}

func TestParseGenerationConfig(t *testing.T) {
	d, err := model.ParseGenerationConfig([]byte(`{"_from_model_config":true,"bos_token_id":1,"eos_token_id":[128009,128001],"do_sample":true,
		"temperature":0.6,"top_k":50,"top_p":0.9,"min_p":0.05,"typical_p":0.7,"repetition_penalty":1.1,"transformers_version":"5.17.0"}`))
	if err != nil {
		t.Fatal(err)
	}
	if !*d.DoSample || *d.Temperature != 0.6 || *d.TopK != 50 || *d.TopP != 0.9 || *d.MinP != 0.05 || *d.TypicalP != 0.7 || *d.RepetitionPenalty != 1.1 ||
		!slices.Equal(d.EOS, []int32{128001, 128009}) {
		t.Errorf("defaults %+v", d)
	}
	d, err = model.ParseGenerationConfig([]byte(`{"eos_token_id":2,"top_k":null}`))
	if err != nil || !reflect.DeepEqual(d, model.GenerationDefaults{EOS: []int32{2}}) {
		t.Errorf("defaults %+v, %v", d, err)
	}
	for text, want := range map[string]string{
		`{"temperature":-1}`:    "temperature: -1, want",
		`{"temperature":"hot"}`: `temperature: "hot", want`,
		`{"top_p":1.5}`:         "top_p: 1.5, want a number from 0 to 1",
		`{"top_k":-2}`:          "top_k: -2, want",
		`{"do_sample":1}`:       "do_sample: 1, want true or false",
		`{"eos_token_id":{}}`:   "eos_token_id: {}, want",
		`{"eos_token_id":2,"top_p":1,"eos_token_id":3}`: "duplicate key",
		`[]`: "an array, want an object",
	} {
		if d, err := model.ParseGenerationConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v; want an error that says %q", text, d, err, want)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(strings.Replace(good, `"rope_type": "default"`, `"rope_type": "yarn", "factor": 4`, 1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := model.ParseConfig(data)
		if err != nil {
			return
		}
		if c.Heads%c.KVHeads != 0 || c.HeadDim%2 != 0 || c.Dim < 1 || c.Layers < 1 || !(c.Epsilon > 0) || c.Vocab < 1 || c.Context < 1 {
			t.Fatalf("accepted %q as %+v", data, c)
		}
		freq, scale := c.Rope.Frequencies(c.HeadDim)
		for _, v := range append(freq, scale) {
			if !(v >= 0) || math.IsInf(float64(v), 0) {
				t.Fatalf("accepted %q, whose frequencies are %v", data, freq)
			}
		}
	})
}
