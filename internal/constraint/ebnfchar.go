package constraint

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// literal reads a text whose quote, at some place, is read.
func (r *ebnfReader) literal(begin int) (Expr, error) {
	var text strings.Builder
	for !r.take(`"`) {
		c, err := r.character(begin, `"`)
		if err != nil {
			return nil, err
		}
		text.WriteRune(c)
	}
	return Text(text.String()), nil
}

// class reads a class whose bracket, at some place, is read.
func (r *ebnfReader) class(begin int) (Expr, error) {
	negated := r.take("^")
	var ranges []CharRange
	for !r.take("]") {
		at := r.at
		first, err := r.character(begin, "]")
		if err != nil {
			return nil, err
		}
		last := first
		if rest := r.text[r.at:]; len(rest) > 1 && rest[0] == '-' && rest[1] != ']' {
			r.at++
			if last, err = r.character(begin, "]"); err != nil {
				return nil, err
			}
		}
		if last < first {
			return nil, r.fault(at, "range %q to %q is the wrong way round", first, last)
		}
		ranges = append(ranges, CharRange{first, last})
	}
	switch {
	case negated:
		return others(scalars(ranges)), nil
	case len(ranges) == 0:
		return nil, r.fault(begin, "class [] has no character")
	}
	return scalars(ranges), nil
}

// character reads one character of a text or class, which ends with some quote.
func (r *ebnfReader) character(begin int, quote string) (c rune, err error) {
	rest := r.text[r.at:]
	if rest == "" || rest[0] == '\n' {
		return 0, r.fault(begin, "%s has no closing %s on its line", r.text[begin:begin+1], quote)
	}
	if rest[0] != '\\' {
		c, n := utf8.DecodeRuneInString(rest)
		r.at += n
		return c, nil
	}
	const plain, stands = `nrtbfv\"'/[]-^`, "\n\r\t\b\f\v\\\"'/[]-^"
	if len(rest) > 1 {
		if i := strings.IndexByte(plain, rest[1]); i >= 0 {
			r.at += 2
			return rune(stands[i]), nil
		}
		if digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[rest[1]]; digits > 0 {
			return r.numbered(digits)
		}
	}
	unknown, _ := utf8.DecodeRuneInString(rest[1:])
	return 0, r.fault(r.at, `\%c is no escape: %s, \xHH, \uHHHH and \UHHHHHHHH are`, unknown, `\`+strings.Join(strings.Split(plain, ""), ` \`))
}

// numbered reads \x and the like, and so many digits.
func (r *ebnfReader) numbered(digits int) (rune, error) {
	at := r.at
	end := at + 2 + digits
	if end > len(r.text) {
		return 0, r.fault(at, "%s; want %d hexadecimal digits", r.text[at:], digits)
	}
	code, err := strconv.ParseUint(r.text[at+2:end], 16, 32)
	switch {
	case err != nil:
		return 0, r.fault(at, "%q; want %d hexadecimal digits", r.text[at:end], digits)
	case code > utf8.MaxRune || !utf8.ValidRune(rune(code)):
		return 0, r.fault(at, "%s is no character", r.text[at:end])
	}
	r.at = end
	return rune(code), nil
}
