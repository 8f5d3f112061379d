package tokenizer

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

// byteLevelGGUF is a byte-level vocabulary of a GGUF file.
func byteLevelGGUF() fakeMetadata {
	return fakeMetadata{
		"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
		"tokenizer.ggml.tokens":       []string{"a", "b", "c", "ab", "abc", "<s>"},
		"tokenizer.ggml.token_type":   []int32{1, 1, 1, 1, 1, 3},
		"tokenizer.ggml.merges":       []string{"a b", "ab c"},
		"tokenizer.ggml.bos_token_id": uint64(5),
	}
}

// TestBadVocabulariesOfGGUFFilesAreRefused: a value of another type than its key has is never taken for another (scores of eight bits read as
// floats run past their end), nor for one that is missing.
func TestBadVocabulariesOfGGUFFilesAreRefused(t *testing.T) {
	const tiny = 12 // tokens of tinyGGUF
	type row struct {
		key   string // without its prefix
		value any    // nil: missing
		want  string
	}
	both := []row{
		{"model", nil, "model: missing"}, {"model", uint64(1), "model: missing"}, {"model", "", `model: "" is not supported`},
		{"model", "bert", `"bert"`},
		{"model", strings.Repeat("x", 1<<20), "is not supported"}, {"tokens", nil, "tokens: missing or empty"},
		{"tokens", []string{}, "tokens: missing or empty"},
		{"tokens", []int32{1, 2}, "tokens: missing or empty"}, {"tokens", "abc", "tokens: missing or empty"},
		{"token_type", []float32{1}, "token_type: has a value of another type, want an array of 32-bit integers"},
		{"token_type", "x", "token_type: has a value of another type"},
		{"token_type", []int32{}, "token_type: 0 elements"}, {"token_type", []int32{1}, "token_type: 1 elements"},
		{"token_type", make([]int32, 1000), "token_type: 1000 elements"},
		{"bos_token_id", "1", "bos_token_id: has a value of another type, want an integer"}, {"bos_token_id", true, "bos_token_id: has a value"},
		{"bos_token_id", uint64(1 << 32), "bos_token_id: 4294967296 is outside"},
		{"bos_token_id", uint64(math.MaxUint64), "bos_token_id: 18446744073709551615 is outside"},
		{"eos_token_id", []int32{1}, "eos_token_id: has a value"},
		{"eot_token_id", 1.5, "eot_token_id: has a value"}, {"eom_token_id", uint64(1000), "eom_token_id: 1000 is outside"},
		{"eot_token_id", uint64(1000), "eot_token_id: 1000 is outside"},
		{"add_bos_token", uint64(1), "add_bos_token: has a value of another type, want a boolean"},
		{"add_bos_token", "true", "add_bos_token: has a value"}, {"add_eos_token", uint64(0), "add_eos_token: has a value"},
	}
	for _, c := range []struct {
		name string
		good func() fakeMetadata
		rows []row
	}{
		{"byte level", byteLevelGGUF, append([]row{
			{"add_eos_token", true, "eos_token_id: missing"}, {"pre", nil, "pre: missing"}, {"pre", uint64(1), "pre: missing"},
			{"pre", "default", `"default" is not supported`}, {"pre", strings.Repeat("x", 1<<20), "is not supported"},
			{"merges", nil, "merges: missing"}, {"merges", []int32{1}, "merges: missing"}, {"merges", []string{"ab"}, "merge 0"},
			{"merges", []string{"a b c"}, "merge 0"}, {"merges", []string{""}, "merge 0"},
			{"merges", []string{"a b", "a z"}, "merge 1"}, {"merges", []string{"c c"}, "the vocabulary lacks"},
			{"merges", []string{strings.Repeat("a", 1<<20) + " b"}, "the vocabulary lacks"},
			{"tokens", []string{"a", "b", "c", "ab", "abc", "a"}, "has two ids: 0 and 5"},
			{"tokens", []string{"a", "b", "c", "ab", "abc", "\xff"}, "is not valid UTF-8"},
			{"tokens", []string{"a", "b", "c", "ab", "abc", strings.Repeat("x", 1<<16+1)}, "the limit is 65536"},
			{"tokens", []string{"a", "b", "c", "ab", "abc", strings.Repeat("x", 1025)}, "special token 5 has 1025 bytes"},
			{"tokens", []string{"a", "b", "c", "ab"}, "token_type: 6 elements for 4 tokens"},
		}, both...)},
		{"SentencePiece", tinyGGUF, append([]row{
			{"scores", nil, "scores: 0 elements"}, {"scores", []int32{1}, "scores: 0 elements"}, {"scores", "x", "scores: 0 elements"},
			{"scores", make([]float32, tiny-1), "scores: 11 elements for 12"},
			{"scores", make([]float32, tiny+1), "scores: 13 elements"},
			{"scores", slices.Repeat([]float32{float32(math.Inf(1))}, tiny), "has the score +Inf"},
			{"scores", slices.Repeat([]float32{float32(math.Inf(-1))}, tiny), "has the score -Inf"},
			{"scores", slices.Repeat([]float32{float32(math.NaN())}, tiny), "has the score NaN"},
			{"unknown_token_id", "0", "unknown_token_id: has a value"}, {"unknown_token_id", uint64(12), "unknown_token_id: 12 is outside"},
			{"add_space_prefix", uint64(1), "add_space_prefix: has a value"},
			{"remove_extra_whitespaces", uint64(1), "remove_extra_whitespaces: has a value"}, {"remove_extra_whitespaces", true, "not supported"},
			{"token_type", slices.Repeat([]int32{ggufByte}, tiny), "is of the type byte but not written <0xHH>"},
		}, both...)},
	} {
		for _, r := range c.rows {
			t.Run(fmt.Sprintf("%s/%s=%.40v", c.name, r.key, r.value), func(t *testing.T) {
				md := c.good()
				if md[ggufPrefix+r.key] = r.value; r.value == nil {
					delete(md, ggufPrefix+r.key)
				}
				_, err := FromGGUF(md)
				if err == nil || !strings.Contains(err.Error(), r.want) || strings.Contains(err.Error(), "\n") || len(err.Error()) > 1<<10 {
					t.Errorf("error %.300v, want a short one that says %q", err, r.want)
				}
			})
		}
		if _, err := FromGGUF(c.good()); err != nil {
			t.Errorf("%s: a good one: %v", c.name, err)
		}
	}
}

