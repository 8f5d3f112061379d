package tokenizer

import (
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The repository's own tokenizers: the byte-level one of a tiny random checkpoint, and one in the manner of
// SentencePiece, written for these tests.
var testdata = []string{"bytelevel.json", "sentencepiece.json"}

func load(tb testing.TB, name string) *Tokenizer {
	tb.Helper()
	tok, err := LoadFile(filepath.Join("testdata", name))
	if err != nil {
		tb.Fatal(err)
	}
	return tok
}

// pieces encodes a text and returns the tokens as pieces.
func pieces(tb testing.TB, tok *Tokenizer, text string, o EncodeOptions) (list []string) {
	tb.Helper()
	ids, err := tok.Encode(text, o)
	if err != nil {
		tb.Fatalf("Encode(%q): %v", text, err)
	}
	for _, id := range ids {
		piece, ok := tok.Token(id)
		if !ok {
			tb.Fatalf("Encode(%q) gives %d, which has no token", text, id)
		}
		list = append(list, piece)
	}
	return list
}
