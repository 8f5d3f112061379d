package tokenizer

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The patterns of pre-tokenizers are run by hand-written scanners, and what is not one of those known to the letter is refused: so no file
// brings an expression that takes exponential time (a replace rule of (a+)+$ ends other runtimes), and no text overflows a stack by it.
func TestExpressionsOfFilesAreNeverRun(t *testing.T) {
	split := func(regex string) string {
		return fmt.Sprintf(`{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":%q},"behavior":"Isolated"},{"type":"ByteLevel","use_regex":false}]}`, regex)
	}
	replace := func(regex string) string {
		return fmt.Sprintf(`{"type":"Replace","pattern":{"Regex":%q},"content":""}`, regex)
	}
	var files []badFile
	for _, regex := range []string{
		`(a+)+$`, `(a|a)*b`, `(.*)*x`, `((a{1,100}){1,100}){1,100}`, `(?=.*)a`, `\1`, `(`, ``, `.`, `\p{L}+`, patternGPT2 + "|x",
		" " + patternLlama3, strings.ToUpper(patternGPT2),
		strings.Repeat("(", 100_000), strings.Repeat("a?", 10_000) + strings.Repeat("a", 10_000),
	} {
		files = append(files,
			badFile{"split by " + brief(regex), goodFileWith("pre_tokenizer", split(regex)), "pre_tokenizer: Split: pattern"},
			badFile{"replace of " + brief(regex), goodFileWith("normalizer", replace(regex)),
				"normalizer: Replace: only a pattern that is a String"})
	}
	refuses(t, "tokenizer.json", files)
}

