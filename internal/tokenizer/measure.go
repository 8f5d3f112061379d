package tokenizer

import (
	"slices"
	"unicode/utf8"
)

// MaxTokenBytes returns the most bytes of a text that one token can stand for, so that a text of n times as many bytes has at least n
// tokens. It is 0 where there is no such bound: where a token takes all blanks beside it, or bytes may vanish.
func (t *Tokenizer) MaxTokenBytes() int { return t.maxTokenText }

// measure sets what one token can stand for, once everything else is set.
func (t *Tokenizer) measure() {
	t.maxTokenPiece, t.maxTokenText = t.longest(), 0
	if t.model.skips() {
		t.maxTokenPiece = 0
	}
	for _, m := range []*matcher{t.added, t.normalized} {
		if m != nil && slices.ContainsFunc(m.tokens, func(a addedToken) bool { return a.lstrip || a.rstrip }) {
			return
		}
	}
	t.maxTokenText = t.maxTokenPiece * shrinkage(t.normalize) * shrinkage(t.prepare)
}

// longest returns the bytes of the longest token, or of a rune that an unknown token stands for, in a text that is normalized.
func (t *Tokenizer) longest() int {
	n := utf8.UTFMax
	texts := t.pieces
	if t.model.byteSymbols {
		texts = t.texts
	}
	for _, text := range texts {
		n = max(n, len(text))
	}
	for _, m := range []*matcher{t.added, t.normalized} {
		if m == nil {
			continue
		}
		for _, a := range m.tokens {
			n = max(n, len(a.text))
		}
	}
	return n
}

// skips reports whether a piece of any length may have no token, or one: symbols without a token are dropped or fused.
func (m *bpe) skips() bool {
	symbols := &m.fallback
	if m.byteSymbols {
		symbols = &m.symbols
	}
	return slices.Contains(symbols[:], noToken) && (m.unknown == noToken || m.fuseUnknown)
}

// atLeast returns a number of tokens that a piece of so many bytes cannot have less of.
func (t *Tokenizer) atLeast(pieceBytes int) int {
	if t.maxTokenPiece == 0 {
		return 0
	}
	return (pieceBytes + t.maxTokenPiece - 1) / t.maxTokenPiece
}
