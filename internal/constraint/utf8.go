package constraint

import (
	"cmp"
	"slices"
	"unicode/utf8"
)

const (
	surrogateFirst = 0xD800
	surrogateLast  = 0xDFFF
)

// scalars is ranges as Chars wants them: in order, apart, and without surrogates, which UTF-8 does not have.
func scalars(ranges []CharRange) Chars {
	var some []CharRange
	for _, r := range ranges {
		if r.First < surrogateFirst && r.Last >= surrogateFirst {
			some = append(some, CharRange{r.First, surrogateFirst - 1})
			r.First = surrogateFirst
		}
		if r.First >= surrogateFirst && r.First <= surrogateLast {
			r.First = surrogateLast + 1
		}
		if r.First <= r.Last {
			some = append(some, r)
		}
	}
	slices.SortFunc(some, func(a, b CharRange) int { return cmp.Compare(a.First, b.First) })
	var chars Chars
	for _, r := range some {
		if n := len(chars); n > 0 && r.First <= chars[n-1].Last+1 {
			chars[n-1].Last = max(chars[n-1].Last, r.Last)
		} else {
			chars = append(chars, r)
		}
	}
	return chars
}

// others is all characters but those of chars, which are in order and apart.
func others(chars Chars) Chars {
	var rest []CharRange
	next := rune(0)
	for _, r := range chars {
		if next < r.First {
			rest = append(rest, CharRange{next, r.First - 1})
		}
		next = r.Last + 1
	}
	if next <= utf8.MaxRune {
		rest = append(rest, CharRange{next, utf8.MaxRune})
	}
	return scalars(rest)
}

// byteRange is of bytes, both ends in it.
type byteRange struct{ lo, hi byte }

// byteSequences appends what the characters first to last, none a surrogate, are in UTF-8: sequences of ranges, in order, of which no two have a
// text in common. Two of them begin with the same range or with ranges that are apart, and so on behind the same ones.
func byteSequences(dst [][]byteRange, first, last rune) [][]byteRange {
	for _, longest := range []rune{0x7F, 0x7FF, 0xFFFF} {
		if first <= longest && longest < last {
			return byteSequences(byteSequences(dst, first, longest), longest+1, last)
		}
	}
	for low := rune(1)<<6 - 1; first > 0x7F && low < utf8.MaxRune; low = low<<6 | low {
		switch {
		case first&^low == last&^low:
		case first&low != 0: // the last bytes of first and of last are each a range of their own
			return byteSequences(byteSequences(dst, first, first|low), first|low+1, last)
		case last&low != low:
			return byteSequences(byteSequences(dst, first, last&^low-1), last&^low, last)
		}
	}
	var from, to [utf8.UTFMax]byte
	n := utf8.EncodeRune(from[:], first)
	utf8.EncodeRune(to[:], last)
	sequence := make([]byteRange, n)
	for i := range n {
		sequence[i] = byteRange{from[i], to[i]}
	}
	return append(dst, sequence)
}
