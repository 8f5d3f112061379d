package tokenizer

import (
	"unicode"
	"unicode/utf8"
)

// class is what the pre-tokenizers' patterns tell runes apart by.
type class uint8

const (
	other   class = iota // [^\s\p{L}\p{N}]
	letter               // \p{L}
	number               // \p{N}
	space                // \s without the newlines
	newline              // [\r\n]
)

func (c class) blank() bool { return c == space || c == newline }

// numTabled is how many runes have their classes in a table: those of most alphabets, which lie far down in those of the standard library.
const numTabled = 0x3100

// tabledClass is unicodeClass for the first runes.
var tabledClass = func() (t [numTabled]class) {
	for r := range t {
		t[r] = unicodeClass(rune(r))
	}
	return t
}()

func classOf(r rune) class {
	switch {
	case r < numTabled:
		return tabledClass[r]
	case isIdeograph(r):
		return letter
	}
	return unicodeClass(r)
}

// isIdeograph tells of letters that stand in long rows beyond the tables: those of Chinese with extension A, of Hangul and of Yi.
func isIdeograph(r rune) bool {
	return r >= 0x4e00 && r <= 0x9fff || r >= firstHangul && r <= lastHangul || r >= 0x3400 && r <= 0x4dbf || r >= 0xa000 && r <= 0xa48c
}

func unicodeClass(r rune) class {
	switch {
	case r == '\n' || r == '\r':
		return newline
	case unicode.IsLetter(r):
		return letter
	case unicode.IsNumber(r):
		return number
	case unicode.IsSpace(r):
		return space
	}
	return other
}

// classAt returns the class and the width in bytes of the rune at s[i]. At the end of s it is (other, 0).
func classAt(s string, i int) (class, int) {
	if i >= len(s) {
		return other, 0
	}
	if c := s[i]; c < utf8.RuneSelf {
		return tabledClass[c], 1
	}
	r, n := utf8.DecodeRuneInString(s[i:])
	return classOf(r), n
}

// runOf returns the end of the run of class c that starts at or before s[i].
func runOf(s string, i int, c class) int {
	for i < len(s) {
		got, n := classAt(s, i)
		if got != c {
			break
		}
		i += n
	}
	return i
}

// isWordRune reports whether a rune is \w in the Unicode sense: alphabetic, a mark, a decimal digit, a connector or a
// joiner.
func isWordRune(r rune) bool {
	return unicode.In(r, unicode.L, unicode.Nl, unicode.Other_Alphabetic, unicode.M, unicode.Nd, unicode.Pc,
		unicode.Join_Control)
}
