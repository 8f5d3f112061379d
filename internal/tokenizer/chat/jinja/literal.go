package jinja

import (
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

var (
	floatLiteral   = regexp.MustCompile(`^(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?[eE][+-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)`)
	integerLiteral = regexp.MustCompile(`^(?:0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0[xX](?:_?[0-9a-fA-F])+|[1-9](?:_?\d)*|0(?:_?0)*)`)
)

func (l *lexer) number() error {
	// a.0.1 reads elements: a digit behind a dot starts no fraction
	afterDot := l.source[l.at-1] == '.'
	if text := floatLiteral.FindString(l.rest()); text != "" && !afterDot {
		l.emit(floatToken, strings.ReplaceAll(text, "_", ""))
		l.take(len(text))
		return nil
	}
	text := integerLiteral.FindString(l.rest())
	value, err := strconv.ParseInt(strings.ReplaceAll(text, "_", ""), 0, 64)
	if err != nil {
		return l.errorf("integer %s does not fit 64 bits", text)
	}
	l.emit(integerToken, strconv.FormatInt(value, 10))
	l.take(len(text))
	return nil
}

// quoted reads a string literal with Python's escapes. One that Python does not know stays as it is, backslash included.
func (l *lexer) quoted(quote byte) error {
	var value strings.Builder
	rest := l.rest()
	for i := 1; i < len(rest); {
		c := rest[i]
		switch {
		case c == quote:
			l.emit(stringToken, value.String())
			l.take(i + 1)
			return nil
		case c == '\\' && i+1 < len(rest):
			n, err := l.escape(&value, rest[i:])
			if err != nil {
				return err
			}
			i += n
		default:
			value.WriteByte(c)
			i++
		}
	}
	return l.errorf("unexpected char '%c': the string has no end", quote)
}

var simpleEscapes = map[byte]string{
	'\n': "", '\\': `\`, '\'': "'", '"': `"`, 'a': "\a", 'b': "\b", 'f': "\f", 'n': "\n", 'r': "\r", 't': "\t", 'v': "\v",
}

// escape writes what the escape at the front of s stands for, and returns its length.
func (l *lexer) escape(out *strings.Builder, s string) (int, error) {
	if text, ok := simpleEscapes[s[1]]; ok {
		out.WriteString(text)
		return 2, nil
	}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[1]]
	if digits > 0 {
		if len(s) < 2+digits {
			return 0, l.errorf("truncated \\%c escape", s[1])
		}
		code, err := strconv.ParseUint(s[2:2+digits], 16, 32)
		if err != nil || code > utf8.MaxRune || !utf8.ValidRune(rune(code)) {
			return 0, l.errorf("illegal escape %q", s[:2+digits])
		}
		out.WriteRune(rune(code))
		return 2 + digits, nil
	}
	n := 1
	for n < 4 && n < len(s) && '0' <= s[n] && s[n] <= '7' {
		n++
	}
	if n > 1 {
		code, err := strconv.ParseUint(s[1:n], 8, 32)
		if err != nil {
			return 0, l.errorf("illegal escape %q", s[:n])
		}
		out.WriteRune(rune(code))
		return n, nil
	}
	out.WriteByte('\\')
	return 1, nil
}
