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
// The tree is the starts of texts, in order, so that what begins with a start follows it.
type Vocabulary struct {
	size  int      // of the id space
	texts []string // [size] "" for a token that is not in the tree

	ids     []int32      // tokens in the order of their texts
	starts  []tokenStart // the last is none: it stands behind all others
	bunches []bunch
	longest int // bytes of a text
}

// tokenStart is the start of a text.
type tokenStart struct {
	behind int32 // the first start that does not begin with it
	first  int32 // in ids: the first token that begins with it, or would stand there
	bunch  int32 // in bunches, for a start of many tokens; −1: few
	length uint16
	last   byte
}

// bunch is what follows a start of many tokens.
type bunch struct {
	bytes      byteSet
	characters int  // of the longest
	whole      bool // each is characters, but that the last may be a part of one
}

const (
	manyTokens   = 8       // from there on a bunch pays
	maxTokenText = 1 << 12 // bytes; a longer token is never allowed
)

// NewVocabulary takes the tokens of a model whose ids are below size, which may be more than its tokenizer has. It takes some 100 ms at 128k
// tokens, and is made once a model.
func NewVocabulary(tokens Tokens, size int) *Vocabulary {
	v := &Vocabulary{size: size, texts: make([]string, size)}
	for id := range int32(min(size, tokens.NumTokens())) {
		if text, ok := tokens.TokenBytes(id); ok && text != "" && len(text) <= maxTokenText && !tokens.IsSpecial(id) {
			v.texts[id] = text
			v.ids = append(v.ids, id)
		}
	}
	slices.SortFunc(v.ids, func(a, b int32) int { return cmp.Or(cmp.Compare(v.texts[a], v.texts[b]), cmp.Compare(a, b)) })
	v.plant()
	v.describe()
	return v
}

// plant makes the starts.
func (v *Vocabulary) plant() {
	var path []int32 // the starts of the last text
	last := ""
	leave := func(shared int) {
		for _, start := range path[shared:] {
			v.starts[start].behind = int32(len(v.starts))
		}
		path = path[:shared]
	}
	for i, id := range v.ids {
		text := v.texts[id]
		shared := 0
		for shared < len(last) && shared < len(text) && last[shared] == text[shared] {
			shared++
		}
		leave(shared)
		for at := shared; at < len(text); at++ {
			path = append(path, int32(len(v.starts)))
			v.starts = append(v.starts, tokenStart{first: int32(i), bunch: -1, length: uint16(at + 1), last: text[at]})
		}
		last, v.longest = text, max(v.longest, len(text))
	}
	leave(0)
	v.starts = append(v.starts, tokenStart{first: int32(len(v.ids))})
}

// tokens are those that begin with a start.
func (v *Vocabulary) tokens(start int32) []int32 {
	s := &v.starts[start]
	return v.ids[s.first:v.starts[s.behind].first]
}

// same are the tokens whose text is a start.
func (v *Vocabulary) same(start int32) []int32 {
	return v.ids[v.starts[start].first:v.starts[start+1].first]
}

// describe makes the bunches.
func (v *Vocabulary) describe() {
	var open []int32 // those that a start begins with
	for start := range int32(len(v.starts) - 1) {
		s := &v.starts[start]
		for len(open) > 0 && v.starts[open[len(open)-1]].behind <= start {
			open = open[:len(open)-1]
		}
		for _, o := range open {
			v.bunches[v.starts[o].bunch].bytes.add(s.last)
		}
		if len(v.tokens(start)) >= manyTokens {
			s.bunch = int32(len(v.bunches))
			v.bunches = append(v.bunches, bunch{whole: true})
			open = append(open, start)
		}
		if same := v.same(start); len(same) > 0 {
			for _, o := range open {
				v.bunches[v.starts[o].bunch].take(v.texts[same[0]][v.starts[o].length:])
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
