package model

import (
	"fmt"
	"math"
	"slices"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

// maxConfigBytes bounds config.json and generation_config.json.
const maxConfigBytes = 1 << 20

// ParseConfig reads a Hugging Face config.json of at most 1 MiB. Keys that change the arithmetic and are not computed here, and keys that
// are not known, are errors that name key and value: a model is run as it was made, or not at all.
func ParseConfig(data []byte) (*Config, error) {
	if len(data) > maxConfigBytes {
		return nil, fmt.Errorf("%d bytes, want at most %d", len(data), maxConfigBytes)
	}
	root, err := strictjson.Parse(data)
	if err != nil {
		return nil, err
	}
	if root.Kind != strictjson.Object {
		return nil, fmt.Errorf("%v, want an object", root.Kind)
	}
	f := &faults{}
	k := newKeys(root, "", f)
	architecture := k.text("model_type", "")
	if architecture != "llama" {
		if err := f.err(); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("model_type: %w %.100q; llama is supported", ErrUnsupported, architecture)
	}
	c := k.llama()
	c.Architecture = architecture
	k.finish()
	c.check(f)
	if err := f.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// harmless are keys of config.json that say nothing about the forward pass: how a model was trained, saved or is generated with, and
// where Python code for it lies, which is never run.
var harmless = []string{
	"_name_or_path", "transformers_version", "auto_map", "transformers.js_config", "unsloth_version", "unsloth_fixed", "is_llama_config",
	"use_cache", "initializer_range", "attention_dropout", "hidden_dropout", "pad_token_id", "sep_token_id", "decoder_start_token_id",
	"attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "_flash_attn_2_enabled", "use_flash_attn",
	"tokenizer_class", "task_specific_params", "problem_type", "finetuning_task", "id2label", "label2id", "num_labels", "prefix",
	"return_dict", "return_dict_in_generate", "output_attentions", "output_hidden_states", "output_scores", "torchscript", "tf_legacy_loss",
	"gradient_checkpointing", "chunk_size_feed_forward", "tie_encoder_decoder", "use_bfloat16", "ignore_index",
	"max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k",
	"top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids",
	"num_return_sequences", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens",
	"forced_bos_token_id", "forced_eos_token_id",
}

// llama reads the keys of transformers' LlamaConfig, with its defaults.
func (k *keys) llama() *Config {
	c := &Config{
		Dim:     k.integer("hidden_size", 1, maxDim, required),
		Layers:  k.integer("num_hidden_layers", 1, maxLayers, required),
		Heads:   k.integer("num_attention_heads", 1, maxHeads, required),
		FFNDim:  k.integer("intermediate_size", 1, maxDim, required),
		Vocab:   k.integer("vocab_size", 1, maxVocab, required),
		Context: k.integer("max_position_embeddings", 1, maxContext, required),
		Epsilon: float32(k.number("rms_norm_eps", 1e-12, 1, math.NaN())),
		Tied:    k.boolean("tie_word_embeddings", false),
		BOS:     -1,
	}
	c.KVHeads = k.integer("num_key_value_heads", 1, maxHeads, c.Heads)
	c.HeadDim = k.headDim(c)
	c.QKVBias = k.boolean("attention_bias", false)
	c.OutputBias = c.QKVBias
	c.MLPBias = k.boolean("mlp_bias", false)
	if bos := k.ids("bos_token_id"); len(bos) == 1 {
		c.BOS = bos[0]
	} else if len(bos) > 1 {
		k.faults.addf("bos_token_id: %d ids, want one", len(bos))
	}
	c.EOS = k.ids("eos_token_id")
	c.DType = k.dtype()
	c.Rope = k.rope(c.Context)

	k.only("architectures", `["LlamaForCausalLM"]`)
	k.only("hidden_act", `"silu"`)
	k.only("pretraining_tp", "1")
	k.only("partial_rotary_factor", "1", "1.0")
	k.only("rope_interleaved", "false")
	k.only("is_decoder", "false", "true")
	k.only("is_encoder_decoder", "false")
	k.only("add_cross_attention", "false")
	k.only("cross_attention_hidden_size")
	k.only("pruned_heads", "{}")
	k.only("sliding_window")
	k.only("use_sliding_window", "false")
	k.only("quantization_config")
	k.ignore(harmless...)
	return c
}

// headDim is d/h unless it is given.
func (k *keys) headDim(c *Config) int {
	given := k.integer("head_dim", 1, maxHeadDim, 0)
	if given > 0 || c.Heads == 0 || c.Dim == 0 {
		return given
	}
	if c.Dim%c.Heads != 0 {
		k.faults.addf("hidden_size: %d, want a multiple of num_attention_heads %d where head_dim is absent", c.Dim, c.Heads)
		return 0
	}
	if n := c.Dim / c.Heads; n <= maxHeadDim {
		return n
	}
	k.faults.addf("hidden_size: %d for %d heads, want heads of at most %d", c.Dim, c.Heads, maxHeadDim)
	return 0
}

// dtype reads the newer or the older spelling.
func (k *keys) dtype() device.DType {
	key := k.oneOf("dtype", "torch_dtype")
	switch name := k.text(key, "none"); name {
	case "float32":
		return device.F32
	case "float16":
		return device.F16
	case "bfloat16":
		return device.BF16
	case "none", "auto":
		return 0
	default:
		k.faults.addf("%s: %.100q, want float32, float16 or bfloat16", key, name)
		return 0
	}
}

// rope reads rope_parameters (transformers 5), or rope_theta and rope_scaling (before).
func (k *keys) rope(context int) Rope {
	const defaultTheta = 10000
	if k.has("rope_parameters") {
		for _, old := range []string{"rope_theta", "rope_scaling"} {
			if k.has(old) {
				k.faults.addf("%s: given beside rope_parameters, want one of the two spellings", old)
				k.ignore(old)
			}
		}
		return k.object("rope_parameters").ropeParameters(context, defaultTheta)
	}
	theta := k.number("rope_theta", 1, maxTheta, defaultTheta)
	if !k.has("rope_scaling") {
		k.ignore("rope_scaling", "rope_parameters")
		return Rope{Kind: RopeNone, Theta: theta}
	}
	return k.object("rope_scaling").ropeParameters(context, theta)
}

const (
	maxTheta      = 1e15
	maxRopeFactor = 1e6
)

// ropeParameters reads one object of rope keys; the formulas that they feed, and the defaults, are those of transformers'
// modeling_rope_utils.py.
func (k *keys) ropeParameters(context int, theta float64) Rope {
	r := Rope{Theta: k.number("rope_theta", 1, maxTheta, theta)}
	kind := k.text(k.oneOf("rope_type", "type"), "default")
	switch kind {
	case "default":
	case "linear":
		r.Kind = RopeLinear
		r.Factor = k.number("factor", 1, maxRopeFactor, math.NaN())
	case "llama3":
		r.Kind = RopeLlama3
		r.Factor = k.number("factor", 1, maxRopeFactor, math.NaN())
		r.LowFreqFactor = k.number("low_freq_factor", 1e-6, maxRopeFactor, math.NaN())
		r.HighFreqFactor = k.number("high_freq_factor", 1e-6, maxRopeFactor, math.NaN())
		r.OriginalContext = k.integer("original_max_position_embeddings", 1, maxContext, required)
	case "yarn":
		k.yarn(&r, context)
	default:
		k.faults.addf("%srope_type: %.100q is not supported; default, linear, llama3 and yarn are", k.prefix, kind)
		k.ignoreAll()
		return r
	}
	k.only("partial_rotary_factor", "1", "1.0")
	k.finish()
	return r
}

func (k *keys) yarn(r *Rope, context int) {
	r.Kind = RopeYarn
	r.Factor = k.number("factor", 1, maxRopeFactor, math.NaN())
	r.OriginalContext = k.integer("original_max_position_embeddings", 1, maxContext, context)
	r.BetaFast = k.number("beta_fast", 1e-6, maxRopeFactor, 32)
	r.BetaSlow = k.number("beta_slow", 1e-6, maxRopeFactor, 1)
	r.Truncate = k.boolean("truncate", true)
	mscale, all := k.number("mscale", 0, 100, 0), k.number("mscale_all_dim", 0, 100, 0)
	r.AttentionFactor = yarnScale(r.Factor, 1)
	if mscale > 0 && all > 0 {
		r.AttentionFactor = yarnScale(r.Factor, mscale) / yarnScale(r.Factor, all)
	}
	r.AttentionFactor = k.number("attention_factor", 1e-6, 1e6, r.AttentionFactor)
	k.ignore("finetuned")
}

// ParseGenerationConfig reads a generation_config.json of at most 1 MiB. Keys that are not known are ignored: they concern Python's
// generate and not the model.
func ParseGenerationConfig(data []byte) (GenerationDefaults, error) {
	if len(data) > maxConfigBytes {
		return GenerationDefaults{}, fmt.Errorf("%d bytes, want at most %d", len(data), maxConfigBytes)
	}
	root, err := strictjson.Parse(data)
	if err != nil {
		return GenerationDefaults{}, err
	}
	if root.Kind != strictjson.Object {
		return GenerationDefaults{}, fmt.Errorf("%v, want an object", root.Kind)
	}
	f := &faults{}
	k := newKeys(root, "", f)
	d := GenerationDefaults{EOS: k.ids("eos_token_id")}
	if k.has("do_sample") {
		v := k.boolean("do_sample", false)
		d.DoSample = &v
	}
	if k.has("top_k") {
		v := k.integer("top_k", 0, math.MaxInt32, 0)
		d.TopK = &v
	}
	d.Temperature = k.optional("temperature", 0, 100)
	d.TopP = k.optional("top_p", 0, 1)
	d.MinP = k.optional("min_p", 0, 1)
	d.TypicalP = k.optional("typical_p", 0, 1)
	d.RepetitionPenalty = k.optional("repetition_penalty", 0, 100)
	slices.Sort(d.EOS)
	return d, f.err()
}
