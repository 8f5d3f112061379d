package tokenizer

import (
	"cmp"
	"iter"
	"slices"
	"sort"
	"strings"
	"sync"
)

// textIndex finds tokens by their texts. It is made the first time that somebody looks: most servers never do.
type textIndex struct {
	once   sync.Once
	sorted []int32 // ids of tokens with a text, by text
	joined string  // the texts in this order
	starts []int   // of each in joined, and the end of the last
}

func (t *Tokenizer) textIndex() *textIndex {
	x := &t.index
	x.once.Do(func() {
		for id := range t.texts {
			if t.has(int32(id)) && t.texts[id] != "" {
				x.sorted = append(x.sorted, int32(id))
			}
		}
		slices.SortFunc(x.sorted, func(a, b int32) int { return cmp.Or(cmp.Compare(t.texts[a], t.texts[b]), cmp.Compare(a, b)) })
		var joined strings.Builder
		for _, id := range x.sorted {
			x.starts = append(x.starts, joined.Len())
			joined.WriteString(t.texts[id])
		}
		x.starts = append(x.starts, joined.Len())
		x.joined = joined.String()
	})
	return x
}

// ByText is the tokens whose texts, as TokenBytes gives them, begin alike, ordered by text.
type ByText struct {
	index  *textIndex
	lo, hi int // in index.sorted
	length int // bytes of what they begin with
}

// AllByText is all tokens that have a text.
func (t *Tokenizer) AllByText() ByText {
	x := t.textIndex()
	return ByText{index: x, hi: len(x.sorted)}
}

// Next is those of them whose texts go on with a byte.
func (p ByText) Next(b byte) ByText {
	goesOn := func(i int) int { // −1 where the text ends
		if at := p.index.starts[i] + p.length; at < p.index.starts[i+1] {
			return int(p.index.joined[at])
		}
		return -1
	}
	from := p.lo + sort.Search(p.hi-p.lo, func(i int) bool { return goesOn(p.lo+i) >= int(b) })
	to := from + sort.Search(p.hi-from, func(i int) bool { return goesOn(from+i) > int(b) })
	return ByText{index: p.index, lo: from, hi: to, length: p.length + 1}
}

// Texts are the tokens with their texts, in their order.
func (p ByText) Texts() iter.Seq2[int32, string] {
	return func(yield func(int32, string) bool) {
		for i := p.lo; i < p.hi; i++ {
			if x := p.index; !yield(x.sorted[i], x.joined[x.starts[i]:x.starts[i+1]]) {
				return
			}
		}
	}
}

// IDs are the tokens. The caller must not change them.
func (p ByText) IDs() []int32 { return p.index.sorted[p.lo:p.hi:p.hi] }
