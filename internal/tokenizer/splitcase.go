package tokenizer

import (
	"unicode"
	"unicode/utf8"
)

// The patterns that end a word where lower case turns to upper case: OpenAI's o200k (Llama 4) and Mistral's Tekken.
const (
	upperRunes = `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
	lowerRunes = `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`

	casedWord1 = `[^\r\n\p{L}\p{N}]?` + upperRunes + `*` + lowerRunes + `+`
	casedWord2 = `[^\r\n\p{L}\p{N}]?` + upperRunes + `+` + lowerRunes + `*`
	casedRest  = `| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`

	patternTekken = casedWord1 + `|` + casedWord2 + `|\p{N}` + casedRest
	patternO200K  = casedWord1 + `(?i:` + contractions + `)?|` + casedWord2 + `(?i:` + contractions + `)?` +
		`|\p{N}{1,3}` + casedRest
)

func splitTekken(s string) int {
	if n := casedWord(s); n > 0 {
		return n
	}
	return casedOther(s, 1)
}

func splitO200K(s string) int {
	if n := casedWord(s); n > 0 {
		return n + contraction(s[n:], true)
	}
	return casedOther(s, 3)
}

// casedOther is what follows the words in both patterns.
func casedOther(s string, maxDigits int) int {
	c, n := classAt(s, 0)
	if c == number {
		return numberPiece(s, n, maxDigits)
	}
	at := 0
	if s[0] == ' ' {
		at = 1
	}
	if c, n := classAt(s, at); n == 0 || c != other {
		return linesPiece(s)
	}
	at = runOf(s, at, other)
	for at < len(s) && (s[at] == '\r' || s[at] == '\n' || s[at] == '/') {
		at++
	}
	return at
}

// casedWord returns the length of the word at the start of s, or 0: of the two forms of a word the first one that
// matches, each with the rune that may stand before it if there is one, and then without.
func casedWord(s string) int {
	lead := 0
	if c, n := classAt(s, 0); c == other || c == space {
		lead = n
	}
	if n := lowerWord(s, lead); n > 0 {
		return n
	}
	if n := lowerWord(s, 0); n > 0 {
		return n
	}
	if n := upperRun(s, lead); n > lead {
		return n
	}
	return upperRun(s, 0)
}

// lowerWord is upperRunes* lowerRunes+ from s[i] on, or 0. Where no lower case follows the upper case, the last rune
// without case is the lower part.
func lowerWord(s string, i int) int {
	caseless := 0
	for {
		k, n := caseAt(s, i)
		if k == lowerCase {
			break
		}
		if k == noLetter {
			return caseless
		}
		i += n
		if k == noCase {
			caseless = i
		}
	}
	for {
		k, n := caseAt(s, i)
		if k != lowerCase && k != noCase {
			return i
		}
		i += n
	}
}

func upperRun(s string, i int) int {
	for {
		k, n := caseAt(s, i)
		if k != upperCase && k != noCase {
			return i
		}
		i += n
	}
}

// letterCase is what these patterns tell the runes of a word apart by.
type letterCase uint8

const (
	noLetter  letterCase = iota
	upperCase            // \p{Lu}\p{Lt}
	lowerCase            // \p{Ll}
	noCase               // \p{Lm}\p{Lo}\p{M}: goes with both
)

// caseAt returns the case and the width of the rune at s[i]; at the end of s it is (noLetter, 0).
func caseAt(s string, i int) (letterCase, int) {
	if i >= len(s) {
		return noLetter, 0
	}
	r, n := rune(s[i]), 1
	if r >= utf8.RuneSelf {
		r, n = utf8.DecodeRuneInString(s[i:])
	}
	switch {
	case r >= 'a' && r <= 'z', unicode.Is(unicode.Ll, r):
		return lowerCase, n
	case unicode.In(r, unicode.Lu, unicode.Lt):
		return upperCase, n
	case r >= utf8.RuneSelf && unicode.In(r, unicode.Lm, unicode.Lo, unicode.M):
		return noCase, n
	}
	return noLetter, n
}
