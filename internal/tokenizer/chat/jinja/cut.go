package jinja

import (
	"errors"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The methods of str that cut texts in parts. Parts keep the origin of their bytes.

func replaceText(r *renderer, t Text, a arguments) (Value, error) {
	bound, err := a.bind("replace", "old", "new", "count")
	if err != nil {
		return nil, err
	}
	old, err := textArgument("replace", bound[0])
	if err != nil {
		return nil, err
	}
	replacement, err := textArgument("replace", bound[1])
	if err != nil {
		return nil, err
	}
	most, err := intArgument("replace", bound[2], -1)
	if err != nil {
		return nil, err
	}
	return r.replace(t, old.S, replacement, most)
}

// replace puts a text in the place of up to `most` others, all where that is negative. An empty one is between all characters.
func (r *renderer) replace(t Text, old string, replacement Text, most int) (Value, error) {
	b := r.newBuilder()
	from := 0
	for at := 0; most != 0; most-- {
		i := strings.Index(t.S[at:], old)
		if i < 0 {
			break
		}
		if err := r.work(1); err != nil {
			return nil, err
		}
		if err := b.add(t.slice(from, at+i)); err != nil {
			return nil, err
		}
		if err := b.add(replacement); err != nil {
			return nil, err
		}
		from = at + i + len(old)
		at = from
		if old == "" {
			if at == len(t.S) {
				break
			}
			_, n := utf8.DecodeRuneInString(t.S[at:])
			at += n
		}
	}
	if err := b.add(t.slice(from, len(t.S))); err != nil {
		return nil, err
	}
	return b.text(), nil
}

// cuts collects parts of a text.
type cuts struct {
	r     *renderer
	text  Text
	parts []Value
}

func (c *cuts) add(start, end int) error {
	c.parts = append(c.parts, c.text.slice(start, end))
	return c.r.make(64)
}

// splitArguments are the separator, "" for white space, and how many cuts are made, math.MaxInt for no bound.
func splitArguments(name string, a arguments) (separator string, most int, err error) {
	bound, err := a.bind(name, "sep", "maxsplit")
	if err != nil {
		return "", 0, err
	}
	switch bound[0].(type) {
	case nil, None:
	default:
		t, err := textArgument(name, bound[0])
		if err == nil && t.S == "" {
			err = errors.New("empty separator")
		}
		if err != nil {
			return "", 0, err
		}
		separator = t.S
	}
	if most, err = intArgument(name, bound[1], -1); most < 0 {
		most = math.MaxInt
	}
	return separator, most, err
}

func splitText(r *renderer, t Text, a arguments) (Value, error) {
	separator, most, err := splitArguments("split", a)
	if err != nil {
		return nil, err
	}
	c := &cuts{r: r, text: t}
	at := 0
	for {
		rest := t.S[at:]
		if separator == "" {
			rest = strings.TrimLeftFunc(rest, isSpace)
			if at = len(t.S) - len(rest); rest == "" {
				return NewList(c.parts...), nil
			}
		}
		n, width := nextCut(rest, separator)
		if n < 0 || len(c.parts) == most {
			return NewList(append(c.parts, t.slice(at, len(t.S)))...), nil
		}
		if err := c.add(at, at+n); err != nil {
			return nil, err
		}
		at += n + width
	}
}

// nextCut finds a separator: its place, −1 for none, and its length.
func nextCut(s, separator string) (at, width int) {
	if separator != "" {
		return strings.Index(s, separator), len(separator)
	}
	at = strings.IndexFunc(s, isSpace)
	if at < 0 {
		return -1, 0
	}
	_, width = utf8.DecodeRuneInString(s[at:])
	return at, width
}

func rsplitText(r *renderer, t Text, a arguments) (Value, error) {
	separator, most, err := splitArguments("rsplit", a)
	if err != nil {
		return nil, err
	}
	c := &cuts{r: r, text: t}
	end := len(t.S)
	for {
		rest := t.S[:end]
		if separator == "" {
			rest = strings.TrimRightFunc(rest, isSpace)
			if end = len(rest); rest == "" {
				break
			}
		}
		at, width := lastCut(rest, separator)
		if at < 0 || len(c.parts) == most {
			c.parts = append(c.parts, t.slice(0, end))
			break
		}
		if err := c.add(at+width, end); err != nil {
			return nil, err
		}
		end = at
	}
	slices.Reverse(c.parts)
	return NewList(c.parts...), nil
}

func lastCut(s, separator string) (at, width int) {
	if separator != "" {
		return strings.LastIndex(s, separator), len(separator)
	}
	at = strings.LastIndexFunc(s, isSpace)
	if at < 0 {
		return -1, 0
	}
	_, width = utf8.DecodeRuneInString(s[at:])
	return at, width
}

func splitLines(r *renderer, t Text, a arguments) (Value, error) {
	bound, err := a.bind("splitlines", "keepends")
	if err != nil {
		return nil, err
	}
	keep, err := optionalTruth(bound[0])
	if err != nil {
		return nil, err
	}
	lines, err := r.lines(t, keep)
	return NewList(lines...), err
}

// lines cuts a text at its line ends, as Python knows them.
func (r *renderer) lines(t Text, keepEnds bool) ([]Value, error) {
	c := &cuts{r: r, text: t}
	for at := 0; at < len(t.S); {
		rest := t.S[at:]
		n := strings.IndexFunc(rest, isLineEnd)
		if n < 0 {
			return append(c.parts, t.slice(at, len(t.S))), nil
		}
		_, width := utf8.DecodeRuneInString(rest[n:])
		if strings.HasPrefix(rest[n:], "\r\n") {
			width = 2
		}
		end := at + n
		if keepEnds {
			end += width
		}
		if err := c.add(at, end); err != nil {
			return nil, err
		}
		at += n + width
	}
	return c.parts, nil
}

func isLineEnd(c rune) bool {
	return c >= '\n' && c <= '\r' || c >= 0x1c && c <= 0x1e || c == 0x85 || c == 0x2028 || c == 0x2029
}

// partitioner cuts a text in what is before a separator, that, and what is behind.
func partitioner(name string, index func(s, part string) int) textMethod {
	return func(_ *renderer, t Text, a arguments) (Value, error) {
		bound, err := a.bind(name, "sep")
		if err != nil {
			return nil, err
		}
		separator, err := textArgument(name, bound[0])
		if err == nil && separator.S == "" {
			err = errors.New("empty separator")
		}
		if err != nil {
			return nil, err
		}
		i := index(t.S, separator.S)
		switch {
		case i >= 0:
			end := i + len(separator.S)
			return &List{Items: []Value{t.slice(0, i), t.slice(i, end), t.slice(end, len(t.S))}, tuple: true}, nil
		case name == "partition":
			return &List{Items: []Value{t, Text{}, Text{}}, tuple: true}, nil
		}
		return &List{Items: []Value{Text{}, Text{}, t}, tuple: true}, nil
	}
}

// startsWord tells what a word follows, in the sense of Jinja's title: white space, a dash, an opening bracket.
func startsWord(c rune) bool { return unicode.IsSpace(c) || strings.ContainsRune("-({[<", c) }
