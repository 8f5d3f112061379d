package tokenizer

import (
	"cmp"
	"slices"
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

// WithPrefix returns the tokens whose texts, as TokenBytes gives them, start with these bytes, ordered by text. The caller must not change
// them.
func (t *Tokenizer) WithPrefix(prefix string) []int32 {
	x := t.textIndex()
	from, _ := slices.BinarySearchFunc(x.sorted, prefix, func(id int32, want string) int { return cmp.Compare(t.texts[id], want) })
	n, _ := slices.BinarySearchFunc(x.sorted[from:], prefix, func(id int32, want string) int {
		if strings.HasPrefix(t.texts[id], want) {
			return -1
		}
		return 1
	})
	return x.sorted[from : from+n : from+n]
}

// Containing returns the tokens whose texts contain these bytes, not empty, ordered by text.
func (t *Tokenizer) Containing(text string) (ids []int32) {
	x := t.textIndex()
	for at := 0; ; {
		i := strings.Index(x.joined[at:], text)
		if i < 0 {
			return ids
		}
		at += i
		token, exact := slices.BinarySearch(x.starts, at)
		if !exact {
			token--
		}
		if at+len(text) > x.starts[token+1] { // in two texts
			at++
			continue
		}
		ids = append(ids, x.sorted[token])
		at = x.starts[token+1]
	}
}
