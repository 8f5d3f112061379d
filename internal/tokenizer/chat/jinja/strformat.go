package jinja

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// formatText is str.format: {}, {0} and {name}, each with a format such as {:>5.2f}. It reads no attributes and no elements.
func formatText(r *renderer, t Text, a arguments) (Value, error) {
	b := r.newBuilder()
	next := 0
	for at := 0; at < len(t.S); {
		i := strings.IndexAny(t.S[at:], "{}")
		if i < 0 {
			i = len(t.S) - at
		}
		if err := b.add(t.slice(at, at+i)); err != nil {
			return nil, err
		}
		if at += i; at == len(t.S) {
			break
		}
		if doubled := t.S[at : at+1]; strings.HasPrefix(t.S[at+1:], doubled) {
			if err := b.add(t.slice(at, at+1)); err != nil {
				return nil, err
			}
			at += 2
			continue
		}
		end := strings.IndexByte(t.S[at:], '}')
		if t.S[at] == '}' || end < 0 {
			return nil, errors.New("Single '{' or '}' encountered in format string")
		}
		text, err := r.field(t.S[at+1:at+end], a, &next)
		if err == nil {
			err = b.add(text)
		}
		if err != nil {
			return nil, err
		}
		at += end + 1
	}
	return b.text(), nil
}

// field is one replacement field of str.format.
func (r *renderer) field(field string, a arguments, next *int) (Text, error) {
	name, spec, _ := strings.Cut(field, ":")
	name, how, _ := strings.Cut(name, "!")
	if strings.ContainsAny(name, ".[") || strings.Contains(spec, "{") {
		return Text{}, fmt.Errorf("the format field %s is not supported: want a number or a name", pythonQuote(field))
	}
	var v Value
	index, err := strconv.Atoi(name)
	switch {
	case name == "":
		index = *next
		*next++
		fallthrough
	case err == nil:
		if index >= len(a.positional) || index < 0 {
			return Text{}, fmt.Errorf("Replacement index %d out of range for positional args tuple", index)
		}
		v = a.positional[index]
	default:
		ok := false
		if a.keywords != nil {
			v, ok = a.keywords.Get(name)
		}
		if !ok {
			return Text{}, fmt.Errorf("no argument %s for the format", pythonQuote(name))
		}
	}
	c, err := readSpec(spec)
	if err != nil {
		return Text{}, err
	}
	_, _, isNumber := number(v)
	switch {
	case how == "r":
		c.verb = 'r'
	case c.verb != 0:
	case isNumber && c.precision >= 0:
		c.verb = 'g'
	default:
		c.verb = 's'
	}
	if c.align == 0 && !isNumber {
		c.align = '<'
	}
	if c.verb == 's' && isNumber && (c.zero || c.grouped || c.sign != 0) {
		c.verb = map[bool]byte{true: 'd', false: 'g'}[v.typeName() != "float"]
	}
	return r.convert(c, v)
}

// readSpec reads [[fill]align][sign][#][0][width][,][.precision][type].
func readSpec(spec string) (conversion, error) {
	c := conversion{fill: " ", precision: -1}
	isAlign := func(at int) bool { return at < len(spec) && strings.IndexByte("<>^", spec[at]) >= 0 }
	_, n := utf8.DecodeRuneInString(spec)
	i := 0
	switch {
	case spec != "" && isAlign(n):
		c.fill, c.align, i = spec[:n], spec[n], n+1
	case isAlign(0):
		c.align, i = spec[0], 1
	}
	if i < len(spec) && strings.IndexByte("+- ", spec[i]) >= 0 {
		if spec[i] != '-' {
			c.sign = spec[i]
		}
		i++
	}
	if i < len(spec) && spec[i] == '#' {
		c.alt = true
		i++
	}
	if i < len(spec) && spec[i] == '0' {
		c.zero = true
		i++
	}
	i, err := c.size(spec, i)
	if err != nil {
		return c, err
	}
	if i < len(spec) {
		c.verb = spec[i]
		i++
	}
	if i < len(spec) {
		return c, fmt.Errorf("Invalid format specifier %s", pythonQuote(spec))
	}
	return c, nil
}
