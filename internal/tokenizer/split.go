package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// A splitter returns the length in bytes of the first piece of s, which is not empty: the hand-written form of a
// pre-tokenizer's pattern. It looks at s only, takes time linear in what it reads, and reads little past the piece.
type splitter func(s string) int

// The patterns of the known families, as tokenizer.json files spell them.
const (
	contractions = `'s|'t|'re|'ve|'m|'ll|'d`

	patternGPT2 = contractions + `| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

	patternLlama3 = `(?i:` + contractions + `)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*` +
		`|\s*[\r\n]+|\s+(?!\S)|\s+`

	patternQwen2 = `(?i:` + contractions + `)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*` +
		`|\s*[\r\n]+|\s+(?!\S)|\s+`

	patternDigit = `\p{N}`

	patternCL100K = `'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*` +
		`|\s*[\r\n]|\s+(?!\S)|\s+`
)

// splitterOf returns the splitter of a pattern that is known to the letter.
func splitterOf(pattern string) (splitter, bool) {
	switch pattern {
	case patternGPT2:
		return splitGPT2, true
	case patternLlama3, patternCL100K:
		return splitLlama3, true
	case patternQwen2:
		return splitQwen2, true
	case patternTekken:
		return splitTekken, true
	case patternO200K:
		return splitO200K, true
	case patternDigit:
		return splitDigits, true
	}
	return nil, false
}

func splitGPT2(s string) int {
	if n := contraction(s, false); n > 0 {
		return n
	}
	at := 0
	if s[0] == ' ' {
		at = 1
	}
	if c, n := classAt(s, at); n > 0 && !c.blank() {
		return runOf(s, at+n, c)
	}
	return blankPiece(s)
}

func splitLlama3(s string) int { return splitCased(s, 3) }

func splitQwen2(s string) int { return splitCased(s, 1) }

// splitCased is the pattern of Llama 3 and of Qwen 2, which differ in the digits of a piece only.
func splitCased(s string, maxDigits int) int {
	if n := contraction(s, true); n > 0 {
		return n
	}
	c, n := classAt(s, 0)
	if c == letter {
		return runOf(s, n, letter)
	}
	if c == number {
		return numberPiece(s, n, maxDigits)
	}
	next, width := classAt(s, n)
	if c != newline && width > 0 && next == letter {
		return runOf(s, n+width, letter)
	}
	at := n
	if s[0] == ' ' && width > 0 && next == other {
		c, at = other, n+width
	}
	if c == other {
		return runOf(s, runOf(s, at, other), newline)
	}
	return linesPiece(s)
}

// numberPiece is \p{N}{1,max}; the first rune ends at s[i].
func numberPiece(s string, i, maxDigits int) int {
	for range maxDigits - 1 {
		c, n := classAt(s, i)
		if n == 0 || c != number {
			break
		}
		i += n
	}
	return i
}

// linesPiece is \s*[\r\n]+|\s+(?!\S)|\s+: blanks to the last newline of the run, if it has one.
func linesPiece(s string) int {
	lines, i := 0, 0
	for i < len(s) {
		c, n := classAt(s, i)
		if !c.blank() {
			break
		}
		i += n
		if c == newline {
			lines = i
		}
	}
	if lines > 0 {
		return lines
	}
	return blankPiece(s)
}

// blankPiece is \s+(?!\S)|\s+: a run of blanks leaves its last one to what follows.
func blankPiece(s string) int {
	last, i := 0, 0
	for i < len(s) {
		c, n := classAt(s, i)
		if !c.blank() {
			break
		}
		last = i
		i += n
	}
	if i < len(s) && last > 0 {
		return last
	}
	return i
}

// contraction returns the length of 's, 't, 're, 've, 'm, 'll or 'd at the start of s, or 0. With fold, in any case,
// where ſ is an s too.
func contraction(s string, fold bool) int {
	if len(s) < 2 || s[0] != '\'' {
		return 0
	}
	if fold && strings.HasPrefix(s[1:], "ſ") {
		return 1 + len("ſ")
	}
	a, b := s[1], byte(0)
	if len(s) > 2 {
		b = s[2]
	}
	if fold {
		a, b = lower(a), lower(b)
	}
	switch {
	case a == 's' || a == 't' || a == 'm' || a == 'd':
		return 2
	case a == 'r' && b == 'e' || a == 'v' && b == 'e' || a == 'l' && b == 'l':
		return 3
	}
	return 0
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// splitDigits makes every number rune a piece of its own, and what is between them too.
func splitDigits(s string) int {
	c, n := classAt(s, 0)
	if c == number {
		return n
	}
	return untilNumber(s, n)
}

// splitDigitRuns makes every run of number runes a piece, and what is between them too.
func splitDigitRuns(s string) int {
	c, n := classAt(s, 0)
	if c == number {
		return runOf(s, n, number)
	}
	return untilNumber(s, n)
}

func untilNumber(s string, i int) int {
	for i < len(s) {
		c, n := classAt(s, i)
		if c == number {
			break
		}
		i += n
	}
	return i
}

// isolate returns the splitter that makes every occurrence of sep a piece of its own.
func isolate(sep string) splitter {
	return func(s string) int {
		switch i := strings.Index(s, sep); i {
		case -1:
			return len(s)
		case 0:
			return len(sep)
		default:
			return i
		}
	}
}

// cutAfter returns the splitter that ends a piece after every occurrence of sep.
func cutAfter(sep string) splitter {
	return func(s string) int {
		if i := strings.Index(s, sep); i >= 0 {
			return i + len(sep)
		}
		return len(s)
	}
}

// cutBefore returns the splitter that starts a piece at every occurrence of sep.
func cutBefore(sep string) splitter {
	return func(s string) int {
		from := 0
		if strings.HasPrefix(s, sep) {
			from = len(sep)
		}
		if i := strings.Index(s[from:], sep); i >= 0 {
			return from + i
		}
		return len(s)
	}
}

// cutWords starts a piece at every ▁ that follows another rune. It changes no result where no token has a ▁ behind
// another rune (see spaceStartsWords), and spares long texts the merging of everything at once.
func cutWords(s string) int {
	from := 0
	for strings.HasPrefix(s[from:], metaSpace) {
		from += len(metaSpace)
	}
	if i := strings.Index(s[from:], metaSpace); i >= 0 {
		return from + i
	}
	return len(s)
}

// metaSpace stands for a space in SentencePiece vocabularies: U+2581.
const metaSpace = "▁"

// spaceStartsWords reports whether every token of words has ▁ at its start only, where it may repeat.
func spaceStartsWords(words map[string]int32) bool {
	if _, ok := words[metaSpace]; !ok {
		return false
	}
	for w := range words {
		if strings.Contains(strings.TrimLeft(w, metaSpace), metaSpace) {
			return false
		}
	}
	return true
}

// endsInWord and startsWithWord look at the rune beside an added token that wants to stand alone.
func endsInWord(s string) bool {
	r, n := utf8.DecodeLastRuneInString(s)
	return n > 0 && isWordRune(r)
}

func startsWithWord(s string) bool {
	r, n := utf8.DecodeRuneInString(s)
	return n > 0 && isWordRune(r)
}
