package constraint

import (
	"cmp"
	"slices"
	"unicode/utf8"
)

// Tokens is a tokenizer.
type Tokens interface {
	// NumTokens is the largest id + 1.
	NumTokens() int
	// TokenBytes are the bytes that a token adds to a text; false for an id without a token.
	TokenBytes(id int32) (string, bool)
	// IsSpecial reports a control token, which is never part of a text.
	IsSpecial(id int32) bool
}

// Vocabulary is the tokens of a model that have a text and may be part of one, as a tree by their bytes: one for all programs and requests,
// read-only.
//
// The tree's nodes, the starts of texts, stand in the order of these, so that what begins with a start follows it.
type Vocabulary struct {
	size  int      // of the id space
	texts []string // [size] "" for a token that is not in the tree

	ids     []int32 // tokens in the order of their texts
	bytes   []byte  // [node] the last byte of the start
	depth   []int32 // [node] its length
	behind  []int32 // [node] the first node that does not begin with it
	first   []int32 // [node + 1] in ids: the first token that begins with it, or would stand there
	bunch   []int32 // [node] in bunches, for a start of many tokens; −1: few
	bunches []bunch
	longest int // bytes of a text
}

// bunch is what follows a start of many tokens.
type bunch struct {
	bytes      byteSet
	characters int  // of the longest
	whole      bool // each is characters, but that the last may be a part of one
}

const manyTokens = 8 // from there on a bunch pays

// NewVocabulary takes the tokens of a model whose ids are below size, which may be more than its tokenizer has. It takes some 100 ms at 128k
// tokens, and is made once a model.
func NewVocabulary(tokens Tokens, size int) *Vocabulary {
	v := &Vocabulary{size: size, texts: make([]string, size)}
	for id := range int32(min(size, tokens.NumTokens())) {
		if text, ok := tokens.TokenBytes(id); ok && text != "" && !tokens.IsSpecial(id) {
			v.texts[id] = text
			v.ids = append(v.ids, id)
		}
	}
	slices.SortFunc(v.ids, func(a, b int32) int { return cmp.Or(cmp.Compare(v.texts[a], v.texts[b]), cmp.Compare(a, b)) })
	v.plant()
	v.describe()
	return v
}

// plant makes the nodes.
func (v *Vocabulary) plant() {
	var path []int32 // the nodes of the last text
	last := ""
	for i, id := range v.ids {
		text := v.texts[id]
		shared := 0
		for shared < len(last) && shared < len(text) && last[shared] == text[shared] {
			shared++
		}
		for _, node := range path[shared:] {
			v.behind[node] = int32(len(v.bytes))
		}
		path = path[:shared]
		for at := shared; at < len(text); at++ {
			path = append(path, int32(len(v.bytes)))
			v.bytes, v.depth = append(v.bytes, text[at]), append(v.depth, int32(at+1))
			v.first, v.behind = append(v.first, int32(i)), append(v.behind, 0)
		}
		last, v.longest = text, max(v.longest, len(text))
	}
	for _, node := range path {
		v.behind[node] = int32(len(v.bytes))
	}
	v.first = append(v.first, int32(len(v.ids)))
}

// describe makes the bunches.
func (v *Vocabulary) describe() {
	v.bunch = make([]int32, len(v.bytes))
	var open []int32 // those that the node begins with
	for node := range int32(len(v.bytes)) {
		for len(open) > 0 && v.behind[open[len(open)-1]] <= node {
			open = open[:len(open)-1]
		}
		for _, start := range open {
			v.bunches[v.bunch[start]].bytes.add(v.bytes[node])
		}
		v.bunch[node] = -1
		if v.first[v.behind[node]]-v.first[node] >= manyTokens {
			v.bunch[node] = int32(len(v.bunches))
			v.bunches = append(v.bunches, bunch{whole: true})
			open = append(open, node)
		}
		if v.first[node] < v.first[node+1] {
			for _, start := range open {
				v.bunches[v.bunch[start]].take(v.texts[v.ids[v.first[node]]][v.depth[start]:])
			}
		}
	}
}

// take adds a text.
func (b *bunch) take(text string) {
	characters := 0
	for ; text != ""; characters++ {
		r, n := utf8.DecodeRuneInString(text)
		if r == utf8.RuneError && n < 2 {
			b.whole = b.whole && !utf8.FullRuneInString(text)
			n = 1
		}
		text = text[n:]
	}
	b.characters = max(b.characters, characters)
}

// maskWords is the length of a mask.
func (v *Vocabulary) maskWords() int { return (v.size + 31) / 32 }
