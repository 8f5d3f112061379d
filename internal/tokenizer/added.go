package tokenizer

import (
	"unicode"
	"unicode/utf8"
)

// An addedToken is matched in the text itself, before the model cuts it.
type addedToken struct {
	id         int32
	text       string // what is matched
	special    bool   // a control token: plain text unless EncodeOptions.ParseSpecial
	lstrip     bool   // takes the blanks before it
	rstrip     bool   // takes the blanks after it
	singleWord bool   // matches between non-word runes only
}

// maxAddedBytes bounds the text of an added token, and so the time to look for one at each byte of a text.
const maxAddedBytes = 1024

// A matcher finds added tokens: a byte trie, the leftmost match, the longest among those.
type matcher struct {
	tokens     []addedToken
	first      [256]bool        // bytes that start a token
	edges      map[uint64]int32 // node<<8 | byte → node; the root is node 0
	ends       []int32          // [nodes] index in tokens of the token that ends there, −1 for none
	allSpecial bool             // no token matches without ParseSpecial
	anySpecial bool
}

// newMatcher returns nil when there are no tokens.
func newMatcher(tokens []addedToken) *matcher {
	if len(tokens) == 0 {
		return nil
	}
	m := &matcher{tokens: tokens, edges: map[uint64]int32{}, ends: []int32{-1}, allSpecial: true}
	for i, t := range tokens {
		m.allSpecial, m.anySpecial = m.allSpecial && t.special, m.anySpecial || t.special
		m.first[t.text[0]] = true
		m.ends[m.add(t.text)] = int32(i)
	}
	return m
}

// add makes the path of text and returns its last node.
func (m *matcher) add(text string) int32 {
	node := int32(0)
	for i := range len(text) {
		edge := uint64(node)<<8 | uint64(text[i])
		next, ok := m.edges[edge]
		if !ok {
			next = int32(len(m.ends))
			m.edges[edge] = next
			m.ends = append(m.ends, -1)
		}
		node = next
	}
	return node
}

// longest returns the longest token at text[at], of those that may be there.
func (m *matcher) longest(text string, at int, may func(t *addedToken) bool) (found *addedToken) {
	node := int32(0)
	for i := at; i < len(text); i++ {
		next, ok := m.edges[uint64(node)<<8|uint64(text[i])]
		if !ok {
			break
		}
		node = next
		if t := m.ends[node]; t >= 0 && (may == nil || may(&m.tokens[t])) {
			found = &m.tokens[t]
		}
	}
	return found
}

// A match is an added token at text[start:end], blanks that it takes included.
type match struct {
	start, end int
	id         int32
}

// A search walks over the matches of one text.
type search struct {
	*matcher
	text         string
	parseSpecial bool
	content      content // of text: where no special token is, though parseSpecial says so
	at           int     // where to look next
	taken        int     // end of the last match
}

// next returns the next match. A token that does not qualify is passed over as a whole.
func (s *search) next() (match, bool) {
	if s.matcher == nil || s.allSpecial && !s.parseSpecial {
		return match{}, false
	}
	for s.at < len(s.text) {
		if !s.first[s.text[s.at]] {
			s.at++
			continue
		}
		t := s.longest(s.text, s.at, nil)
		if t != nil && s.crosses(t) {
			start := s.at
			t = s.longest(s.text, start, func(t *addedToken) bool { return !t.special || !s.content.touches(start, start+len(t.text)) })
		}
		if t == nil {
			s.at++
			continue
		}
		start := s.at
		s.at += len(t.text)
		if s.qualifies(t, start) {
			return s.widen(t, start), true
		}
	}
	return match{}, false
}

// crosses reports whether a special token here is partly of content, so that it is none. What is wholly of content is passed over as a
// whole, as if no special token was looked for.
func (s *search) crosses(t *addedToken) bool {
	end := s.at + len(t.text)
	return t.special && s.content.touches(s.at, end) && !s.content.holds(s.at, end)
}

func (s *search) qualifies(t *addedToken, start int) bool {
	if t.special && (!s.parseSpecial || s.content.touches(start, start+len(t.text))) {
		return false
	}
	return !t.singleWord || !endsInWord(s.text[:start]) && !startsWithWord(s.text[start+len(t.text):])
}

func (s *search) widen(t *addedToken, start int) match {
	m := match{start: start, end: start + len(t.text), id: t.id}
	for t.lstrip && m.start > s.taken {
		r, n := utf8.DecodeLastRuneInString(s.text[:m.start])
		if !unicode.IsSpace(r) {
			break
		}
		m.start -= n
	}
	for t.rstrip && m.end < len(s.text) {
		r, n := utf8.DecodeRuneInString(s.text[m.end:])
		if !unicode.IsSpace(r) {
			break
		}
		m.end += n
	}
	m.start = max(m.start, s.taken)
	m.end = max(m.end, m.start)
	s.taken = m.end
	return m
}
