package tokenizer

import (
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// naiveDecode is Hugging Face's decoding as its decoders define it, one after another over the list of pieces.
func naiveDecode(tok *Tokenizer, ids []int32, skipSpecial bool) string {
	var pieces []string
	for _, id := range ids {
		if !skipSpecial || !tok.IsSpecial(id) {
			pieces = append(pieces, tok.pieces[id])
		}
	}
	if tok.decode.bytes {
		return naiveByteLevel(pieces)
	}
	text, run := "", []byte(nil)
	flush := func() {
		if utf8.Valid(run) {
			text += string(run)
		} else {
			text += strings.Repeat("\ufffd", len(run))
		}
		run = nil
	}
	for _, p := range pieces {
		if b, ok := byteOfToken(p); ok {
			run = append(run, b)
			continue
		}
		flush()
		text += strings.ReplaceAll(p, "▁", " ")
	}
	flush()
	return strings.TrimPrefix(text, " ")
}

func naiveByteLevel(pieces []string) string {
	var all []byte
	for _, p := range pieces {
		if b, ok := bytesOfPiece(nil, p); ok {
			all = append(all, b...)
		} else {
			all = append(all, p...)
		}
	}
	return lossy(all)
}

// lossy replaces each maximal start of a rune that does not go on by one U+FFFD, by trying every length.
func lossy(b []byte) (text string) {
	for len(b) > 0 {
		n, valid := 1, utf8.Valid(b[:1])
		for k := 2; k <= min(4, len(b)) && !valid; k++ {
			if valid = utf8.Valid(b[:k]); valid || startsRune(b[:k]) {
				n = k
			}
		}
		if valid {
			text += string(b[:n])
		} else {
			text += "\ufffd"
		}
		b = b[n:]
	}
	return text
}

// startsRune reports whether some bytes behind b make it a rune.
func startsRune(b []byte) bool {
	for x := 0x80; x <= 0xBF; x++ {
		for _, tail := range [][]byte{{byte(x)}, {byte(x), 0x80}, {byte(x), 0xBF}} {
			if whole := append(append([]byte(nil), b...), tail...); utf8.Valid(whole) && utf8.RuneCount(whole) == 1 {
				return true
			}
		}
	}
	return false
}

// anyIDs draws ids of a tokenizer, one in two of a byte so that runes form and break.
func anyIDs(t *rapid.T, tok *Tokenizer) []int32 {
	id := rapid.Custom(func(t *rapid.T) int32 {
		if rapid.Bool().Draw(t, "byte") {
			// E2 96 81, F0 9F 91 8D, C3 A9, and bytes that start nothing
			b := rapid.SampledFrom([]byte("\xE2\x96\x81\xF0\x9F\x91\x8D\xC3\xA9\xFF\xED\xA0 a")).Draw(t, "b")
			if tok.decode.bytes {
				return tok.model.symbols[b]
			}
			return tok.model.fallback[b]
		}
		return rapid.Int32Range(0, int32(tok.NumTokens()-1)).Draw(t, "id")
	})
	return rapid.SliceOfN(id, 0, 30).Draw(t, "ids")
}

func TestDecodeIsTheStreamAndTheDefinition(t *testing.T) {
	for _, name := range testdata {
		tok := load(t, name)
		rapid.Check(t, func(t *rapid.T) {
			ids := anyIDs(t, tok)
			skip := rapid.Bool().Draw(t, "skip")
			want := naiveDecode(tok, ids, skip)
			got, err := tok.Decode(ids, skip)
			if err != nil {
				t.Fatal(err)
			}
			if got != want {
				t.Fatalf("%s: Decode(%v)\n got %q\nwant %q", name, ids, got, want)
			}
			d, streamed := tok.NewDecoder(skip), ""
			for _, id := range ids {
				text := d.Write(id)
				if !utf8.ValidString(text) {
					t.Fatalf("%s: Write(%d) = %q is not UTF-8", name, id, text)
				}
				if streamed += text; !strings.HasPrefix(want, streamed) {
					t.Fatalf("%s: %v: streamed %q, the whole is %q", name, ids, streamed, want)
				}
			}
			if streamed += d.Flush(); streamed != want {
				t.Fatalf("%s: %v\nstreamed %q\n   whole %q", name, ids, streamed, want)
			}
		})
	}
}

// A continuation behind a text that is not empty and ends with a whole rune is what the longer text adds.
func TestContinuation(t *testing.T) {
	for _, name := range testdata {
		tok := load(t, name)
		rapid.Check(t, func(t *rapid.T) {
			prompt := []int32{tok.symbol('x')}
			ids := anyIDs(t, tok)
			want := strings.TrimPrefix(naiveDecode(tok, append(prompt, ids...), false), "x")
			if got := stream(tok.NewContinuation(false), ids); got != want {
				t.Fatalf("%s: continuation %v\n got %q\nwant %q", name, ids, got, want)
			}
		})
	}
	tok := load(t, "sentencepiece.json")
	id, _ := tok.ID("▁world")
	if got := stream(tok.NewContinuation(true), []int32{id}); got != " world" {
		t.Errorf("continuation starts with %q, want %q", got, " world")
	}
	if got := stream(tok.NewDecoder(true), []int32{id}); got != "world" {
		t.Errorf("whole text starts with %q, want %q", got, "world")
	}
}

func (t *Tokenizer) symbol(b byte) int32 { return t.model.symbols[b] }

func TestDecoderHoldsBackUnfinishedRunes(t *testing.T) {
	tok := load(t, "bytelevel.json")
	d := tok.NewDecoder(false)
	for i, b := range []byte("👍") {
		want := ""
		if i == 3 {
			want = "👍"
		}
		if got := d.Write(tok.symbol(b)); got != want {
			t.Errorf("byte %d gives %q, want %q", i, got, want)
		}
	}
	d.Write(tok.symbol(0xF0))
	if got := d.Flush(); got != "\ufffd" {
		t.Errorf("Flush() = %q, want U+FFFD", got)
	}
	if got := d.Flush(); got != "" {
		t.Errorf("second Flush() = %q, want nothing", got)
	}
}

func TestDecodeRefusesBadIDs(t *testing.T) {
	for _, name := range testdata {
		tok := load(t, name)
		for _, id := range []int32{-1, int32(tok.NumTokens()), 1<<31 - 1, -1 << 31} {
			if text, err := tok.Decode([]int32{1, id}, false); err == nil {
				t.Errorf("%s: Decode of id %d gives %q, want an error", name, id, text)
			}
			if text := tok.NewDecoder(false).Write(id); text != "" {
				t.Errorf("%s: Write(%d) = %q, want nothing", name, id, text)
			}
		}
	}
}

func TestMetaspaceDecoderBaresTheFirstToken(t *testing.T) {
	tok := loadEdited(t, "sentencepiece.json", func(file map[string]any) {
		file["normalizer"] = nil
		file["decoder"] = object{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}
		file["pre_tokenizer"] = file["decoder"]
	})
	for _, text := range []string{"hello the world", "hello</s>hello", " hello"} {
		ids, err := tok.Encode(text, EncodeOptions{ParseSpecial: true})
		if err != nil {
			t.Fatal(err)
		}
		want := strings.TrimPrefix(text, " ")
		if got := stream(tok.NewDecoder(false), ids); got != want {
			t.Errorf("%q decodes to %q, want %q", text, got, want)
		}
	}
}
