package tokenizer

import (
	"slices"
	"unicode/utf8"
)

// MinTokens returns a number of tokens that a text cannot have less of, whatever the EncodeOptions: by its length, and without the work of
// encoding it. It is 0 where nothing can be said: where a token takes all blanks beside it, or a normalizer takes out what it likes.
func (t *Tokenizer) MinTokens(text string) int { return t.atLeast(text, t.maxTokenText) }

// measure sets what one token can stand for, once everything else is set.
func (t *Tokenizer) measure() {
	t.maxTokenPiece, t.maxTokenText, t.skips = t.longest(), 0, t.model.skips()
	for _, m := range []*matcher{t.added, t.normalized} {
		if m != nil && slices.ContainsFunc(m.tokens, func(a addedToken) bool { return a.lstrip || a.rstrip }) {
			return
		}
	}
	if t.skips && len(t.normalize)+len(t.prepare) > 0 {
		return // what has a token may become what has none
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

// skips reports whether symbols without a token are dropped, or a run of them is one token.
func (m *bpe) skips() bool {
	symbols := &m.fallback
	if m.byteSymbols {
		symbols = &m.symbols
	}
	return slices.Contains(symbols[:], noToken) && (m.unknown == noToken || m.fuseUnknown)
}

// atLeast returns a number of tokens that a text or a piece cannot have less of, where none stands for more than maxBytes; 0 for no bound.
func (t *Tokenizer) atLeast(text string, maxBytes int) int {
	if maxBytes == 0 {
		return 0
	}
	n := len(text)
	if t.skips {
		n = t.model.known(text)
	}
	return (n + maxBytes - 1) / maxBytes
}

// known returns the bytes of what has tokens: SmolLM2 has none for some control characters, and a text of them has no token at all.
func (m *bpe) known(text string) (n int) {
	if m.byteSymbols {
		for i := range len(text) {
			if m.symbols[text[i]] != noToken {
				n++
			}
		}
		return n
	}
	for i, r := range text {
		char := text[i : i+utf8.RuneLen(r)]
		if m.symbolOf(r) != noToken {
			n += len(char)
		} else if _, ok := m.appendBytes(nil, char); ok {
			n += len(char)
		}
	}
	return n
}
