package tokenizer

import (
	"slices"
	"strings"
	"testing"
)

// The index agrees with a look at every token.
func TestTokensAreFoundByText(t *testing.T) {
	words := []string{"", "a", "ab", "abc", "b", "bc", "ca", "abca", "ä", "\xc3", "\xa4x", "aa", "aaaa", "", "c"}
	tok := &Tokenizer{texts: words, pieces: words, kinds: make([]kind, len(words))}
	for i := range tok.kinds {
		tok.kinds[i] = plain
	}
	tok.kinds[13] = unused
	tok.kinds[7] = control
	for _, want := range []string{"a", "ab", "abc", "abcd", "b", "ca", "c", "\xc3", "\xa4", "ä", "aa", "aaa", "x", "zz", "aaaaa", "bca"} {
		var prefixed []string
		for id, text := range words {
			if tok.kinds[id] == unused || text == "" {
				continue
			}
			if strings.HasPrefix(text, want) {
				prefixed = append(prefixed, text)
			}
		}
		slices.Sort(prefixed)
		texts := func(ids []int32) (out []string) {
			for _, id := range ids {
				out = append(out, words[id])
			}
			return out
		}
		begin := tok.AllByText()
		for i := range len(want) {
			begin = begin.Next(want[i])
		}
		var ids []int32
		for id, text := range begin.Texts() {
			if ids = append(ids, id); text != words[id] {
				t.Errorf("token %d is %q, want %q", id, text, words[id])
			}
		}
		if got := texts(begin.IDs()); !slices.Equal(got, prefixed) || !slices.Equal(ids, begin.IDs()) {
			t.Errorf("tokens that start with %q: %q, want %q", want, got, prefixed)
		}
	}
}
