package tokenizer

import (
	"strings"
	"testing"
)

// digits and blanks of the byte-level test vocabulary are tokens of one byte, Ġ is the blank; merges show pieces.
func TestPreTokenizersOfFiles(t *testing.T) {
	byteLevel := object{"type": "ByteLevel", "add_prefix_space": false}
	for _, c := range []struct {
		name   string
		tokens any // pre_tokenizer
		text   string
		want   string
	}{
		{"byte level", byteLevel, "o o", "o Ġo"},
		{"a space in front", object{"type": "ByteLevel", "add_prefix_space": true}, "o o", "Ġo Ġo"},
		{"a space that is there", object{"type": "ByteLevel", "add_prefix_space": true}, " o", "Ġo"},
		{"no pattern", object{"type": "ByteLevel", "use_regex": false}, "o o", "o Ġo"},
		{"split isolated", sequence(splitAt(" ", "Isolated"), byteLevel), "o o", "o Ġ o"},
		{"split after", sequence(splitAt(" ", "MergedWithPrevious"), byteLevel), "o o", "o Ġ o"},
		{"split before", sequence(splitAt(" ", "MergedWithNext"), byteLevel), "o o", "o Ġo"},
		{"digits", sequence(object{"type": "Digits", "individual_digits": true}, byteLevel), "o 1o", "o Ġ 1 o"},
		{"digit runs", sequence(object{"type": "Digits"}, byteLevel), " 12", "Ġ 1 2"},
		{"known pattern, kept", sequence(object{
			"type": "Split", "pattern": object{"Regex": patternQwen2}, "behavior": "Removed", "invert": true,
		}, object{"type": "ByteLevel", "use_regex": false}), "o o", "o Ġo"},
		{"nested", sequence(sequence(byteLevel)), "o o", "o Ġo"},
	} {
		tok := loadEdited(t, "bytelevel.json", func(f object) { f["pre_tokenizer"] = c.tokens })
		if got := pieces(t, tok, c.text, EncodeOptions{}); strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q gives %q, want %s", c.name, c.text, got, c.want)
		}
	}
}

func sequence(parts ...object) object { return object{"type": "Sequence", "pretokenizers": parts} }

func splitAt(s, behavior string) object {
	return object{"type": "Split", "pattern": object{"String": s}, "behavior": behavior, "invert": false}
}

func TestMetaspace(t *testing.T) {
	for _, c := range []struct {
		settings object
		text     string
		want     string
	}{
		{object{"prepend_scheme": "always"}, "hello</s>hello world", "▁hello </s> ▁hello ▁world"},
		{object{"prepend_scheme": "first"}, "hello</s>hello world", "▁hello </s> hello ▁world"},
		{object{"prepend_scheme": "never"}, "hello</s>hello world", "hello </s> hello ▁world"},
		{object{"prepend_scheme": "first"}, " hello", "▁hello"},
		{object{"prepend_scheme": "always", "split": false}, "hello  world", "▁hello ▁▁ wo r ld"},
		{object{"prepend_scheme": "always"}, "x    x", "▁ x ▁ ▁ ▁ ▁ x"}, // each ▁ starts a piece
		{object{"prepend_scheme": "always", "split": false}, "x    x", "▁ x ▁▁▁▁ x"},
		{object{"add_prefix_space": true}, "hello", "▁hello"},
		{object{"add_prefix_space": false}, "hello", "hello"},
	} {
		tok := loadEdited(t, "sentencepiece.json", func(f object) {
			c.settings["type"], c.settings["replacement"] = "Metaspace", "▁"
			f["normalizer"], f["pre_tokenizer"] = nil, c.settings
		})
		if got := pieces(t, tok, c.text, EncodeOptions{ParseSpecial: true}); strings.Join(got, " ") != c.want {
			t.Errorf("%v: %q gives %q, want %s", c.settings, c.text, got, c.want)
		}
	}
}

func TestTemplateSurroundsTheText(t *testing.T) {
	tok := loadEdited(t, "bytelevel.json", func(f object) {
		f["post_processor"] = object{"type": "Sequence", "processors": []object{{"type": "ByteLevel"}, {
			"type": "TemplateProcessing",
			"single": []object{
				{"SpecialToken": object{"id": "<s>"}}, {"Sequence": object{"id": "A"}}, {"SpecialToken": object{"id": "end"}},
			},
			"special_tokens": object{"<s>": object{"ids": []int{1}}, "end": object{"ids": []int{2}}},
		}}}
	})
	if got := pieces(t, tok, "a", EncodeOptions{AddSpecial: true}); strings.Join(got, " ") != "<s> a </s>" {
		t.Errorf("%q, want <s> a </s>", got)
	}
	bos, okBOS := tok.BOS()
	eos, okEOS := tok.EOS()
	if bos != 1 || eos != 2 || !okBOS || !okEOS {
		t.Errorf("BOS %d %t, EOS %d %t; want 1 and 2", bos, okBOS, eos, okEOS)
	}
	if ends := tok.EndTokens(); len(ends) != 0 {
		t.Errorf("EndTokens() = %v, want none", ends)
	}
}

func TestTokenAndIDAreInverse(t *testing.T) {
	for _, name := range testdata {
		tok := load(t, name)
		for id := range int32(tok.NumTokens()) {
			piece, ok := tok.Token(id)
			if back, found := tok.ID(piece); !ok || !found || back != id {
				t.Errorf("%s: Token(%d) = %q, %t; ID gives %d, %t", name, id, piece, ok, back, found)
			}
		}
		if id, ok := tok.ID("no such piece"); ok {
			t.Errorf("%s: ID of no piece = %d", name, id)
		}
	}
}
