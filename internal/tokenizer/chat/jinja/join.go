package jinja

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

func joinText(r *renderer, t Text, a arguments) (Value, error) {
	bound, err := a.bind("join", "iterable")
	if err != nil || bound[0] == nil {
		return nil, cmpError(err, "join() takes exactly one argument (0 given)")
	}
	items, err := r.items(bound[0])
	if err != nil {
		return nil, err
	}
	for i, one := range items {
		if !isText(one) {
			return nil, fmt.Errorf("sequence item %d: expected str instance, %s found", i, one.typeName())
		}
	}
	return r.joinAll(items, t)
}

// joinAll joins the texts of values with another between them.
func (r *renderer) joinAll(items []Value, between Text) (Value, error) {
	b := r.newBuilder()
	for i, one := range items {
		if err := r.work(1); err != nil {
			return nil, err
		}
		if i > 0 {
			if err := b.add(between); err != nil {
				return nil, err
			}
		}
		if err := r.printValue(b, one); err != nil {
			return nil, err
		}
	}
	return b.text(), nil
}

// justifier makes center, ljust and rjust.
func justifier(name string) textMethod {
	return func(r *renderer, t Text, a arguments) (Value, error) {
		bound, err := a.bind(name, "width", "fillchar")
		if err != nil {
			return nil, err
		}
		width, err := intArgument(name, bound[0], 0)
		if err != nil {
			return nil, err
		}
		fill := Trusted(" ")
		if bound[1] != nil {
			if fill, err = textArgument(name, bound[1]); err == nil && utf8.RuneCountInString(fill.S) != 1 {
				err = errors.New("The fill character must be exactly one character long")
			}
			if err != nil {
				return nil, err
			}
		}
		return r.justify(t, map[string]byte{"center": '^', "ljust": '<', "rjust": '>'}[name], width, fill)
	}
}

// justify widens a text to so many characters; to is one of <, ^ and >.
func (r *renderer) justify(t Text, to byte, width int, fill Text) (Value, error) {
	if err := r.touch(len(t.S)); err != nil {
		return nil, err
	}
	missing := width - utf8.RuneCountInString(t.S)
	if missing <= 0 {
		return t, nil
	}
	before := 0
	switch to {
	case '>':
		before = missing
	case '^': // the odd one goes where Python puts it
		before = missing/2 + missing&width&1
	}
	left, err := r.repeatText(fill, before)
	if err != nil {
		return nil, err
	}
	right, err := r.repeatText(fill, missing-before)
	if err != nil {
		return nil, err
	}
	return r.joinAll([]Value{left, t, right}, Text{})
}

func zeroFill(r *renderer, t Text, a arguments) (Value, error) {
	bound, err := a.bind("zfill", "width")
	if err != nil {
		return nil, err
	}
	width, err := intArgument("zfill", bound[0], 0)
	if err != nil {
		return nil, err
	}
	signed := 0
	if strings.HasPrefix(t.S, "-") || strings.HasPrefix(t.S, "+") {
		signed = 1
	}
	filled, err := r.justify(t.slice(signed, len(t.S)), '>', width-signed, Trusted("0"))
	if err != nil {
		return nil, err
	}
	return r.join(t.slice(0, signed), filled)
}
