package server

import (
	"slices"

	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/tokenizer"
)

// bannedText keeps an output from ever containing one of the banned strings: of one continuation, on the engine's loop. A token that would
// complete one is left out before it is sampled, however the text falls into tokens: it contains the string, or the output so far ends with a
// start of it and the token starts with the rest.
//
// It goes by the bytes of tokens. A U+FFFD that stands for bytes that are no character is not among them.
type bannedText struct {
	tokenizer *tokenizer.Tokenizer
	silent    func(id int32) bool // adds no text to this output
	always    []uint32            // the mask where the output ends with no start of any string; shared
	strings   []prefixMatcher
	mask      []uint32
	near      bool // the output ends with a start of one
	current   bool // and mask is that of the tokens so far
}

// newBannedText returns what makes one for each continuation.
func newBannedText(g *generation, texts []string) func() engine.Masker {
	t := g.model.Tokenizer
	silent := func(id int32) bool { return g.skipSpecial && t.IsSpecial(id) || g.ends(id) && !g.includeStop }
	always := make([]uint32, (g.model.Info.VocabularySize+31)/32)
	for id := range g.model.Info.VocabularySize {
		always[id/32] |= 1 << (id % 32)
	}
	texts = slices.Compact(slices.Sorted(slices.Values(texts)))
	matchers := make([]prefixMatcher, len(texts))
	for i, text := range texts {
		matchers[i] = newPrefixMatcher(text)
		leaveOut(always, t.Containing(text), silent)
	}
	return func() engine.Masker {
		return &bannedText{
			tokenizer: t, silent: silent, always: always, strings: append([]prefixMatcher(nil), matchers...), mask: make([]uint32, len(always)),
		}
	}
}

func leaveOut(mask []uint32, ids []int32, silent func(int32) bool) {
	for _, id := range ids {
		if !silent(id) {
			mask[id/32] &^= 1 << (id % 32)
		}
	}
}

// Mask implements engine.Masker.
func (b *bannedText) Mask() []uint32 {
	switch {
	case !b.near:
		return b.always
	case b.current:
		return b.mask
	}
	copy(b.mask, b.always)
	for i := range b.strings {
		s := &b.strings[i]
		for n := s.matched; n > 0; n = int(s.borders[n-1]) {
			leaveOut(b.mask, b.tokenizer.WithPrefix(s.text[n:]), b.silent)
		}
	}
	b.current = true
	return b.mask
}

// Accept implements engine.Masker.
func (b *bannedText) Accept(id int32) {
	b.current = false
	text, ok := b.tokenizer.TokenBytes(id)
	if !ok || b.silent(id) {
		return
	}
	b.near = false
	for i := range b.strings {
		for j := range len(text) {
			b.strings[i].step(text[j])
		}
		b.near = b.near || b.strings[i].matched > 0
	}
}
