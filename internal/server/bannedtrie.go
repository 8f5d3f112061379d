package server

import "github.com/inferno-serve/inferno/internal/tokenizer"

// bannedTrie is texts as one automaton (Aho and Corasick: Efficient string matching, 1975). It has a node for each start of a text; node 0 is the
// empty one. Read-only once made: the continuations of a request share it.
type bannedTrie []bannedNode

type bannedNode struct {
	first, sibling int32 // the first of the starts that are a byte longer, and the next of those of the parent; 0 for none
	fail           int32 // the longest proper end of this start that is a start too
	last           byte  // of this start
	whole          bool  // it is a text
	ends           bool  // it ends with a text
}

// newBannedTrie is that of texts, none empty.
func newBannedTrie(texts []string) bannedTrie {
	t := bannedTrie{{}}
	for _, text := range texts {
		at := int32(0)
		for i := range len(text) {
			on := t.child(at, text[i])
			if on == 0 {
				on = int32(len(t))
				t = append(t, bannedNode{last: text[i], sibling: t[at].first})
				t[at].first = on
			}
			at = on
		}
		t[at].whole = true
	}
	for queue := []int32{0}; len(queue) > 0; queue = queue[1:] { // by length, since those that fail goes to are shorter
		at := queue[0]
		for on := t[at].first; on != 0; on = t[on].sibling {
			if at != 0 {
				t[on].fail = t.step(t[at].fail, t[on].last)
			}
			t[on].ends = t[on].whole || t[t[on].fail].ends
			queue = append(queue, on)
		}
	}
	return t
}

// contained are the tokens whose own bytes contain a text: by one walk over all tokens in the order of their texts, of which each goes on where it
// parts from the one before.
func (t bannedTrie) contained(tokens *tokenizer.Tokenizer) (ids []int32) {
	var root [256]int32 // where most bytes lead from
	for on := t[0].first; on != 0; on = t[on].sibling {
		root[t[on].last] = on
	}
	before, starts := "", []int32{0} // nodes after each start of `before`, the empty one first
	for id, text := range tokens.AllByText().Texts() {
		same := 0
		for same < len(starts)-1 && same < len(text) && text[same] == before[same] {
			same++
		}
		before, starts = text, starts[:same+1]
		for len(starts) <= len(text) && !t[starts[len(starts)-1]].ends { // a text that is found ends the walk along this token
			at, next := starts[len(starts)-1], text[len(starts)-1]
			on := int32(0)
			for ; at != 0 && on == 0; at = t[at].fail {
				on = t.child(at, next)
			}
			if on == 0 {
				on = root[next]
			}
			starts = append(starts, on)
		}
		if t[starts[len(starts)-1]].ends {
			ids = append(ids, id)
		}
	}
	return ids
}

// child is the start that is a byte longer; 0 where there is none.
func (t bannedTrie) child(at int32, b byte) int32 {
	on := t[at].first
	for on != 0 && t[on].last != b {
		on = t[on].sibling
	}
	return on
}

// step is the longest start that a text ends with, once a byte follows one that ended with the start at.
func (t bannedTrie) step(at int32, b byte) int32 {
	for {
		if on := t.child(at, b); on != 0 || at == 0 {
			return on
		}
		at = t[at].fail
	}
}