// FuzzFromGGUF makes a vocabulary of arbitrary pieces, types, scores and merges. What is accepted must work.
func FuzzFromGGUF(f *testing.F) {
	f.Add("gpt2", "llama-bpe", "a\nb\nab\n<s>", "a b", []byte{1, 1, 1, 3}, uint32(3), true)
	f.Add("llama", "", "<unk>\n<s>\n<0x0A>\n▁\na\n▁a", "", []byte{2, 3, 6, 1, 1, 1}, uint32(1), false)
	f.Add("gpt2", "qwen2", "é\n日", "", []byte{4, 5}, uint32(0), false)
	f.Fuzz(func(t *testing.T, model, pre, tokens, merges string, types []byte, bos uint32, add bool) {
		md := fakeMetadata{
			"tokenizer.ggml.model": model, "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": strings.Split(tokens, "\n"),
			"tokenizer.ggml.bos_token_id": uint64(bos),
			"tokenizer.ggml.merges":       strings.FieldsFunc(merges, func(r rune) bool { return r == '\n' }), "tokenizer.ggml.add_bos_token": add,
		}
		kinds, scores := make([]int32, len(types)), make([]float32, len(types))
		for i, b := range types {
			kinds[i], scores[i] = int32(b%8), float32(int8(b))
		}
		md["tokenizer.ggml.token_type"], md["tokenizer.ggml.scores"] = kinds, scores
		tok, err := FromGGUF(md)
		if err != nil {
			return
		}
		const sample = "Hello  wörld\n123 <s> 日本"
		ids, err := tok.Encode(sample, EncodeOptions{AddSpecial: true, ParseSpecial: true})
		if err != nil {
			t.Fatal(err)
		}
		if least := tok.MinTokens(sample); least > len(ids) {
			t.Fatalf("%d tokens; at least %d it is said", len(ids), least)
		}
		text, err := tok.Decode(ids, false)
		if err != nil {
			t.Fatal(err)
		}
		if got := stream(tok.NewDecoder(false), ids); got != text {
			t.Fatalf("%v: streamed %q, decoded %q", ids, got, text)
		}
	})
}

// FuzzSpecialConfig reads arbitrary bytes as a tokenizer_config.json.
func FuzzSpecialConfig(f *testing.F) {
	f.Add([]byte(`{"bos_token":"<s>","eos_token":{"content":"</s>","lstrip":false},"add_bos_token":true,"add_eos_token":null,"x":[1]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseSpecialConfig(data)
		if err != nil {
			return
		}
		if !strings.Contains(string(data), `\`) && (!strings.Contains(string(data), c.bos) || !strings.Contains(string(data), c.eos)) {
			t.Fatalf("%q is read as %+v", data, c)
		}
	})
}
