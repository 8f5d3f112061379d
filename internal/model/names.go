package model

import "strings"

// ggufNames pairs the names of a llama GGUF file with those of the Hugging Face layout. Layer N of a file is blk.N. there and
// model.layers.N. here.
var ggufNames = [...][2]string{
	{"token_embd", "model.embed_tokens"},
	{"output_norm", "model.norm"},
	{"output", "lm_head"},
}

var ggufLayerNames = [...][2]string{
	{"attn_norm", "input_layernorm"},
	{"attn_q", "self_attn.q_proj"},
	{"attn_k", "self_attn.k_proj"},
	{"attn_v", "self_attn.v_proj"},
	{"attn_output", "self_attn.o_proj"},
	{"ffn_norm", "post_attention_layernorm"},
	{"ffn_gate", "mlp.gate_proj"},
	{"ffn_up", "mlp.up_proj"},
	{"ffn_down", "mlp.down_proj"},
}

const (
	ggufLayer = "blk."
	hubLayer  = "model.layers."
)

// fromGGUFName turns a GGUF file's name into the Hugging Face one; what is not known stays as it is.
func fromGGUFName(name string) string { return translate(name, 0, ggufLayer, hubLayer) }

// toGGUFName is the reverse of fromGGUFName.
func toGGUFName(name string) string { return translate(name, 1, hubLayer, ggufLayer) }

// translate swaps the part of name between the layer's prefix and ".weight" or ".bias", from column `from` of the tables to the other.
func translate(name string, from int, fromLayer, toLayer string) string {
	dot := strings.LastIndexByte(name, '.')
	if dot < 0 || name[dot:] != ".weight" && name[dot:] != ".bias" {
		return name
	}
	stem, ending := name[:dot], name[dot:]
	if rest, ok := strings.CutPrefix(stem, fromLayer); ok {
		number, part, ok := strings.Cut(rest, ".")
		for _, pair := range ggufLayerNames {
			if ok && pair[from] == part {
				return toLayer + number + "." + pair[1-from] + ending
			}
		}
		return name
	}
	for _, pair := range ggufNames {
		if pair[from] == stem {
			return pair[1-from] + ending
		}
	}
	return name
}
