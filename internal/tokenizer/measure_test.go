package tokenizer

import (
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

// measured are tokenizers that know of a long text that it has many tokens.
func measured(tb testing.TB) map[string]*Tokenizer {
	return map[string]*Tokenizer{
		"byte level": load(tb, "bytelevel.json"),
		"composed":   loadEdited(tb, "bytelevel.json", func(f object) { f["normalizer"] = object{"type": "NFC"} }),
		"abridged": loadEdited(tb, "bytelevel.json", func(f object) {
			f["normalizer"] = object{"type": "Replace", "pattern": object{"String": "hello"}, "content": "e"}
		}),
		"runes": loadEdited(tb, "sentencepiece.json", func(f object) { f["added_tokens"] = nil }),
		"dropped": loadEdited(tb, "bytelevel.json", func(f object) {
			delete(f["model"].(object)["vocab"].(object), "Ą") // the byte 4
		}),
		"fused": loadEdited(tb, "bytelevel.json", func(f object) {
			delete(f["model"].(object)["vocab"].(object), "Ą")
			f["model"].(object)["unk_token"], f["model"].(object)["fuse_unk"] = "a", true
		}),
		"dropped runes": loadEdited(tb, "sentencepiece.json", func(f object) {
			f["added_tokens"], f["normalizer"] = nil, nil
			delete(f["model"].(object)["vocab"].(object), "<0x04>")
		}),
	}
}

func TestNoTextHasFewerTokensThanItsBound(t *testing.T) {
	for name, tok := range measured(t) {
		if least := tok.MinTokens(strings.Repeat("x", 4<<10)); least < 10 {
			t.Errorf("%s: 4096 letters have at least %d tokens, want more", name, least)
		}
		rapid.Check(t, func(t *rapid.T) {
			text := rapid.StringOfN(rapid.RuneFrom([]rune("hello the  a\x04\u212a\u212b\u2126\u0301\u0313\u0345日")), 0, 200, -1).Draw(t, "text")
			text += strings.Repeat(rapid.SampledFrom([]string{" ", "hello", "a", "\x04", "\u212a"}).Draw(t, "run"), 300)
			ids, err := tok.Encode(text, EncodeOptions{ParseSpecial: true})
			if err != nil {
				t.Fatal(err)
			}
			if least := tok.MinTokens(text); least > len(ids) {
				t.Fatalf("%s: %q has %d tokens, and at least %d it is said", name, text, len(ids), least)
			}
		})
	}
}

func TestSomeTokensHaveNoBound(t *testing.T) {
	add := func(edit func(token object)) func(object) {
		return func(f object) { edit(f["added_tokens"].([]any)[0].(object)) }
	}
	for _, c := range []struct {
		name, file string
		edit       func(object)
	}{
		{"blanks before it", "bytelevel.json", add(func(token object) { token["lstrip"] = true })},
		{"blanks after it", "bytelevel.json", add(func(token object) { token["rstrip"] = true })},
		{"what is taken out", "bytelevel.json", func(f object) {
			f["normalizer"] = object{"type": "Replace", "pattern": object{"String": "a"}, "content": ""}
		}},
		{"what is normalized and may have no token then", "sentencepiece.json", func(f object) {
			f["added_tokens"] = nil
			delete(f["model"].(object)["vocab"].(object), "<0x00>")
		}},
	} {
		if least := loadEdited(t, c.file, c.edit).MinTokens(strings.Repeat("x", 4<<10)); least != 0 {
			t.Errorf("%s: 4096 letters have at least %d tokens, want no bound", c.name, least)
		}
	}
	if least := measured(t)["dropped"].MinTokens(strings.Repeat("\x04", 4<<10)); least != 0 {
		t.Errorf("4096 characters that have no token have at least %d", least)
	}
}

// TestFormCShrinksNoMore looks at every rune in form C, and at the longest runes that its parts may have been.
func TestFormCShrinksNoMore(t *testing.T) {
	longest := map[string]int{} // decomposed form → bytes of the longest rune that has it
	for r := range rune(0x110000) {
		if full := norm.NFD.String(string(r)); r < 0xD800 || r > 0xDFFF {
			longest[full] = max(longest[full], len(string(r)))
		}
	}
	worst := 0.0
	for r := range rune(0x110000) {
		if r >= 0xD800 && r <= 0xDFFF || !norm.NFC.IsNormalString(string(r)) {
			continue
		}
		full := norm.NFD.String(string(r))
		parts := 0
		for _, p := range full {
			parts += longest[string(p)]
		}
		worst = max(worst, float64(max(parts, longest[full]))/float64(len(string(r))))
	}
	if worst > nfcShrinkage {
		t.Errorf("form C makes some text %g times shorter; the bound is %d", worst, nfcShrinkage)
	}
}

func TestMaxTokensStopsBeyondTheLimitOnly(t *testing.T) {
	toks := measured(t)
	for _, name := range testdata {
		toks[name] = load(t, name)
	}
	for name, tok := range toks {
		rapid.Check(t, func(t *rapid.T) {
			text := rapid.StringOfN(rapid.RuneFrom([]rune("hello the  a</s>\u212b\u0301日")), 0, 80, -1).Draw(t, "text")
			o := EncodeOptions{AddSpecial: rapid.Bool().Draw(t, "add"), ParseSpecial: rapid.Bool().Draw(t, "parse")}
			want, err := tok.Encode(text, o)
			if err != nil {
				t.Fatal(err)
			}
			o.MaxTokens = rapid.IntRange(1, 90).Draw(t, "limit")
			got, err := tok.AppendEncode([]int32{7}, text, o)
			switch {
			case len(want) <= o.MaxTokens && (err != nil || !slices.Equal(got[1:], want)):
				t.Fatalf("%s: %q has %d tokens, limit %d: %v, %v", name, text, len(want), o.MaxTokens, got, err)
			case len(want) > o.MaxTokens && (!errors.Is(err, ErrTooManyTokens) || !slices.Equal(got, []int32{7})):
				t.Fatalf("%s: %q has %d tokens, limit %d: %v, %v", name, text, len(want), o.MaxTokens, got, err)
			}
		})
	}
}

// allocated is how many bytes do allocates.
func allocated(do func()) int {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return int(after.TotalAlloc - before.TotalAlloc)
}

// TestLongTextsCostLittle: what memory a text of the largest request costs that has far too many tokens, and one that may have them.
func TestLongTextsCostLittle(t *testing.T) {
	const size = 4 << 20
	for _, name := range []string{"byte level", "dropped"} {
		tok := measured(t)[name]
		for _, text := range []string{
			strings.Repeat(" ", size), strings.Repeat("x", size), strings.Repeat("ab cd ", size/6), strings.Repeat("</s>", size/4),
		} {
			used := allocated(func() {
				if _, err := tok.Encode(text, EncodeOptions{ParseSpecial: true, MaxTokens: 1000}); !errors.Is(err, ErrTooManyTokens) {
					t.Errorf("%s: %.8q…: %v", name, text, err)
				}
			})
			if used > 64<<10 {
				t.Errorf("%s: %.8q…: %d bytes to find out that it is too long", name, text, used)
			}
		}
	}
	tok := load(t, "bytelevel.json")
	used := allocated(func() {
		if _, err := tok.Encode(strings.Repeat(" ", size), EncodeOptions{}); err != nil {
			t.Error(err)
		}
	})
	const most = 48 // 28 to 33: the symbols, and the result as it grows
	if used > most*size {
		t.Errorf("%d bytes for each of a long piece, want at most %d", used/size, most)
	}
}

func TestTokenBytes(t *testing.T) {
	for _, c := range []struct {
		file, text string
		want       []string
	}{
		{"bytelevel.json", "the é</s>日", nil},
		{"sentencepiece.json", "hello é</s>日", []string{" hello", " ", "é", "</s>", " ", "\xe6", "\x97", "\xa5"}},
	} {
		tok := load(t, c.file)
		ids, err := tok.Encode(c.text, EncodeOptions{ParseSpecial: true})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, id := range ids {
			b, ok := tok.TokenBytes(id)
			if !ok {
				t.Fatalf("%s: token %d has no bytes", c.file, id)
			}
			got = append(got, b)
		}
		if c.want != nil && !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.file, got, c.want)
		}
		if joined := strings.Join(got, ""); c.want == nil && joined != c.text {
			t.Errorf("%s: together %q, want %q", c.file, joined, c.text)
		}
	}
	if _, ok := load(t, "bytelevel.json").TokenBytes(-1); ok {
		t.Error("−1 has bytes")
	}
}