func TestBadPartsOfTokenizersAreRefused(t *testing.T) {
	refuses(t, "tokenizer.json", concat(
		in("normalizer", [][2]string{
			{`"NFC"`, "normalizer: json"}, {`[]`, "normalizer"}, {`{}`, `type "" is not supported`}, {`{"type":"Lowercase"}`, `"Lowercase"`},
			{`{"type":"nfc"}`, `"nfc"`},
			{`{"type":"Precompiled","precompiled_charsmap":"AAAA"}`, `"Precompiled"`}, {`{"type":"NFC","type":"NFD"}`, `duplicate key "type"`},
			{`{"Type":"NFC"}`, "Type: unknown key"},
			{`{"type":"Replace","pattern":{"String":""},"content":"x"}`, "not empty"},
			{`{"type":"Replace","pattern":{"string":"a"},"content":"x"}`, "string: unknown key"},
			{`{"type":"Replace","pattern":{"String":"a"},"content":"` + strings.Repeat("x", 65) + `"}`, "65 times longer; the limit is 64"},
			{`{"type":"Sequence","normalizers":[` + strings.TrimSuffix(strings.Repeat(`{"type":"Replace","pattern":{"String":"a"},"content":"aaaaaaaa"},`, 3), ",") + `]}`, "512 times longer"},
			{`{"type":"Prepend","prepend":"` + strings.Repeat("x", 100) + `"}`, "101 times longer"},
			{`{"type":"Sequence","normalizers":[` + strings.TrimSuffix(strings.Repeat(`{"type":"NFC"},`, 17), ",") + `]}`,
				"17 parts; the limit is 16"},
			{`{"type":"Sequence","normalizers":[` + strings.TrimSuffix(strings.Repeat(`{},`, 1001), ",") + `]}`, "1002 objects; the limit is 1000"},
			{strings.Repeat(`{"type":"Sequence","normalizers":[`, 40) + strings.Repeat(`]}`, 40), "nested deeper than 64"},
			{`{"type":"NFC","x":"` + strings.Repeat("x", 1<<20) + `"}`, "the limit is 1048576"},
			{`{"type":5}`, "normalizer"}, {`{"type":"NFC"`, "json"},
		}...),
		in("pre_tokenizer", [][2]string{
			{``, "ByteLevel in one of them only"}, {`null`, "ByteLevel in one of them only"}, {`{"type":"Whitespace"}`, `"Whitespace"`},
			{`{"type":"BertPreTokenizer"}`, `"BertPreTokenizer"`},
			{`{"type":"ByteLevel","add_prefix_space":"no"}`, "pre_tokenizer"}, {`{"type":"ByteLevel","Use_Regex":false}`, "Use_Regex: unknown key"},
			{`{"type":"ByteLevel","uſe_regex":false}`, "unknown key"},
			{`{"type":"ByteLevel","use_regex":true,"use_regex":false}`, `duplicate key "use_regex"`},
			{`{"type":"Sequence","pretokenizers":[{"type":"ByteLevel"},{"type":"ByteLevel"}]}`, `"ByteLevel" after ByteLevel`},
			{`{"type":"Sequence","pretokenizers":[{"type":"Digits"},{"type":"ByteLevel","add_prefix_space":true}]}`,
				"add_prefix_space after another"},
			{`{"type":"Sequence","pretokenizers":{"type":"ByteLevel"}}`, "pre_tokenizer"}, {`{"type":"Sequence","pretokenizers":[null]}`, `type ""`},
			{`{"type":"Split","behavior":"Isolated"}`, "neither a Regex nor a String"},
			{`{"type":"Split","pattern":{"String":""},"behavior":"Isolated"}`, "neither a Regex nor a String"},
			{`{"type":"Split","pattern":{"String":"x"},"behavior":"Isolated","invert":true}`, "or is inverted"},
			{`{"type":"Split","pattern":{"String":"x"},"behavior":"Contiguous"}`, `"Contiguous"`},
			{`{"type":"Metaspace","replacement":""}`, "is not one rune"}, {`{"type":"Metaspace","replacement":"ab"}`, "is not one rune"},
			{`{"type":"Metaspace","replacement":"▁","prepend_scheme":"sometimes"}`, `"sometimes"`},
			{`{"type":"Metaspace","replacement":7}`, "pre_tokenizer"},
		}...),
		in("decoder", [][2]string{
			{``, "decoder: missing"}, {`null`, "decoder: missing"}, {`{"type":"WordPiece"}`, `"WordPiece"`},
			{`{"type":"Fuse"}`, "ByteLevel in one of them only"}, {`{"type":"ByteLevel","type":"Fuse"}`, "duplicate key"},
			{`{"type":"Sequence","decoders":[{"type":"Strip","content":" ","start":1,"stop":0}]}`, "Strip without Fuse"},
			{`{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Strip","content":"ab","start":1,"stop":0}]}`, `content "ab"`},
			{`{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Strip","content":" ","start":-1,"stop":0}]}`, "start -1"},
			{`{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Strip","content":" ","start":99999999999999999999,"stop":0}]}`, "decoder"},
			{`{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"ByteFallback"}]}`, "not supported at this place"},
			{`{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":"` + strings.Repeat(" ", 1000) + `"}]}`,
				"times longer"},
		}...),
		in("post_processor", [][2]string{
			{`{"type":"BertProcessing"}`, `"BertProcessing"`}, {`{"type":"RobertaProcessing"}`, `"RobertaProcessing"`},
			{`{"type":"TemplateProcessing","single":[]}`, "Sequence A 0 times"},
			{`{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A"}},{"Sequence":{"id":"A"}}]}`, "Sequence A 2 times"},
			{`{"type":"TemplateProcessing","single":[{"Sequence":{"id":"B"}}]}`, "neither a SpecialToken"},
			{`{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}},{"Sequence":{"id":"A"}}]}`, `special_tokens lacks "x"`},
			{`{"type":"TemplateProcessing","single":[{}]}`, "neither a SpecialToken"},
			{`{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}},{"Sequence":{"id":"A"}}],"special_tokens":{"x":{"ids":[8]}}}`,
				"token id 8 is outside [0, 8)"},
			{`{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}},{"Sequence":{"id":"A"}}],"special_tokens":{"x":{"ids":[-1]}}}`,
				"token id -1"},
			{`{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}},{"Sequence":{"id":"A"}}],"special_tokens":{"x":{"ids":[4294967296]}}}`, "post_processor"},
			{`{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}},{"Sequence":{"id":"A"}}],"special_tokens":{"x":{"ids":[0]},"x":{"ids":[1]}}}`, `duplicate key "x"`},
			{`{"type":"Sequence","processors":[{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A"}}]},{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A"}}]}]}`, "more than one"},
			{`{"type":"TemplateProcessing","Single":[{"Sequence":{"id":"A"}}]}`, "Single: unknown key"},
			{`{"type":"TemplateProcessing","single":[{"sequence":{"id":"A"}}]}`, "sequence: unknown key"},
		}...),
		in("added_tokens", [][2]string{
			{`{}`, "an object, want an array"}, {`"<s>"`, "want an array"}, {`[7]`, "a number, want an object"}, {`[null]`, "null, want an object"},
			{`[{}]`, "content: empty"}, {`[{"content":"<s>"}]`, "id: missing"},
			{`[{"id":"7","content":"<s>"}]`, "a string, want a number"}, {`[{"id":-1,"content":"<s>"}]`, "-1, want 0 to"},
			{`[{"id":7.0,"content":"<s>"}]`, "is not an integer"}, {`[{"id":4194304,"content":"<s>"}]`, "4194304, want 0 to"},
			{`[{"id":18446744073709551615,"content":"<s>"}]`, "does not fit"}, {`[{"id":null,"content":"<s>"}]`, "null, want a number"},
			{`[{"id":7,"content":""}]`, "content: empty"}, {`[{"id":7,"content":5}]`, "want a string"},
			{`[{"id":7,"content":"` + strings.Repeat("x", 1025) + `"}]`, "1025 bytes; the limit is 1024"},
			{`[{"id":7,"content":"<s>"},{"id":7,"content":"<s>"}]`, "listed twice"},
			{`[{"id":5,"content":"a"}]`, "has id 5 here and 0 in model.vocab"},
			{`[{"id":0,"content":"<s>"}]`, "same id 0"}, {`[{"id":7,"content":"<s>","special":"yes"}]`, "a string, want a boolean"},
			{`[{"id":7,"content":"<s>","Special":true}]`, "Special: unknown key"},
			{`[{"id":7,"content":"<s>","special":true,"special":false}]`, `duplicate key "special"`}, {`[{"id":7,"content":"\ud800"}]`, "surrogate"},
			{`[{"id":100000,"content":"<s>"}]`, "ids are unused"},
			{`[` + manyAdded(2100) + `]`, "more than 2097152 bytes in all"}, {`[` + strings.Repeat("{},", 100_000) + `{}]`, "[0]: content: empty"},
		}...),
	))
}

