package server

import (
	"cmp"
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
	trie      bannedTrie          // shared
	at        int32               // the longest start of a string that the output ends with
	mask      []uint32
	current   bool    // mask is that of the tokens so far
	nodes     []int32 // a stack
}

// newBannedText returns what makes one for each continuation.
func newBannedText(g *generation, texts []string) func() engine.Masker {
	t := g.model.Tokenizer
	silent := func(id int32) bool { return g.skipSpecial && t.IsSpecial(id) || g.ends(id) && !g.includeStop }
	always := make([]uint32, (g.model.Info.VocabularySize+31)/32)
	for id := range g.model.Info.VocabularySize {
		always[id/32] |= 1 << (id % 32)
	}
	trie := newBannedTrie(slices.Compact(slices.Sorted(slices.Values(texts))))
	leaveOut(always, trie.contained(t), silent)
	return func() engine.Masker {
		return &bannedText{tokenizer: t, silent: silent, always: always, trie: trie, mask: make([]uint32, len(always))}
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
	case b.at == 0:
		return b.always
	case b.current:
		return b.mask
	}
	copy(b.mask, b.always)
	b.nodes = b.nodes[:0]
	for at := b.at; at != 0; at = b.trie[at].fail {
		b.nodes = append(b.nodes, at)
	}
	b.complete(b.nodes, b.tokenizer.AllByText())
	b.current = true
	return b.mask
}

// complete leaves out the tokens of some that begin alike that complete a string, where nodes are the starts that the output ends with once it
// goes on with that beginning: all at once, since there may be hundreds of them, and few beginnings that tokens have.
func (b *bannedText) complete(nodes []int32, tokens tokenizer.ByText) {
	mark := len(b.nodes)
	for _, at := range nodes {
		for on := b.trie[at].first; on != 0; on = b.trie[on].sibling {
			b.nodes = append(b.nodes, on)
		}
	}
	longer := b.nodes[mark:]
	slices.SortFunc(longer, func(x, y int32) int { return cmp.Compare(b.trie[x].last, b.trie[y].last) })
	for len(longer) > 0 {
		next, n, whole := b.trie[longer[0]].last, 0, false
		for ; n < len(longer) && b.trie[longer[n]].last == next; n++ {
			whole = whole || b.trie[longer[n]].whole
		}
		switch found := tokens.Next(next); {
		case whole:
			leaveOut(b.mask, found.IDs(), b.silent)
		case len(found.IDs()) > 0:
			b.complete(longer[:n], found)
		}
		longer = longer[n:]
	}
	b.nodes = b.nodes[:mark]
}

// Accept implements engine.Masker.
func (b *bannedText) Accept(id int32) {
	b.current = false
	text, ok := b.tokenizer.TokenBytes(id)
	if !ok || b.silent(id) {
		return
	}
	for i := range len(text) {
		b.at = b.trie.step(b.at, text[i])
	}
}
