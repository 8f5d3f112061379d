package jinja

import "strings"

func (l *lexer) comment() error {
	end := strings.Index(l.rest(), "#}")
	if end < 0 {
		return l.errorf("Missing end of comment tag")
	}
	if end > 0 && strings.ContainsRune("-+", rune(l.source[l.at+end-1])) {
		end--
	}
	l.take(end)
	l.close("#}", true)
	return nil
}

// keywordTag returns the length of "  raw  " in front of the end of a block, 0 if it is something else.
func keywordTag(s, keyword string) int {
	inner := strings.TrimLeftFunc(s, isSpace)
	if !strings.HasPrefix(inner, keyword) {
		return 0
	}
	inner = strings.TrimLeftFunc(inner[len(keyword):], isSpace)
	if strings.HasPrefix(inner, "%}") || strings.HasPrefix(inner, "-%}") || strings.HasPrefix(inner, "+%}") {
		return len(s) - len(inner)
	}
	return 0
}

// raw reads what is between {% raw %} and {% endraw %} as data.
func (l *lexer) raw(n int) error {
	l.take(n)
	if !l.close("%}", false) {
		return l.errorf("unexpected '+' in a raw tag")
	}
	for i := 0; ; {
		start := strings.Index(l.rest()[i:], "{%")
		if start < 0 {
			return l.errorf("Missing end of raw directive")
		}
		i += start
		tag := l.rest()[i+2:]
		sign := byte(0)
		if strings.HasPrefix(tag, "-") || strings.HasPrefix(tag, "+") {
			sign, tag = tag[0], tag[1:]
		}
		n := keywordTag(tag, "endraw")
		if n == 0 {
			i += 2
			continue
		}
		text := l.rest()[:i]
		switch sign {
		case '-':
			text = strings.TrimRightFunc(text, isSpace)
		case 0:
			text = l.lstripBlock(text)
		}
		if text != "" {
			l.emit(dataToken, text)
		}
		l.take(len(l.rest()) - len(tag) + n)
		l.close("%}", true)
		return nil
	}
}