// manyAdded are n added tokens of a kilobyte each.
func manyAdded(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"id":%d,"content":"%01000d"},`, 7+i, i)
	}
	return strings.TrimSuffix(b.String(), ",")
}

func TestBadTokenizerConfigsAreRefused(t *testing.T) {
	var files []badFile
	for text, want := range map[string]string{
		``: "the text ends", `null`: "null, want an object", `[]`: "an array, want an object", `{`: "offset",
		`{"bos_token":"<none>"}`: `bos_token: "<none>" is not in the vocabulary`,
		`{"eos_token":"<none>"}`: `eos_token: "<none>"`, `{"bos_token":1}`: "bos_token: offset", `{"bos_token":["<s>"]}`: "bos_token: offset",
		`{"bos_token":true}`:          "bos_token: offset",
		`{"bos_token":{"content":1}}`: "bos_token: content", `{"bos_token":{"content":"<none>"}}`: `"<none>"`,
		`{"bos_token":{"content":"<s>","content":"a"}}`: "duplicate key",
		`{"bos_token":"<s>","bos_token":"a"}`:           `duplicate key "bos_token"`, `{"bos_token":"\ud800"}`: "surrogate",
		"{\"bos_token\":\"\xff\"}": "invalid UTF-8", `{"add_bos_token":"true"}`: "add_bos_token: offset",
		`{"add_bos_token":1}`: "add_bos_token: offset", `{} x`: "text after the value",
		`{"x":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}`: "nested deeper than 64", `{"x":NaN}`: "x: offset",
		`{"x":` + strings.Repeat("[", 1<<20):                  "nested deeper than 64",
		`{"bos_token":"` + strings.Repeat("x", 1<<20) + `"}`:  "is not in the vocabulary",
		`{"chat_template":"{{ 1","chat_template":""}`:         "duplicate key",
		`{"x":"` + strings.Repeat(" ", maxConfigBytes) + `"}`: "want at most 16777216",
	} {
		files = append(files, badFile{brief(text), text, want})
	}
	refuses(t, "tokenizer_config.json", files)
}

// Files that are no files, or lie elsewhere.
func TestTokenizerFilesLieInTheirDirectory(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "tokenizer.json")
	if err := os.WriteFile(outside, []byte(fileOf(goodParts())), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json"} {
		for want, make := range map[string]func(path string) error{
			"escapes":                      func(path string) error { return os.Symlink(outside, path) },
			"leads to nothing":             func(path string) error { return os.Symlink("none", path) },
			"not a regular file":           func(path string) error { return os.Mkdir(path, 0o700) },
			"not a regular file of a pipe": func(path string) error { return syscall.Mkfifo(path, 0o600) },
		} {
			dir := t.TempDir()
			if name != "tokenizer.json" {
				if err := os.WriteFile(filepath.Join(dir, "tokenizer.json"), []byte(fileOf(goodParts())), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := make(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			want = strings.TrimSuffix(want, " of a pipe")
			if _, err := LoadDir(dir); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(),
				filepath.Join(dir, name)) {
				t.Errorf("%s: %v, want it to say %q", name, err, want)
			}
		}
	}
	// A link that is named is meant, and one within the cache of a hub leads to its blobs.
	link := filepath.Join(t.TempDir(), "link.json")
	snapshot := filepath.Join(t.TempDir(), "models--org--tiny", "snapshots", "0123")
	blob := filepath.Join(snapshot, "..", "..", "blobs", "abc")
	for _, err := range []error{
		os.Symlink(outside, link), os.MkdirAll(snapshot, 0o700), os.MkdirAll(filepath.Dir(blob), 0o700),
		os.WriteFile(blob, []byte(fileOf(goodParts())), 0o600), os.Symlink("../../blobs/abc", filepath.Join(snapshot, "tokenizer.json")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := LoadFile(link); err != nil {
		t.Errorf("a link that was named: %v", err)
	}
	if _, err := LoadDir(snapshot); err != nil {
		t.Errorf("a snapshot of a hub cache: %v", err)
	}
}

// Of a file that was cut or of which a bit is wrong, what is accepted works; the rest is refused.
func TestCutAndChangedFilesNeverPanic(t *testing.T) {
	good := fileOf(goodParts())
	for i := range len(good) {
		if _, err := parse([]byte(good[:i]), specialConfig{}); err == nil {
			t.Fatalf("the first %d of %d bytes are accepted", i, len(good))
		}
		for _, b := range []byte{0, '"', '{', '}', '9', good[i] ^ 1, good[i] ^ 0x80} {
			changed := []byte(good)
			changed[i] = b
			tok, err := parse(changed, specialConfig{})
			if err != nil {
				continue
			}
			ids, err := tok.Encode("abc  a<s>", EncodeOptions{AddSpecial: true, ParseSpecial: true})
			if err == nil {
				_, err = tok.Decode(ids, false)
			}
			if err != nil {
				t.Fatalf("byte %d is %q: %v", i, b, err)
			}
		}
	}
}
