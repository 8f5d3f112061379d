package jinja

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// apply is v[from:to:by].
func (sl *slicing) apply(r *renderer, s *scope, v Value) (Value, error) {
	var bounds [3]*int
	for i, e := range sl.bounds {
		if e == nil {
			continue
		}
		b, err := r.eval(e, s)
		if err != nil {
			return nil, err
		}
		if _, none := b.(None); none {
			continue
		}
		n, ok := asIndex(b)
		if !ok {
			return nil, fmt.Errorf("slice indices must be integers or None, not %s", b.typeName())
		}
		bounds[i] = &n
	}
	switch c := v.(type) {
	case *List:
		from, to, by, err := place(len(c.Items), bounds)
		out := &List{tuple: c.tuple}
		for i := from; by > 0 && i < to || by < 0 && i > to; i += by {
			out.Items = append(out.Items, c.Items[i])
		}
		if err == nil {
			err = r.make(32 * len(out.Items))
		}
		return out, err
	case Text:
		return r.sliceText(c, bounds)
	case *undefined:
		return nil, c.fail()
	}
	return nil, fmt.Errorf("'%s' object cannot be sliced", v.typeName())
}

func (r *renderer) sliceText(t Text, bounds [3]*int) (Value, error) {
	if err := r.make(len(t.S)); err != nil {
		return nil, err
	}
	from, to, by, err := place(utf8.RuneCountInString(t.S), bounds)
	switch {
	case err != nil:
		return nil, err
	case by == 1:
		start := runeOffset(t.S, from)
		return t.slice(start, start+runeOffset(t.S[start:], to-from)), nil
	}
	offsets, err := r.runeOffsets(t.S)
	if err != nil {
		return nil, err
	}
	b := r.newBuilder()
	for i := from; by > 0 && i < to || by < 0 && i > to; i += by {
		if err := b.add(t.slice(offsets[i], offsets[i+1])); err != nil {
			return nil, err
		}
	}
	return b.text(), nil
}

// place cuts the bounds of a slice to n elements, by Python's rules.
func place(n int, bounds [3]*int) (from, to, by int, err error) {
	by = 1
	if bounds[2] != nil {
		by = *bounds[2]
	}
	if by == 0 {
		return 0, 0, 0, errors.New("slice step cannot be zero")
	}
	low, high := 0, n // where a bound is cut
	from, to = 0, n
	if by < 0 {
		low, high = -1, n-1
		from, to = n-1, -1
	}
	cut := func(b *int, otherwise int) int {
		if b == nil {
			return otherwise
		}
		at := *b
		if at < 0 {
			at += n
		}
		return min(max(at, low), high)
	}
	from, to = cut(bounds[0], from), cut(bounds[1], to)
	by = min(max(by, -n-1), n+1) // so that a huge step does not overflow
	if by == 1 {
		to = max(from, to)
	}
	return from, to, by, nil
}
