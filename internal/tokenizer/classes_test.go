package tokenizer

import (
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// textClasses are what long texts may be made of, each with what makes one of at least n bytes, always the same. Some have no place where a
// pre-tokenizer cuts, so that the whole text is one piece to the model.
var textClasses = []struct {
	name string
	of   func(n int) string
}{
	{"letters", randomRunes("abcdefghijklmnopqrstuvwxyz")},
	{"words", randomWords},
	{"one letter", func(n int) string { return strings.Repeat("a", n) }},
	{"digits", randomRunes("0123456789")},
	{"spaces", func(n int) string { return strings.Repeat(" ", n) }},
	{"newlines", randomRunes("\n\r\n\n")},
	{"blanks", randomRunes(" \t\n\r\u00a0\u2003")},
	{"punctuation", randomRunes("!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~")},
	{"Chinese", randomRange(0x4e00, 0x9fff)},
	{"kana and Hangul", randomRange(0x3041, 0xd7a3)},
	{"emoji", randomRunes("👍🏽👩\u200d🚀😀🎉❤\ufe0f🇩🇪")},
	{"combining marks", randomRange(0x0300, 0x036f)},
	{"marks on letters", func(n int) string { return interleaved("aeiou", 0x0300, n) }},
	{"Cyrillic", randomRange(0x0410, 0x044f)},
	{"control characters", randomRange(0x01, 0x1f)},
	{"unassigned", randomRange(0xe0100, 0xe01ef)},
	{"repeated merges", func(n int) string { return repeated("thethethetheinginging", n) }},
	{"repeated words", func(n int) string { return repeated("the ", n) }},
	{"apostrophes", func(n int) string { return repeated("'s't'", n) }},
	{"slashes and newlines", func(n int) string { return repeated("/\n", n) }},
	{"upper and lower", func(n int) string { return repeated("aBcD", n) }},
	{"metaspace", func(n int) string { return repeated("▁▁a", n) }},
	{"special tokens as text", func(n int) string { return repeated("<|eot_id|>", n) }},
}

func randomRunes(alphabet string) func(n int) string {
	runes := []rune(alphabet)
	return func(n int) string {
		random := rand.New(rand.NewPCG(1, uint64(len(alphabet))))
		var b strings.Builder
		for b.Len() < n {
			b.WriteRune(runes[random.IntN(len(runes))])
		}
		return b.String()
	}
}

func randomRange(low, high rune) func(n int) string {
	return func(n int) string {
		random := rand.New(rand.NewPCG(2, uint64(low)))
		var b strings.Builder
		for b.Len() < n {
			if r := low + random.Int32N(high-low+1); utf8.ValidRune(r) && (unicode.IsGraphic(r) || low < ' ' || low > 0xffff) {
				b.WriteRune(r)
			}
		}
		return b.String()
	}
}

// randomWords are of one to twelve letters.
func randomWords(n int) string {
	random := rand.New(rand.NewPCG(3, 3))
	var b strings.Builder
	for b.Len() < n {
		for range 1 + random.IntN(12) {
			b.WriteByte("etaoinshrdlucmfwyp"[random.IntN(18)])
		}
		b.WriteByte(' ')
	}
	return b.String()
}

func interleaved(letters string, mark rune, n int) string {
	random := rand.New(rand.NewPCG(4, 4))
	var b strings.Builder
	for b.Len() < n {
		b.WriteByte(letters[random.IntN(len(letters))])
		for range random.IntN(4) {
			b.WriteRune(mark + random.Int32N(0x70))
		}
	}
	return b.String()
}

func repeated(text string, n int) string { return strings.Repeat(text, (n+len(text)-1)/len(text)) }

// TestWorkIsLinearInTheText counts the pairs that merging looks at: at most some times the bytes of a text, for every class and length, up to
// pieces of a megabyte. Runs of one letter or of blanks, for which others take quadratic time or a stack as deep as the text, are among them.
// llama.cpp #9715, #26965, #27783.
func TestWorkIsLinearInTheText(t *testing.T) {
	for _, name := range testdata {
		checkWork(t, name, load(t, name))
	}
}

func TestWorkIsLinearInTheTextWithMergesOfRealSize(t *testing.T) {
	for _, name := range benchNames {
		tok, err := LoadFile(fixtures(t, "tokenizers", name, "tokenizer.json"))
		if err != nil {
			t.Fatal(err)
		}
		checkWork(t, name, tok)
	}
}

func checkWork(t *testing.T, name string, tok *Tokenizer) {
	t.Helper()
	const most = 6 // pairs for each byte
	for _, class := range textClasses {
		sizes := []int{1 << 10, 1 << 14, 1 << 18}
		if class.name == "one letter" || class.name == "letters" {
			sizes = append(sizes, 1<<20)
		}
		for _, n := range sizes {
			text, w := class.of(n), &scratch{}
			tok.appendPieces(nil, applyRewrites(tok.prepare, applyRewrites(tok.normalize, text, true), true), tok.split, w)
			if w.work > most*len(text) {
				t.Errorf("%s: %d bytes of %s: %d pairs looked at, want at most %d for a byte", name, len(text), class.name, w.work, most)
			}
		}
	}
}

// TestWindowsChangeNothing: windows of any size give the tokens of the whole, which mergeWindow makes at once, of every class of text.
func TestWindowsChangeNothing(t *testing.T) {
	toks := map[string]*Tokenizer{}
	for _, name := range testdata {
		toks[name] = load(t, name)
	}
	if root := os.Getenv("INFERNO_FIXTURES"); root != "" {
		tok, err := LoadFile(fixtures(t, "tokenizers", "llama3_1", "tokenizer.json"))
		if err != nil {
			t.Fatal(err)
		}
		toks["llama3_1"] = tok
	}
	for name, tok := range toks {
		m, w := tok.model, &scratch{}
		for _, class := range textClasses {
			text := class.of(1 << 13)
			if m.byteSymbols {
				m.splitBytes(text, w)
			} else {
				m.splitRunes(text, w)
			}
			if len(w.ids) == 0 {
				continue
			}
			want := appendIDs(nil, m.mergeWindow(nil, w.ids, 0, w))
			for _, size := range []int{64, 500, 3000} {
				if got := m.mergeInWindows(nil, w, size, size/8); !slices.Equal(got, want) {
					t.Errorf("%s: %s in windows of %d: %d tokens, and %d of the whole, or others", name, class.name, size, len(got), len(want))
				}
			}
		}
	}
}

// BenchmarkEncodeClasses: a megabyte of each class.
func BenchmarkEncodeClasses(b *testing.B) {
	for _, class := range textClasses {
		text := class.of(1 << 20)
		b.Run(strings.ReplaceAll(class.name, " ", "_"), func(b *testing.B) { benchEncode(b, text) })
	}
}
