package tokenizer

import (
	"fmt"
	"sync/atomic"
	"unicode/utf8"
)

// Limits of a file, all far above those of any known tokenizer.
const (
	maxFileBytes  = 256 << 20
	maxTokens     = 1 << 22
	maxMerges     = 1 << 23
	maxPieceBytes = 1 << 16
	maxUnusedIDs  = 1 << 12 // a few vocabularies leave ids out
)

// A vocabulary is the tokens of a file while it is read: pieces and ids are each unique.
type vocabulary struct {
	ids   map[string]int32
	maxID int32
}

// newVocabulary returns an empty vocabulary with room for n tokens.
func newVocabulary(n int) *vocabulary { return &vocabulary{ids: make(map[string]int32, n), maxID: -1} }

func (v *vocabulary) add(piece string, id int32) error {
	if len(piece) > maxPieceBytes {
		return fmt.Errorf("token %d has %d bytes; the limit is %d", id, len(piece), maxPieceBytes)
	}
	if old, ok := v.ids[piece]; ok {
		return fmt.Errorf("token %.100q has two ids: %d and %d", piece, old, id)
	}
	if len(v.ids) >= maxTokens || id < 0 || id >= maxTokens {
		return fmt.Errorf("token %.100q has id %d; the limit is %d tokens", piece, id, maxTokens)
	}
	v.ids[piece] = id
	v.maxID = max(v.maxID, id)
	return nil
}

// tokenizer returns a Tokenizer that has these tokens, all plain, and nothing else yet.
func (v *vocabulary) tokenizer() (*Tokenizer, error) {
	size := int(v.maxID) + 1
	if size == 0 {
		return nil, fmt.Errorf("the vocabulary is empty")
	}
	if missing := size - len(v.ids); missing > maxUnusedIDs {
		return nil, fmt.Errorf("the largest token id is %d, but there are %d tokens: %d ids are unused, the limit is %d",
			v.maxID, len(v.ids), missing, maxUnusedIDs)
	}
	t := &Tokenizer{pieces: make([]string, size), kinds: make([]kind, size), ids: v.ids, bos: noToken, eos: noToken}
	for piece, id := range v.ids {
		if t.kinds[id] != unused {
			return nil, fmt.Errorf("tokens %.100q and %.100q have the same id %d", piece, t.pieces[id], id)
		}
		t.pieces[id], t.kinds[id] = piece, plain
	}
	t.texts = append([]string(nil), t.pieces...)
	return t, nil
}

// newBPE returns a model that knows words, the mergeable tokens by their text, and no merges yet. size is the size of
// the id space. A word of one byte (byteSymbols) or one rune is a symbol.
func newBPE(words map[string]int32, size int, byteSymbols bool) *bpe {
	m := &bpe{byteSymbols: byteSymbols, words: words, unknown: noToken, whole: make([]atomic.Uint32, size)}
	for i := range m.symbols {
		m.symbols[i], m.fallback[i] = noToken, noToken
	}
	if !byteSymbols {
		m.runes = map[rune]int32{}
	}
	for text, id := range words {
		m.longestWord = max(m.longestWord, len(text))
		m.addSymbol(text, id)
	}
	return m
}

func (m *bpe) addSymbol(text string, id int32) {
	if m.byteSymbols {
		if len(text) == 1 {
			m.symbols[text[0]] = id
		}
		return
	}
	r, n := utf8.DecodeRuneInString(text)
	switch {
	case n != len(text) || n == 0 || r == utf8.RuneError && n == 1:
	case r < utf8.RuneSelf:
		m.symbols[r] = id
	default:
		m.runes[r] = id
	}
}

// useByteFallback gives runes without a token the byte tokens <0x00> to <0xFF>, as far as ids has them.
func (m *bpe) useByteFallback(ids map[string]int32) {
	for b := range 256 {
		if id, ok := ids[fmt.Sprintf("<0x%02X>", b)]; ok {
			m.fallback[b] = id
		}
	}
}
