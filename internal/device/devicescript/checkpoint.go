package devicescript

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const architecture = "llama"

// The vocabulary: bytes, then control tokens, then words of four letters and a space, as many as a text of as many tokens has, then long ones.
const (
	bosToken  = 256
	eosToken  = 257
	firstWord = 258
	numWords  = 190
	firstLong = firstWord + numWords
	numLong   = 64
	vocab     = firstLong + numLong

	LongBytes = 512 // of a long token's text

	LoudToken   int32 = '!' // what a prompt begins with that is answered by long tokens
	MarkedToken int32 = '?' // whose rows Device.Rows counts
)

// TokenBytes is what a token takes in the cache of a model of headDim: its key and its value.
func TokenBytes(headDim int) int { return 2 * 4 * headDim }

// Checkpoint writes a model of that context, with a tokenizer, and returns its directory. Nobody reads its one weight.
func Checkpoint(t testing.TB, context, headDim int) string {
	t.Helper()
	dir := t.TempDir()
	config := map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": architecture, "hidden_act": "silu", "hidden_size": 64,
		"intermediate_size": 64, "max_position_embeddings": context, "num_attention_heads": 4, "num_hidden_layers": 1, "num_key_value_heads": 1, "head_dim": headDim,
		"rms_norm_eps": 1e-5, "rope_theta": 1e4, "vocab_size": vocab, "bos_token_id": bosToken, "eos_token_id": eosToken, "torch_dtype": "float32",
	}
	header := []byte(`{"weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}     `)
	weights := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	weights = append(append(weights, header...), 0, 0, 0, 0)
	for name, data := range map[string][]byte{
		"config.json": encode(t, config), "tokenizer.json": encode(t, tokenizerFile()), "model.safetensors": weights,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// tokenizerFile is byte-level BPE without merges: texts become bytes, and words are only ever generated.
func tokenizerFile() map[string]any {
	entries := map[string]int{}
	for b := range 256 {
		entries[string(byteSymbol(b))] = b
	}
	for i := range numWords {
		entries[string(byteSymbol(' '))+fmt.Sprintf("w%03d", i)] = firstWord + i
	}
	for i := range numLong {
		entries[string(byteSymbol(' '))+strings.Repeat("l", LongBytes-4)+fmt.Sprintf("%03d", i)] = firstLong + i
	}
	special := func(id int, content string) map[string]any {
		return map[string]any{
			"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
		}
	}
	byteLevel := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	return map[string]any{
		"version": "1.0", "added_tokens": []any{special(bosToken, "<s>"), special(eosToken, "</s>")}, "normalizer": nil,
		"pre_tokenizer": byteLevel, "post_processor": nil, "decoder": byteLevel,
		"model": map[string]any{"type": "BPE", "vocab": entries, "merges": []any{}},
	}
}

// byteSymbol is the rune by which byte-level BPE writes a byte: itself where it prints, else the next one from U+0100 on.
func byteSymbol(b int) rune {
	prints := func(b int) bool { return b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae }
	if prints(b) {
		return rune(b)
	}
	next := rune(0x100)
	for other := range b {
		if !prints(other) {
			next++
		}
	}
	return next
}
