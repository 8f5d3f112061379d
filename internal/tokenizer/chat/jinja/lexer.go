package jinja

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind uint8

const (
	dataToken     tokenKind = iota // text of the template
	blockBegin                     // {%
	blockEnd                       // %}
	variableBegin                  // {{
	variableEnd                    // }}
	nameToken                      //
	stringToken                    // its value, escapes resolved
	integerToken                   //
	floatToken                     //
	operatorToken                  //
	endToken                       // of the template
)

type token struct {
	kind tokenKind
	text string
	line int
}

func (t token) is(text string) bool {
	return (t.kind == operatorToken || t.kind == nameToken) && t.text == text
}

// describe names a token in a message.
func (t token) describe() string {
	switch t.kind {
	case endToken:
		return "end of template"
	case dataToken:
		return "template data"
	case blockEnd:
		return "end of statement block"
	case variableEnd:
		return "end of print statement"
	}
	return fmt.Sprintf("'%s'", t.text)
}

// lexer cuts a template into tokens. Comments are gone, and what whitespace control takes is gone from the data.
type lexer struct {
	source       string
	at           int
	line         int
	lineStarting bool // nothing but whitespace can stand before at on its line: what was there was taken
	tokens       []token
}

func lex(source string) ([]token, error) {
	if !utf8.ValidString(source) {
		return nil, &Error{1, "is not valid UTF-8"}
	}
	source = strings.ReplaceAll(strings.ReplaceAll(source, "\r\n", "\n"), "\r", "\n")
	l := &lexer{source: strings.TrimSuffix(source, "\n"), line: 1, lineStarting: true}
	for l.at < len(l.source) {
		if err := l.data(); err != nil {
			return nil, err
		}
	}
	return append(l.tokens, token{endToken, "", l.line}), nil
}

func (l *lexer) errorf(format string, args ...any) error {
	return &Error{l.line, fmt.Sprintf(format, args...)}
}

func (l *lexer) emit(kind tokenKind, text string) {
	l.tokens = append(l.tokens, token{kind, text, l.line})
}

// take moves on by n bytes.
func (l *lexer) take(n int) {
	if n == 0 {
		return
	}
	part := l.source[l.at : l.at+n]
	l.line += strings.Count(part, "\n")
	l.at += n
	l.lineStarting = part[n-1] == '\n'
}

func (l *lexer) rest() string { return l.source[l.at:] }

// data reads text up to the next tag, and that tag.
func (l *lexer) data() error {
	start := nextTag(l.rest())
	if start < 0 {
		l.emit(dataToken, l.rest())
		l.take(len(l.rest()))
		return nil
	}
	text := l.source[l.at : l.at+start]
	opening := l.source[l.at+start : l.at+start+2]
	sign := byte(0)
	if next := l.at + start + 2; next < len(l.source) && (l.source[next] == '-' || l.source[next] == '+') {
		sign = l.source[next]
	}
	switch {
	case sign == '-':
		text = strings.TrimRightFunc(text, isSpace)
	case sign != '+' && opening != "{{":
		text = l.lstripBlock(text)
	}
	if text != "" {
		l.emit(dataToken, text)
	}
	l.take(start + 2)
	if sign != 0 {
		l.take(1)
	}
	switch opening {
	case "{#":
		return l.comment()
	case "{%":
		if n := keywordTag(l.rest(), "raw"); n > 0 {
			return l.raw(n)
		}
		l.emit(blockBegin, "{%")
		return l.code(blockEnd)
	}
	l.emit(variableBegin, "{{")
	return l.code(variableEnd)
}

// nextTag finds the next opening of a tag.
func nextTag(s string) int {
	for from := 0; ; {
		i := strings.IndexByte(s[from:], '{')
		if i < 0 || from+i+1 >= len(s) {
			return -1
		}
		i += from
		if c := s[i+1]; c == '{' || c == '%' || c == '#' {
			return i
		}
		from = i + 1
	}
}

// lstripBlock takes the blanks between the start of a line and a tag.
func (l *lexer) lstripBlock(text string) string {
	line := strings.LastIndexByte(text, '\n') + 1
	if (line > 0 || l.lineStarting) && strings.TrimFunc(text[line:], isSpace) == "" {
		return text[:line]
	}
	return text
}

// close takes the end of a tag at the front of the rest, if it is there, and what whitespace it takes with it.
func (l *lexer) close(end string, trims bool) bool {
	rest := l.rest()
	switch {
	case strings.HasPrefix(rest, "-"+end):
		after := rest[1+len(end):]
		l.take(1 + len(end) + len(after) - len(strings.TrimLeftFunc(after, isSpace)))
	case trims && strings.HasPrefix(rest, "+"+end):
		l.take(1 + len(end))
	case strings.HasPrefix(rest, end):
		n := len(end)
		if trims && strings.HasPrefix(rest[n:], "\n") {
			n++
		}
		l.take(n)
	default:
		return false
	}
	return true
}

// code reads the tokens of a tag up to its end. Within brackets that end is not looked for: {{ {'a': {}} }}.
func (l *lexer) code(end tokenKind) error {
	closing := map[tokenKind]string{blockEnd: "%}", variableEnd: "}}"}[end]
	var open []byte
	for l.at < len(l.source) {
		if len(open) == 0 {
			line := l.line
			if l.close(closing, end == blockEnd) {
				l.tokens = append(l.tokens, token{end, closing, line})
				return nil
			}
		}
		c := l.source[l.at]
		r, size := utf8.DecodeRuneInString(l.rest())
		switch {
		case isSpace(r):
			l.take(size)
		case c == '\'' || c == '"':
			if err := l.quoted(c); err != nil {
				return err
			}
		case '0' <= c && c <= '9':
			if err := l.number(); err != nil {
				return err
			}
		case r == '_' || unicode.IsLetter(r):
			n := strings.IndexFunc(l.rest(), func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) })
			if n < 0 {
				n = len(l.rest())
			}
			l.emit(nameToken, l.rest()[:n])
			l.take(n)
		default:
			n := l.operator()
			if n == 0 {
				return l.errorf("unexpected char %q", r)
			}
			var err error
			if open, err = l.balance(open, c, n); err != nil {
				return err
			}
			l.emit(operatorToken, l.rest()[:n])
			l.take(n)
		}
	}
	return l.errorf("unexpected end of template, expected '%s'", closing)
}

// balance keeps the stack of brackets.
func (l *lexer) balance(open []byte, c byte, n int) ([]byte, error) {
	if n != 1 {
		return open, nil
	}
	if i := strings.IndexByte("([{", c); i >= 0 {
		return append(open, ")]}"[i]), nil
	}
	if strings.IndexByte(")]}", c) >= 0 {
		if len(open) == 0 {
			return nil, l.errorf("unexpected '%c'", c)
		}
		if want := open[len(open)-1]; want != c {
			return nil, l.errorf("unexpected '%c', expected '%c'", c, want)
		}
		return open[:len(open)-1], nil
	}
	return open, nil
}

// operator returns the length of the operator at the front.
func (l *lexer) operator() int {
	rest := l.rest()
	for _, two := range []string{"//", "**", "==", "!=", ">=", "<="} {
		if strings.HasPrefix(rest, two) {
			return 2
		}
	}
	if strings.IndexByte("+-/*%~[](){}><=.:|,;", rest[0]) >= 0 {
		return 1
	}
	return 0
}

// isSpace is Python's str.isspace for one character.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }
