package tokenizer

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// edited returns a testdata file after a change of its JSON.
func edited(tb testing.TB, name string, edit func(file map[string]any)) []byte {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		tb.Fatal(err)
	}
	var file map[string]any
	if err := json.Unmarshal(data, &file); err != nil {
		tb.Fatal(err)
	}
	edit(file)
	if data, err = json.Marshal(file); err != nil {
		tb.Fatal(err)
	}
	return data
}

func loadEdited(tb testing.TB, name string, edit func(file map[string]any)) *Tokenizer {
	tb.Helper()
	tok, err := parse(edited(tb, name, edit), specialConfig{})
	if err != nil {
		tb.Fatal(err)
	}
	return tok
}

type object = map[string]any

func TestUnsupportedFilesAreRefusedByName(t *testing.T) {
	split := func(pattern object, behavior string) object {
		return object{"type": "Sequence", "pretokenizers": []object{
			{"type": "Split", "pattern": pattern, "behavior": behavior},
			{"type": "ByteLevel", "use_regex": false},
		}}
	}
	for _, c := range []struct {
		name string
		edit func(file, model object)
		want string // in the error
	}{
		{"model type", func(_, m object) { m["type"] = "Unigram" }, `"Unigram"`},
		{"dropout", func(_, m object) { m["dropout"] = 0.1 }, "dropout"},
		{"prefix", func(_, m object) { m["continuing_subword_prefix"] = "##" }, "continuing_subword_prefix"},
		{"suffix", func(_, m object) { m["end_of_word_suffix"] = "</w>" }, "end_of_word_suffix"},
		{"model field", func(_, m object) { m["new_trick"] = true }, "new_trick"},
		{"no vocab", func(_, m object) { delete(m, "vocab") }, "model.vocab"},
		{"no merges", func(_, m object) { delete(m, "merges") }, "model.merges"},
		{"unknown token", func(_, m object) { m["unk_token"] = "<none>" }, `"<none>"`},
		{"byte fallback", func(_, m object) { m["byte_fallback"] = true }, "byte_fallback"},
		{"pattern", func(f, _ object) { f["pre_tokenizer"] = split(object{"Regex": `(a+)+$`}, "Isolated") }, `(a+)+$`},
		{"behavior", func(f, _ object) { f["pre_tokenizer"] = split(object{"String": "x"}, "Removed") }, `"Removed"`},
		{"pre-tokenizer", func(f, _ object) { f["pre_tokenizer"] = object{"type": "Whitespace"} }, `"Whitespace"`},
		{"normalizer", func(f, _ object) { f["normalizer"] = object{"type": "Lowercase"} }, `"Lowercase"`},
		{"replace", func(f, _ object) {
			f["normalizer"] = object{"type": "Replace", "pattern": object{"Regex": "(a+)+$"}, "content": ""}
		}, "Replace"},
		{"decoder", func(f, _ object) { f["decoder"] = object{"type": "WordPiece"} }, `"WordPiece"`},
		{"no decoder", func(f, _ object) { f["decoder"] = nil }, "decoder"},
		{"half byte level", func(f, _ object) { f["decoder"] = object{"type": "Fuse"} }, "ByteLevel"},
		{"post-processor", func(f, _ object) { f["post_processor"] = object{"type": "BertProcessing"} }, `"BertProcessing"`},
		{"template", func(f, _ object) {
			f["post_processor"] = object{"type": "TemplateProcessing", "single": []object{}}
		}, "Sequence A"},
	} {
		data := edited(t, "bytelevel.json", func(f object) { c.edit(f, f["model"].(object)) })
		if _, err := parse(data, specialConfig{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %s", c.name, err, c.want)
		}
	}
}

func TestDamagedFilesAreRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(file, vocab object)
		want string
	}{
		{"ids far apart", func(_, v object) { v["zz"] = 100000 }, "unused"},
		{"huge id", func(_, v object) { v["zz"] = 1<<31 - 1 }, "limit"},
		{"larger id", func(_, v object) { v["zz"] = 1 << 40 }, "not a token id"},
		{"negative id", func(_, v object) { v["zz"] = -1 }, "not a token id"},
		{"fractional id", func(_, v object) { v["zz"] = 1.5 }, "not a token id"},
		{"two tokens of one id", func(_, v object) { v["zz"] = 7 }, "same id 7"},
		{"empty vocabulary", func(_, v object) { clear(v) }, "merge 0"},
		{"merge of unknown pieces", func(f, _ object) {
			f["model"].(object)["merges"] = []string{"a zzz"}
		}, `"zzz"`},
		{"merge of one piece", func(f, _ object) { f["model"].(object)["merges"] = []string{"ab"} }, "merge 0"},
		{"merge of three", func(f, _ object) { f["model"].(object)["merges"] = [][]string{{"a", "b", "c"}} }, "3 pieces"},
		{"empty added token", func(f, _ object) {
			f["added_tokens"] = []object{{"id": 1, "content": ""}}
		}, "empty"},
		{"added token with another id", func(f, _ object) {
			f["added_tokens"] = []object{{"id": 5, "content": "<s>"}}
		}, "model.vocab"},
		{"added token without an id", func(f, _ object) {
			f["added_tokens"] = []object{{"content": "<s>"}}
		}, "id: missing"},
		{"added token listed twice", func(f, _ object) {
			f["added_tokens"] = []object{{"id": 1, "content": "<s>"}, {"id": 1, "content": "<s>"}}
		}, "twice"},
		{"endless added token", func(f, _ object) {
			f["added_tokens"] = []object{{"id": 320, "content": strings.Repeat("x", maxAddedBytes+1)}}
		}, "limit"},
		{"template with an unknown id", func(f, _ object) {
			f["post_processor"] = object{
				"type":           "TemplateProcessing",
				"single":         []object{{"SpecialToken": object{"id": "x"}}, {"Sequence": object{"id": "A"}}},
				"special_tokens": object{"x": object{"ids": []int{9999}}},
			}
		}, "9999"},
	} {
		data := edited(t, "bytelevel.json", func(f object) { c.edit(f, f["model"].(object)["vocab"].(object)) })
		if _, err := parse(data, specialConfig{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
}

func TestBrokenJSONIsRefused(t *testing.T) {
	for _, text := range []string{
		"", "null", "[]", "{", `{"model"`, `{"model":}`, `{"model":{}} x`, `{"model":{"vocab":{"a":0`, "{\"a\xff\":1}",
		`{"model":{"type":"BPE","vocab":{"\ud800":0},"merges":[]},"decoder":{"type":"Fuse"}}`,
		`{"model":{"type":"BPE","vocab":{"a":0,"a":1},"merges":[]},"decoder":{"type":"Fuse"}}`,
		`{"x":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}`,
	} {
		if _, err := parse([]byte(text), specialConfig{}); err == nil {
			t.Errorf("%.80q is accepted", text)
		}
	}
}

func TestStringsOfJSON(t *testing.T) {
	for _, text := range []string{
		`"plain"`, `""`, `"\"\\\/\b\f\n\r\t"`, `"a\u00e9\u65E5z"`, `"\ud83d\udc4d!"`, `"é日👍"`, `"\u0000"`, `"\u2028"`,
	} {
		var want string
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatal(err)
		}
		r := jsonReader{data: []byte(text)}
		if got, err := r.str(); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{`"`, `"\`, `"\u12`, `"\uD83D"`, `"\ud83d\u0041"`, `"\x"`, "\"\n\"", `"\u12G4"`, `x`} {
		r := jsonReader{data: []byte(text)}
		if got, err := r.str(); err == nil {
			t.Errorf("%s is accepted as %q", text, got)
		}
	}
}

func TestLoadDir(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadDir(dir); !errors.Is(err, ErrNoTokenizer) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty directory: %v, want ErrNoTokenizer", err)
	}
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("tokenizer.json", edited(t, "bytelevel.json", func(f object) { f["post_processor"] = nil }))
	for _, c := range []struct {
		config string
		want   []string // pieces of "a" with AddSpecial; nil for an error
	}{
		{`{}`, []string{"a"}},
		{`{"bos_token":"<s>","eos_token":{"content":"</s>"}}`, []string{"a"}},
		{
			`{"bos_token":"<s>","eos_token":{"content":"</s>"},"add_bos_token":true,"add_eos_token":true}`,
			[]string{"<s>", "a", "</s>"},
		},
		{`{"bos_token":"<s>","add_bos_token":false}`, []string{"a"}},
		{`{"add_bos_token":true,"bos_token":null}`, nil},
		{`{"bos_token":"<none>"}`, nil},
		{`{`, nil},
	} {
		write("tokenizer_config.json", []byte(c.config))
		tok, err := LoadDir(dir)
		if (err != nil) != (c.want == nil) {
			t.Errorf("%s: error %v", c.config, err)
		}
		if err != nil {
			continue
		}
		if got := pieces(t, tok, "a", EncodeOptions{AddSpecial: true}); strings.Join(got, " ") != strings.Join(c.want, " ") {
			t.Errorf("%s: %q, want %q", c.config, got, c.want)
		}
	}
}

func TestUnusedIDsHaveNoToken(t *testing.T) {
	tok := loadEdited(t, "bytelevel.json", func(f object) { f["model"].(object)["vocab"].(object)["zz"] = 330 })
	if n := tok.NumTokens(); n != 331 {
		t.Errorf("NumTokens() = %d, want 331", n)
	}
	if piece, ok := tok.Token(325); ok {
		t.Errorf("Token(325) = %q, want none", piece)
	}
	if text, err := tok.Decode([]int32{325}, false); err == nil {
		t.Errorf("Decode of id 325 = %q, want an error", text)
	}
}
