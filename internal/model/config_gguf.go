package model

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/model/gguf"
)

// ropeDivisorsName is the tensor in which llama3's frequencies come: what each of the k/2 is divided by.
const ropeDivisorsName = "rope_freqs.weight"

// ConfigFromGGUF reads the keys of a GGUF file, and of its tensors' names and shapes what the keys do not say. Unknown keys of the
// architecture are errors that name key and value; keys of other namespaces do not change the arithmetic.
func ConfigFromGGUF(file *gguf.File) (*Config, error) {
	f := &faults{}
	k := &ggufKeys{md: file.Metadata(), used: map[string]bool{}, faults: f}
	k.only("general.type", "model")
	if n, ok := k.md.Uint("split.count"); ok && n > 1 {
		f.addf("split.count: %d, want 1: a model split over several GGUF files is not supported", n)
	}
	architecture := k.text("general.architecture")
	if err := f.err(); err != nil {
		return nil, err
	}
	if architecture != "llama" {
		return nil, fmt.Errorf("general.architecture: %w %.100q; llama is supported", ErrUnsupported, architecture)
	}
	c := k.llama(file)
	c.Architecture = architecture
	k.finish("llama.")
	c.check(f)
	if err := f.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// ggufKeys reads key-values by name; faults carry the key and the value.
type ggufKeys struct {
	md     *gguf.Metadata
	used   map[string]bool
	faults *faults
}

func (k *ggufKeys) llama(file *gguf.File) *Config {
	c := &Config{
		Dim:     k.integer("llama.embedding_length", maxDim, required),
		Layers:  k.integer("llama.block_count", maxLayers, required),
		Heads:   k.integer("llama.attention.head_count", maxHeads, required),
		FFNDim:  k.integer("llama.feed_forward_length", maxDim, required),
		Context: k.integer("llama.context_length", maxContext, required),
		Epsilon: float32(k.number("llama.attention.layer_norm_rms_epsilon", 1e-12, 1, math.NaN())),
		Tied:    file.Tensor("output.weight") == nil,
		BOS:     -1,
	}
	c.KVHeads = k.integer("llama.attention.head_count_kv", maxHeads, c.Heads)
	c.HeadDim = k.headDim(c)
	c.Vocab = k.vocab(file)
	c.QKVBias = file.Tensor("blk.0.attn_q.bias") != nil
	c.OutputBias = file.Tensor("blk.0.attn_output.bias") != nil
	c.MLPBias = file.Tensor("blk.0.ffn_gate.bias") != nil
	c.DType = matrixType(file)
	c.Rope = k.rope(c, file)
	if bos := k.ids("tokenizer.ggml.bos_token_id"); len(bos) == 1 {
		c.BOS = bos[0]
	}
	c.EOS = k.ids("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")

	k.only("llama.attention.causal", "true")
	k.only("llama.use_parallel_residual", "false")
	k.only("llama.expert_count", "UINT32 0")
	k.only("llama.expert_used_count", "UINT32 0")
	k.only("llama.attention.sliding_window", "UINT32 0")
	k.only("llama.logit_scale", "FLOAT32 1")
	k.only("llama.embedding_scale", "FLOAT32 1")
	k.only("llama.residual_scale", "FLOAT32 1")
	// Q and K have their rows in the order of neighbours in all files of this architecture, whatever the layout is called.
	k.used["llama.tensor_data_layout"] = true
	return c
}

// headDim is d/h unless a key says otherwise. Keys, values and rotation have one dimension here.
func (k *ggufKeys) headDim(c *Config) int {
	n := k.integer("llama.attention.key_length", maxHeadDim, 0)
	if n == 0 && c.Heads > 0 {
		if c.Dim%c.Heads != 0 || c.Dim/c.Heads > maxHeadDim {
			k.faults.addf("llama.embedding_length: %d for %d heads, want heads of one size of at most %d", c.Dim, c.Heads, maxHeadDim)
			return 0
		}
		n = c.Dim / c.Heads
	}
	for _, key := range []string{"llama.attention.value_length", "llama.rope.dimension_count"} {
		if other := k.integer(key, maxHeadDim, n); other != n {
			k.faults.addf("%s: %d is not supported, want the head dimension %d", key, other, n)
		}
	}
	return n
}

// vocab is the number of rows of the embedding, which the keys must not contradict.
func (k *ggufKeys) vocab(file *gguf.File) int {
	t := file.Tensor("token_embd.weight")
	if t == nil || len(t.Shape) != 2 || t.Shape[0] > maxVocab {
		k.faults.addf("tensor token_embd.weight: missing, or no matrix of at most %d rows", maxVocab)
		return 0
	}
	n := t.Shape[0]
	if said := k.integer("llama.vocab_size", maxVocab, n); said != n {
		k.faults.addf("llama.vocab_size: %d, but tensor token_embd.weight has %d rows", said, n)
	}
	return n
}

// matrixType is the type of the layers' weights, by their first.
func matrixType(file *gguf.File) device.DType {
	if t := file.Tensor("blk.0.attn_q.weight"); t != nil {
		return t.DType
	}
	return 0
}

// rope reads the keys as llama.cpp's llama_model::load_hparams does.
func (k *ggufKeys) rope(c *Config, file *gguf.File) Rope {
	r := Rope{Theta: k.number("llama.rope.freq_base", 1, maxTheta, 10000)}
	kind := "none"
	if k.md.Has("llama.rope.scaling.type") {
		kind = k.text("llama.rope.scaling.type")
	}
	factor := k.number("llama.rope.scaling.factor", 0, maxRopeFactor, 0)
	if k.md.Has("llama.rope.scale_linear") && kind == "none" { // the older spelling
		kind, factor = "linear", k.number("llama.rope.scale_linear", 0, maxRopeFactor, 0)
	}
	if factor == 0 {
		factor = 1
	}
	original := k.integer("llama.rope.scaling.original_context_length", maxContext, c.Context)
	attention := k.number("llama.rope.scaling.attn_factor", 1e-6, 1e6, 1)
	fast := k.number("llama.rope.scaling.yarn_beta_fast", 1e-6, maxRopeFactor, 32)
	slow := k.number("llama.rope.scaling.yarn_beta_slow", 1e-6, maxRopeFactor, 1)
	k.used["llama.rope.scaling.finetuned"] = true
	switch {
	case kind == "none":
	case kind == "linear":
		r.Kind, r.Factor = RopeLinear, factor
	case kind == "yarn":
		r.Kind, r.Factor, r.OriginalContext, r.BetaFast, r.BetaSlow, r.Truncate = RopeYarn, factor, original, fast, slow, true
		r.AttentionFactor = attention * yarnScale(factor, 1)
	default:
		k.faults.addf("llama.rope.scaling.type: %.100q is not supported; none, linear and yarn are", kind)
	}
	if kind != "yarn" && attention != 1 {
		k.faults.addf("llama.rope.scaling.attn_factor: %g is not supported without yarn", attention)
	}
	k.ropeDivisors(&r, c, file)
	return r
}

func (k *ggufKeys) ropeDivisors(r *Rope, c *Config, file *gguf.File) {
	t := file.Tensor(ropeDivisorsName)
	if t == nil {
		return
	}
	if r.Kind != RopeNone {
		k.faults.addf("llama.rope.scaling.type: %v is not supported beside tensor %s", r.Kind, ropeDivisorsName)
		return
	}
	if len(t.Shape) != 1 || t.Shape[0] != c.HeadDim/2 || t.DType != device.F32 {
		k.faults.addf("tensor %s: %v %v, want F32 [%d]", ropeDivisorsName, t.DType, t.Shape, c.HeadDim/2)
		return
	}
	raw := make([]byte, t.Bytes)
	if _, err := t.ReadAt(raw, 0); err != nil {
		k.faults.addf("%w", err)
		return
	}
	r.Kind, r.Divisors = RopeDivided, make([]float32, t.Shape[0])
	decodeFloats(r.Divisors, raw, device.F32)
}

// integer reads a number of 1 to high; 0 where there is a fault.
func (k *ggufKeys) integer(key string, high, absent int) int {
	k.used[key] = true
	if !k.md.Has(key) {
		if absent == required {
			k.faults.addf("%s: missing", key)
			return 0
		}
		return absent
	}
	n, ok := k.md.Uint(key)
	if !ok || n < 1 || n > uint64(high) {
		k.faults.addf("%s: %s, want an integer from 1 to %d", key, k.md.Describe(key), high)
		return 0
	}
	return int(n)
}

// number reads a number of low to high; low where there is a fault.
func (k *ggufKeys) number(key string, low, high, absent float64) float64 {
	k.used[key] = true
	if !k.md.Has(key) {
		if math.IsNaN(absent) {
			k.faults.addf("%s: missing", key)
			return low
		}
		return absent
	}
	n, ok := k.md.Float(key)
	if !ok || !(n >= low && n <= high) {
		k.faults.addf("%s: %s, want a number from %g to %g", key, k.md.Describe(key), low, high)
		return low
	}
	return n
}

func (k *ggufKeys) text(key string) string {
	k.used[key] = true
	s, ok := k.md.String(key)
	switch {
	case !k.md.Has(key):
		k.faults.addf("%s: missing", key)
	case !ok || s == "":
		k.faults.addf("%s: %s, want a text", key, k.md.Describe(key))
	}
	return s
}

// ids reads the token ids of those keys that are there.
func (k *ggufKeys) ids(keys ...string) (all []int32) {
	for _, key := range keys {
		if !k.md.Has(key) {
			continue
		}
		n, ok := k.md.Uint(key)
		if !ok || n >= maxVocab {
			k.faults.addf("%s: %s, want a token id", key, k.md.Describe(key))
			continue
		}
		all = append(all, int32(n))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// only allows a key one value, as Describe writes it; absence is always allowed.
func (k *ggufKeys) only(key, allowed string) {
	k.used[key] = true
	if got := strings.Trim(k.md.Describe(key), `"`); got != "" && got != allowed {
		k.faults.addf("%s: %s is not supported, want %s", key, got, allowed)
	}
}

// finish reports the keys of a namespace that nobody asked for.
func (k *ggufKeys) finish(namespace string) {
	for key := range k.md.Keys() {
		if strings.HasPrefix(key, namespace) && !k.used[key] {
			k.faults.addf("%.100s: %s: %w", key, k.md.Describe(key), errUnknownKey)
		}
	}
}
