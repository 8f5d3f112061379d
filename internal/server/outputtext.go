package server

import (
	"strings"

	"github.com/inferno-serve/inferno/internal/tokenizer"
)

// outputText turns the tokens of a continuation into text, and ends it where a stop string is complete. Text that may yet turn out to be the
// start of one is held back, so that no part of a stop string is ever sent.
//
// Of several stop strings the one ends the output that is complete first, the longest of those that are complete with the same byte. So how
// the text falls into tokens makes no difference.
type outputText struct {
	decoder *tokenizer.Decoder
	stops   []prefixMatcher
	held    string // the longest end of the text that starts a stop string
}

// stopMatch is a stop string found.
type stopMatch struct{ text string }

func newOutputText(decoder *tokenizer.Decoder, stopStrings []string) *outputText {
	t := &outputText{decoder: decoder}
	for _, s := range stopStrings {
		t.stops = append(t.stops, newPrefixMatcher(s))
	}
	return t
}

// write returns the text that became certain with a token, and the stop string that is complete with it; only if mayStop.
func (t *outputText) write(id int32, mayStop bool) (string, *stopMatch) {
	return t.release(t.decoder.Write(id), mayStop)
}

// flush returns the rest.
func (t *outputText) flush(mayStop bool) (string, *stopMatch) {
	text, match := t.release(t.decoder.Flush(), mayStop)
	if match == nil {
		text, t.held = text+t.held, ""
	}
	return text, match
}

func (t *outputText) release(text string, mayStop bool) (string, *stopMatch) {
	if len(t.stops) == 0 {
		return text, nil
	}
	whole := t.held + text
	for i := range len(text) {
		found := ""
		for j := range t.stops {
			if s := &t.stops[j]; s.step(text[i]) && mayStop && len(s.text) > len(found) {
				found = s.text
			}
		}
		if found != "" {
			t.held = ""
			return whole[:len(whole)-len(text)+i+1-len(found)], &stopMatch{found}
		}
	}
	longest := 0
	for i := range t.stops {
		longest = max(longest, t.stops[i].matched)
	}
	cut := len(whole) - longest
	t.held = strings.Clone(whole[cut:])
	return whole[:cut], nil
}

// prefixMatcher follows a text byte by byte and knows the longest start of its own string that the text ends with (Knuth, Morris, Pratt: Fast
// pattern matching in strings, 1977).
type prefixMatcher struct {
	text    string
	borders []int16 // [len] of the longest proper start of text[:i+1] that is also its end
	matched int     // bytes; less than all between steps
}

func newPrefixMatcher(text string) prefixMatcher {
	m := prefixMatcher{text: text, borders: make([]int16, len(text))}
	for i := 1; i < len(text); i++ {
		k := int(m.borders[i-1])
		for k > 0 && text[k] != text[i] {
			k = int(m.borders[k-1])
		}
		if text[k] == text[i] {
			k++
		}
		m.borders[i] = int16(k)
	}
	return m
}

// step takes the next byte and says whether the text now ends with the whole string.
func (m *prefixMatcher) step(b byte) (whole bool) {
	for m.matched > 0 && m.text[m.matched] != b {
		m.matched = int(m.borders[m.matched-1])
	}
	if m.text[m.matched] == b {
		m.matched++
	}
	if m.matched < len(m.text) {
		return false
	}
	m.matched = int(m.borders[m.matched-1])
	return true
}
