package tokenizer

import (
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// goodParts are the parts of a small tokenizer.json; those of "model" have a prefix.
func goodParts() map[string]string {
	return map[string]string{
		"version": `"1.0"`, "truncation": `null`, "padding": `null`,
		"added_tokens":   `[{"id":7,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}]`,
		"normalizer":     `{"type":"NFC"}`,
		"pre_tokenizer":  `{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}`,
		"post_processor": `{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[7],"tokens":["<s>"]}}}`,
		"decoder":        `{"type":"ByteLevel"}`,
		"model.type":     `"BPE"`, "model.dropout": `null`, "model.unk_token": `null`, "model.fuse_unk": `false`, "model.byte_fallback": `false`,
		"model.vocab": `{"a":0,"b":1,"c":2,"ab":3,"abc":4,"Ġ":5,"Ġa":6}`, "model.merges": `["a b",["ab","c"],"Ġ a"]`,
	}
}

// fileOf puts parts together.
func fileOf(parts map[string]string) string {
	var file, model []string
	for name, text := range parts {
		if field, ok := strings.CutPrefix(name, "model."); ok {
			model = append(model, `"`+field+`":`+text)
		} else {
			file = append(file, `"`+name+`":`+text)
		}
	}
	return "{" + strings.Join(append(file, `"model":{`+strings.Join(model, ",")+"}"), ",") + "}"
}

// goodFileWith is a file of the good parts of which one was replaced; "" takes it out.
func goodFileWith(name, text string) string {
	parts := goodParts()
	if parts[name] = text; text == "" {
		delete(parts, name)
	}
	return fileOf(parts)
}

// badFile is a file and what is said of it.
type badFile struct{ name, text, want string }

// loadAs writes a file beside a good tokenizer.json and a good tokenizer_config.json, or in place of one, and loads the directory.
func loadAs(t testing.TB, name, text string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{"tokenizer.json": fileOf(goodParts()), "tokenizer_config.json": `{"bos_token":"<s>"}`}
	maps.Copy(files, map[string]string{name: text})
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err := LoadDir(dir)
	return filepath.Join(dir, name), err
}

// refuses loads each bad file, and wants the error that is documented, in one line that names the file, and memory in proportion to the file.
func refuses(t *testing.T, name string, files []badFile) {
	for _, c := range files {
		t.Run(c.name, func(t *testing.T) {
			var path string
			var err error
			allocated := allocatedBy(func() { path, err = loadAs(t, name, c.text) })
			if err == nil {
				t.Fatalf("accepted, want an error that says %q", c.want)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q, want one that says %q", err, c.want)
			}
			if !strings.Contains(err.Error(), path) && !strings.Contains(err.Error(), "tokenizer_config.json: ") {
				t.Errorf("error %q does not name the file", err)
			}
			if strings.Contains(err.Error(), "\n") || len(err.Error()) > 2<<10 {
				t.Errorf("error of %d bytes, or of more than a line: %.300q", len(err.Error()), err)
			}
			if most := uint64(1<<20 + 40*len(c.text)); allocated > most {
				t.Errorf("a file of %d bytes took %d bytes of memory, want at most %d", len(c.text), allocated, most)
			}
		})
	}
	if _, err := loadAs(t, name, map[string]string{"tokenizer.json": fileOf(goodParts()), "tokenizer_config.json": "{}"}[name]); err != nil {
		t.Errorf("a good file after them: %v", err)
	}
}

// allocatedBy is how many bytes do allocates, those that are free again included.
func allocatedBy(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// in makes bad files of what one part may be.
func in(part string, texts ...[2]string) (files []badFile) {
	for _, t := range texts {
		files = append(files, badFile{part + " " + brief(t[0]), goodFileWith(part, t[0]), t[1]})
	}
	return files
}

func brief(text string) string {
	if len(text) > 60 {
		return text[:60] + "…"
	}
	return text
}

func TestFilesThatAreNoTokenizerAreRefused(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 50_000)
	refuses(t, "tokenizer.json", []badFile{
		{"empty", "", "ends where '{' is due"},
		{"null", "null", "'n' where '{' is due"},
		{"an array", "[]", "'[' where '{' is due"},
		{"a number", "1", "'1' where '{' is due"},
		{"half", fileOf(goodParts())[:200], "json"},
		{"two files in one", fileOf(goodParts()) + fileOf(goodParts()), "after the end"},
		{"null bytes behind it", fileOf(goodParts()) + "\x00", "after the end"},
		{"byte order mark", "\ufeff" + fileOf(goodParts()), "where '{' is due"},
		{"UTF-16", "\xff\xfe{\x00}\x00", "not valid UTF-8"},
		{"bytes that are no UTF-8", goodFileWith("version", "\"\xff\""), "not valid UTF-8"},
		{"an encoded surrogate", goodFileWith("version", "\"\xed\xa0\x80\""), "not valid UTF-8"},
		{"an overlong slash", goodFileWith("version", "\"\xc0\xaf\""), "not valid UTF-8"},
		{"single quotes", "{'model':{}}", "where '\"' is due"},
		{"a comma at the end", strings.TrimSuffix(fileOf(goodParts()), "}") + ",}", "where '\"' is due"},
		{"a comment", "/**/" + fileOf(goodParts()), "where '{' is due"},
		{"a part twice", strings.Replace(fileOf(goodParts()), "{", `{"version":"2",`, 1), `duplicate key "version"`},
		{"the model twice", strings.Replace(fileOf(goodParts()), "{", `{"model":{},`, 1), ""},
		{"50,000 levels in a part that nobody reads", goodFileWith("padding", deep), "100 levels"},
		{"50,000 levels in the vocabulary", goodFileWith("model.vocab", deep), "100 levels"},
		{"90 levels in a part that nobody reads", goodFileWith("padding", strings.Repeat("[", 90)+strings.Repeat("]", 90)),
			"nested deeper than 64"},
		{"brackets that do not match in a part that nobody reads", goodFileWith("padding", "[}"), "offset 1"},
		{"a word in a part that nobody reads", goodFileWith("padding", "NaN"), "where a value should be"},
		{"a key twice in a part that nobody reads", goodFileWith("padding", `{"a":1,"a":2}`), `duplicate key "a"`},
		{"a megabyte of open brackets", strings.Repeat("[", 1<<20), "where '{' is due"},
		{"a key of a megabyte", `{"` + strings.Repeat("k", 1<<20) + `":1,"` + strings.Repeat("k", 1<<20) + `":1}`, "duplicate key"},
	})
}

func TestBadModelsOfTokenizersAreRefused(t *testing.T) {
	refuses(t, "tokenizer.json", concat(
		in("model.type", [][2]string{
			{`"Unigram"`, `model.type: "Unigram" is not supported`}, {`"WordPiece"`, `"WordPiece"`}, {`"bpe"`, `"bpe"`}, {`7`, "model.type: json"},
			{`["BPE"]`, "model.type"},
			{`"` + strings.Repeat("B", 100_000) + `"`, "model.type"},
		}...),
		in("model.vocab", [][2]string{
			{``, "model.vocab: missing"}, {`null`, "'n' where '{' is due"}, {`[]`, "'[' where '{' is due"}, {`{}`, "merge 0"},
			{`"a"`, "where '{' is due"},
			{`{"a":"0"}`, "is not a token id"}, {`{"a":null}`, "is not a token id"}, {`{"a":0.0}`, `"0.0" is not a token id`},
			{`{"a":1e1}`, `"1e1" is not a token id`},
			{`{"a":-1}`, `"-1" is not a token id`}, {`{"a":01}`, `"01" is not a token id`}, {`{"a":+1}`, `"+1" is not a token id`},
			{`{"a":-0}`, `"-0" is not a token id`}, {`{"a":2147483648}`, "is not a token id"}, {`{"a":18446744073709551616}`, "is not a token id"},
			{`{"a":4194304}`, "the limit is 4194304"}, {`{"a":99999999999999999999999999999999}`, "is not a token id"},
			{`{"a":` + strings.Repeat("9", 100_000) + `}`, "is not a token id"},
			{`{"a":0,"a":0}`, "has two ids"}, {`{"a":0,"\u0061":1}`, "has two ids"},
			{`{"a":0,"b":0,"ab":1,"c":2,"abc":3,"Ġ":4,"Ġa":5}`, "same id 0"},
			{`{"a":0,"b":1,"c":2,"ab":3,"abc":4,"Ġ":5,"Ġa":6,"zz":100000}`, "ids are unused"}, {`{"\ud800":0}`, `\uXXXX is due`},
			{`{"\ud800\u0041":0}`, "surrogate"}, {`{"\x":0}`, `unknown escape`},
			{"{\"a\n\":0}", "control character"}, {`{"a":0`, "json"}, {`{"a":0,}`, "where '\"' is due"}, {`{"a" 0}`, "where ':' is due"},
			{`{"a":0 "b":1}`, "where '}' is due"},
			{`{"` + strings.Repeat("a", 1<<16+1) + `":0}`, "the limit is 65536"}, {`{"` + strings.Repeat("a", 1<<20) + `":-1}`, "is not a token id"},
		}...),
		in("model.merges", [][2]string{
			{``, "model.merges: missing"}, {`null`, "'n' where '[' is due"}, {`{}`, "'{' where '[' is due"}, {`"a b"`, "where '[' is due"},
			{`[1]`, "merge 0"}, {`[null]`, "merge 0"},
			{`["ab"]`, "is not two pieces"}, {`["a b c"]`, "is not two pieces"}, {`[" "]`, "the vocabulary lacks"}, {`[""]`, "is not two pieces"},
			{`["a  b"]`, "is not two pieces"},
			{`[["a"]]`, "1 pieces, want 2"}, {`[["a","b","c"]]`, "3 pieces, want 2"}, {`[[]]`, "0 pieces, want 2"}, {`[["a",1]]`, "merge 0"},
			{`[[["a","b"]]]`, "merge 0"},
			{`["x b"]`, "the vocabulary lacks"}, {`["b x"]`, "the vocabulary lacks"}, {`["b a"]`, "the vocabulary lacks"},
			{`["a b","x y"]`, "merge 1"}, {`["a b",]`, "merge 1"},
			{`["` + strings.Repeat("a", 1<<20) + ` b"]`, "the vocabulary lacks"},
			{`[` + strings.TrimSuffix(strings.Repeat(`"a b",`, 200_000), ",") + `,0]`, "merge 200000"},
		}...),
		in("model.dropout", [2]string{`0.1`, "makes encoding random"}, [2]string{`"x"`, "model.dropout"}, [2]string{`-1`, "model.dropout"},
			[2]string{`1e999`, "model.dropout"}),
		in("model.unk_token", [2]string{`"<none>"`, "is not in the vocabulary"}, [2]string{`5`, "model.unk_token"},
			[2]string{`{"content":"a"}`, "model.unk_token"}),
		in("model.fuse_unk", [2]string{`1`, "model.fuse_unk"}, [2]string{`"true"`, "model.fuse_unk"}),
		in("model.byte_fallback", [2]string{`true`, "not supported with a ByteLevel"}, [2]string{`0`, "model.byte_fallback"}),
		in("model.ignore_merges", [2]string{`"yes"`, "model.ignore_merges"}),
		in("model.continuing_subword_prefix", [2]string{`"##"`, "is not supported"}),
		in("model.end_of_word_suffix", [2]string{`"</w>"`, "is not supported"}),
		in("model.max_input_chars_per_word", [2]string{`100`, "unknown field"}),
		in("model.Ignore_Merges", [2]string{`true`, "model.Ignore_Merges: unknown field"}),
		[]badFile{
			{"vocab twice", strings.Replace(fileOf(goodParts()), `"model":{`, `"model":{"vocab":{},`, 1), "duplicate key"},
			{"merges twice", strings.Replace(fileOf(goodParts()), `"model":{`, `"model":{"merges":[],`, 1), "duplicate key"},
			{"model an array", `{"model":[]}`, "'[' where '{' is due"},
			{"model null", `{"model":null}`, "'n' where '{' is due"},
			{"no model", `{"version":"1.0"}`, "model.vocab: missing"},
		},
	))
}

func concat(lists ...[]badFile) (all []badFile) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}
