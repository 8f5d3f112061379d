package tokenizer

import (
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
)

// tinyGGUF is a SentencePiece vocabulary whose scores prefer "b" + "c" to "a" + "b".
func tinyGGUF() fakeMetadata {
	return fakeMetadata{
		"tokenizer.ggml.model": "llama",
		"tokenizer.ggml.tokens": []string{
			"<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "c", "ab", "bc", "<x>",
		},
		"tokenizer.ggml.token_type":       []int32{2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1, 4},
		"tokenizer.ggml.scores":           []float32{0, 0, 0, 0, 0, -3, -3, -3, -3, -2, -1, 0},
		"tokenizer.ggml.bos_token_id":     uint64(1),
		"tokenizer.ggml.eos_token_id":     uint64(2),
		"tokenizer.ggml.unknown_token_id": uint64(0),
	}
}

func TestGGUFSentencePiece(t *testing.T) {
	tok, err := FromGGUF(tinyGGUF())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		text    string
		options EncodeOptions
		want    string
	}{
		{"abc", EncodeOptions{}, "▁ a bc"},
		{"ab", EncodeOptions{AddSpecial: true}, "<s> ▁ ab"},
		{"é", EncodeOptions{}, "▁ <0xC3> <0xA9>"},
		{"日本", EncodeOptions{}, "▁ <unk>"},
		{"a<x>a", EncodeOptions{}, "▁ a <x> ▁ a"},
		{"<s>a", EncodeOptions{ParseSpecial: true}, "<s> ▁ a"},
	} {
		if got := pieces(t, tok, c.text, c.options); strings.Join(got, " ") != c.want {
			t.Errorf("%q: %q, want %s", c.text, got, c.want)
		}
	}
	if got := roundTrip(t, tok, "a é"); got != "a é" {
		t.Errorf("round trip gives %q", got)
	}
}

func TestGGUFKeys(t *testing.T) {
	for _, c := range []struct {
		name string
		set  fakeMetadata
		want string // pieces of " a<x> b" with AddSpecial and ParseSpecial
	}{
		{"defaults", nil, "<s> ▁ ▁ a <x> ▁ ▁ b"},
		{"no space in front", fakeMetadata{"tokenizer.ggml.add_space_prefix": false}, "<s> ▁ a <x> ▁ b"},
		{"no BOS", fakeMetadata{"tokenizer.ggml.add_bos_token": false}, "▁ ▁ a <x> ▁ ▁ b"},
		{"EOS", fakeMetadata{"tokenizer.ggml.add_eos_token": true}, "<s> ▁ ▁ a <x> ▁ ▁ b </s>"},
		{"Phi-3 takes blanks behind special tokens", fakeMetadata{
			"general.name": "Phi-3 mini", "tokenizer.ggml.token_type": []int32{2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1, 3},
		}, "<s> ▁ ▁ a <x> ▁ b"},
	} {
		md := tinyGGUF()
		maps.Copy(md, c.set)
		tok, err := FromGGUF(md)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		got := pieces(t, tok, " a<x> b", EncodeOptions{AddSpecial: true, ParseSpecial: true})
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, want %s", c.name, got, c.want)
		}
	}
}

func TestGGUFByteLevel(t *testing.T) {
	md := fakeMetadata{
		"tokenizer.ggml.model":        "gpt2",
		"tokenizer.ggml.pre":          "llama-bpe",
		"tokenizer.ggml.tokens":       []string{"a", "b", "Ġ", "ab", "Ġab", "<|eot_id|>", "<|begin_of_text|>", "Ġ<t>"},
		"tokenizer.ggml.token_type":   []int32{1, 1, 1, 1, 1, 3, 3, 4},
		"tokenizer.ggml.merges":       []string{"a b"},
		"tokenizer.ggml.bos_token_id": uint64(6),
		"tokenizer.ggml.eot_token_id": uint64(5),
	}
	tok, err := FromGGUF(md)
	if err != nil {
		t.Fatal(err)
	}
	got := pieces(t, tok, "ab ab<|eot_id|>", EncodeOptions{AddSpecial: true, ParseSpecial: true})
	if want := "<|begin_of_text|> ab Ġab <|eot_id|>"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %s", got, want)
	}
	if ends := tok.EndTokens(); !slices.Equal(ends, []int32{5}) {
		t.Errorf("EndTokens() = %v, want [5]", ends)
	}
	if text, err := tok.Decode([]int32{4, 7}, true); err != nil || text != " abĠ<t>" {
		t.Errorf("Decode = %q, %v; a user-defined token is written as it is", text, err)
	}
}

func TestBadGGUFKeysAreRefused(t *testing.T) {
	nan := float32(math.NaN())
	for _, c := range []struct {
		key   string
		value any
		want  string
	}{
		{"model", nil, "model: missing"},
		{"model", "bert", `"bert"`},
		{"model", "gpt2", "pre: missing"},
		{"tokens", nil, "tokens: missing"},
		{"tokens", []string{"a", "a"}, "token_type"},
		{"tokens", slices.Repeat([]string{"a"}, 12), "two ids"},
		{"tokens", append(slices.Repeat([]string{""}, 11), "\xff"), "two ids"},
		{"token_type", []int32{1}, "token_type"},
		{"token_type", slices.Repeat([]int32{6}, 12), "<0xHH>"},
		{"scores", nil, "scores"},
		{"scores", slices.Repeat([]float32{nan}, 12), "NaN"},
		{"bos_token_id", nil, "bos_token_id: missing"},
		{"bos_token_id", uint64(12), "bos_token_id: 12"},
		{"eos_token_id", uint64(1 << 40), "eos_token_id"},
		{"eom_token_id", uint64(99), "eom_token_id"},
		{"unknown_token_id", uint64(99), "unknown_token_id"},
		{"remove_extra_whitespaces", true, "remove_extra_whitespaces"},
	} {
		md := tinyGGUF()
		md["tokenizer.ggml."+c.key] = c.value
		if _, err := FromGGUF(md); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s = %v: error %v, want one with %q", c.key, c.value, err, c.want)
		}
	}
	md := tinyGGUF()
	md["tokenizer.ggml.model"], md["tokenizer.ggml.pre"] = "gpt2", "kimi-k2"
	if _, err := FromGGUF(md); err == nil || !strings.Contains(err.Error(), `"kimi-k2"`) {
		t.Errorf("unknown pre: error %v", err)
	}
}
