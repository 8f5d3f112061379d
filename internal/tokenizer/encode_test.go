package tokenizer

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func TestSentencePieceTokens(t *testing.T) {
	tok := load(t, "sentencepiece.json")
	for _, c := range []struct {
		text    string
		options EncodeOptions
		want    string // pieces, separated by blanks
	}{
		{"", EncodeOptions{}, ""},
		{"", EncodeOptions{AddSpecial: true}, "<s>"},
		{"hello world", EncodeOptions{}, "▁hello ▁world"},
		{"hello world", EncodeOptions{AddSpecial: true}, "<s> ▁hello ▁world"},
		{" hello", EncodeOptions{}, "▁ ▁hello"}, // ▁ + hello goes before ▁ + ▁
		{"café", EncodeOptions{}, "▁café"},
		{"日", EncodeOptions{}, "▁ <0xE6> <0x97> <0xA5>"},
		// special tokens
		{"hello</s>hello", EncodeOptions{ParseSpecial: true}, "▁hello </s> ▁hello"},
		{"</s>", EncodeOptions{}, "▁ <0x3C> <0x2F> s <0x3E>"},
		{"a<|end|> \n b", EncodeOptions{ParseSpecial: true}, "▁ a <|end|> ▁ b"},
		// added tokens that are not special
		{"a \t<mask> b", EncodeOptions{}, "▁ a <mask> ▁▁ b"},
		{"the", EncodeOptions{}, "the"},
		{"x the, them", EncodeOptions{}, "▁ x ▁ the ▁ , ▁the m"},
		{"a<a b>a", EncodeOptions{}, "▁ a <0x3C> a ▁ b <0x3E> a"}, // ▁ comes in front of the normalized form
		{"<a b>a", EncodeOptions{}, "<a b> a"},
	} {
		got := pieces(t, tok, c.text, c.options)
		if want := fields(c.want); !slices.Equal(got, want) {
			t.Errorf("%q, %+v\n got %q\nwant %q", c.text, c.options, got, want)
		}
	}
}

// fields splits at blanks, but for the blank in the token <a b>.
func fields(list string) []string {
	f := strings.Fields(strings.ReplaceAll(list, "<a b>", "<a_b>"))
	for i := range f {
		f[i] = strings.ReplaceAll(f[i], "<a_b>", "<a b>")
	}
	return f
}

func TestSpecialTokensInByteLevelText(t *testing.T) {
	tok := load(t, "bytelevel.json")
	parsed := pieces(t, tok, "a</s>b", EncodeOptions{ParseSpecial: true})
	if want := []string{"a", "</s>", "b"}; !slices.Equal(parsed, want) {
		t.Errorf("parsed: %q, want %q", parsed, want)
	}
	id, _ := tok.ID("</s>")
	ids, err := tok.Encode("a</s>b", EncodeOptions{})
	if err != nil || slices.Contains(ids, id) {
		t.Errorf("as plain text: %v, %v; want no %d", ids, err, id)
	}
	if !tok.IsSpecial(id) || tok.IsSpecial(ids[0]) || tok.IsSpecial(-1) {
		t.Errorf("IsSpecial is wrong of </s>, a or −1")
	}
}

func TestTextSurvivesTheRoundTrip(t *testing.T) {
	for _, name := range testdata {
		tok := load(t, name)
		rapid.Check(t, func(t *rapid.T) {
			text := rapid.String().Draw(t, "text")
			if strings.ContainsAny(text, "▁") { // decodes as a space
				return
			}
			ids, err := tok.Encode(text, EncodeOptions{})
			if err != nil {
				t.Fatal(err)
			}
			got, err := tok.Decode(ids, false)
			if err != nil {
				t.Fatal(err)
			}
			if got != text {
				t.Fatalf("%s: %q → %v → %q", name, text, ids, got)
			}
		})
	}
}

func TestInvalidUTF8IsRefused(t *testing.T) {
	tok := load(t, "bytelevel.json")
	for _, text := range []string{"a\xff", "\xe2\x82", "\ufffd\xed\xa0\x80"} {
		dst := []int32{7}
		got, err := tok.AppendEncode(dst, text, EncodeOptions{AddSpecial: true})
		if err == nil || !slices.Equal(got, dst) {
			t.Errorf("AppendEncode(%q) = %v, %v; want an error and dst as it was", text, got, err)
		}
	}
	if _, err := tok.Encode(strings.Repeat("a", maxTextBytes+1), EncodeOptions{}); err == nil {
		t.Error("a text over the limit is accepted")
	}
}

func TestConcurrentEncodesAgree(t *testing.T) {
	for _, name := range testdata {
		tok := load(t, name)
		text := strings.Repeat("hello world, the café is over there. 日本 ", 20)
		want, err := tok.Encode(text, EncodeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if got, err := tok.Encode(text, EncodeOptions{}); err != nil || !slices.Equal(got, want) {
					t.Errorf("%s: %v, %v", name, got, err)
				}
			})
		}
		all.Wait()
	}
}

func TestByteLevelEncodingAllocatesNothing(t *testing.T) {
	tok := load(t, "bytelevel.json")
	text := strings.Repeat("The quick brown fox jumps over it. ", 30)
	w := &scratch{}
	dst := tok.appendText(nil, text, EncodeOptions{ParseSpecial: true}, w)
	if n := testing.AllocsPerRun(20, func() { dst = tok.appendText(dst[:0], text, EncodeOptions{ParseSpecial: true}, w) }); n != 0 {
		t.Errorf("%g allocations, want 0", n)
	}
}

func TestSingleWordAndStrips(t *testing.T) {
	m := newMatcher([]addedToken{
		{id: 1, text: "ab"}, {id: 2, text: "abc"}, {id: 3, text: "w", singleWord: true}, {id: 4, text: "L", lstrip: true},
		{id: 5, text: "R", rstrip: true}, {id: 6, text: "S", special: true},
	})
	for _, c := range []struct {
		text  string
		parse bool
		want  []match
	}{
		{"xabcab", true, []match{{1, 4, 2}, {4, 6, 1}}},
		{"w xw wé -w-", true, []match{{0, 1, 3}, {10, 11, 3}}},
		{" \u3000L", true, []match{{0, 5, 4}}},
		{"R \n L", true, []match{{0, 4, 5}, {4, 5, 4}}},
		{"aSb", true, []match{{1, 2, 6}}},
		{"aSb", false, nil},
	} {
		s := search{matcher: m, text: c.text, parseSpecial: c.parse}
		var got []match
		for found, ok := s.next(); ok; found, ok = s.next() {
			got = append(got, found)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%q: %v, want %v", c.text, got, c.want)
		}
	}
}
