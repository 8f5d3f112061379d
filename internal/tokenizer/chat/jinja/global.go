package jinja

import (
	"errors"
	"fmt"
)

// globals are the names that every template knows.
func (r *renderer) globals() map[string]Value {
	names := map[string]Value{}
	for name, call := range map[string]func(r *renderer, a arguments) (Value, error){
		"range":           rangeOf,
		"namespace":       newNamespace,
		"dict":            newDict,
		"cycler":          newCycler,
		"joiner":          newJoiner,
		"raise_exception": raise,
		"strftime_now":    strftimeNow,
	} {
		names[name] = &function{name: name, call: call}
	}
	return names
}

// maxRange is what Jinja's sandbox allows.
const maxRange = 100_000

func rangeOf(r *renderer, a arguments) (Value, error) {
	if a.keywords != nil || len(a.positional) < 1 || len(a.positional) > 3 {
		return nil, errors.New("range expected 1 to 3 arguments")
	}
	var numbers [3]int
	for i, v := range a.positional {
		var err error
		if numbers[i], err = intArgument("range", v, 0); err != nil {
			return nil, err
		}
	}
	from, to, by := numbers[0], numbers[1], 1
	switch len(a.positional) {
	case 1:
		from, to = 0, from
	case 3:
		by = numbers[2]
	}
	if by == 0 {
		return nil, errors.New("range() arg 3 must not be zero")
	}
	var span, stride uint64 // as unsigned numbers they do not overflow
	if by > 0 && to > from {
		span, stride = uint64(to)-uint64(from), uint64(by)
	} else if by < 0 && to < from {
		span, stride = uint64(from)-uint64(to), -uint64(by)
	}
	out := &List{}
	if span == 0 {
		return out, nil
	}
	n := (span-1)/stride + 1
	if n > maxRange {
		return nil, fmt.Errorf("Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).", maxRange)
	}
	if err := r.make(24 * int(n)); err != nil {
		return nil, err
	}
	for i := range int(n) {
		out.Items = append(out.Items, Int(from+i*by))
	}
	return out, nil
}

// newDict is dict(): of a dictionary or pairs, and keywords.
func newDict(r *renderer, a arguments) (Value, error) { return r.dictOf("dict", a) }

func (r *renderer) dictOf(name string, a arguments) (*Dict, error) {
	out := NewDict()
	if len(a.positional) > 1 {
		return nil, fmt.Errorf("%s expected at most 1 argument, got %d", name, len(a.positional))
	}
	if len(a.positional) == 1 {
		if err := r.update(out, a.positional[0]); err != nil {
			return nil, err
		}
	}
	if a.keywords != nil {
		if err := r.update(out, a.keywords); err != nil {
			return nil, err
		}
	}
	return out, r.make(64 * (1 + out.Len()))
}

// update puts what a dictionary or a list of pairs holds.
func (r *renderer) update(d *Dict, v Value) error {
	if other, ok := v.(*Dict); ok {
		for key, v := range other.All {
			if err := d.put(key, v); err != nil {
				return err
			}
		}
		return r.work(other.Len())
	}
	items, err := r.items(v)
	if err != nil {
		return err
	}
	for i, one := range items {
		pair, err := r.items(one)
		if err != nil {
			return err
		}
		if len(pair) != 2 {
			return fmt.Errorf("dictionary update sequence element #%d has length %d; 2 is required", i, len(pair))
		}
		if err := d.put(pair[0], pair[1]); err != nil {
			return err
		}
	}
	return nil
}

func newNamespace(r *renderer, a arguments) (Value, error) {
	d, err := r.dictOf("namespace", a)
	if err != nil {
		return nil, err
	}
	n := &namespace{attributes: NewDict()}
	for key, v := range d.All {
		name, ok := key.(Text)
		if !ok {
			return nil, errors.New("attributes of a namespace are named by strings")
		}
		if err := n.set(name, v); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// newCycler is cycler(a, b, …): next() gives one after the other, current is the one that it would give.
func newCycler(_ *renderer, a arguments) (Value, error) {
	if len(a.positional) == 0 {
		return nil, errors.New("at least one item has to be provided")
	}
	at := 0
	c := &namespace{attributes: NewDict()}
	place := func(i int) {
		at = i % len(a.positional)
		c.attributes.Set("current", a.positional[at])
	}
	place(0)
	c.attributes.Set("next", &function{name: "next", call: func(*renderer, arguments) (Value, error) {
		now := a.positional[at]
		place(at + 1)
		return now, nil
	}})
	c.attributes.Set("reset", &function{name: "reset", call: func(*renderer, arguments) (Value, error) {
		place(0)
		return None{}, nil
	}})
	return c, nil
}

// newJoiner is joiner(separator): nothing at its first call, then the separator.
func newJoiner(_ *renderer, a arguments) (Value, error) {
	bound, err := a.bind("joiner", "sep")
	if err != nil {
		return nil, err
	}
	separator := bound[0]
	if separator == nil {
		separator = Trusted(", ")
	}
	used := false
	return &function{name: "joiner", call: func(*renderer, arguments) (Value, error) {
		if used {
			return separator, nil
		}
		used = true
		return Text{}, nil
	}}, nil
}

// raise ends the rendering with the template's own words.
func raise(r *renderer, a arguments) (Value, error) {
	bound, err := a.bind("raise_exception", "message")
	if err != nil || bound[0] == nil {
		return nil, cmpError(err, "raise_exception() misses its message")
	}
	message, err := r.str(bound[0])
	if err != nil {
		return nil, err
	}
	return nil, &RaisedError{Message: message.S}
}

func strftimeNow(r *renderer, a arguments) (Value, error) {
	bound, err := a.bind("strftime_now", "format")
	if err != nil {
		return nil, err
	}
	format, err := textArgument("strftime_now", bound[0])
	if err != nil {
		return nil, err
	}
	text, err := strftime(r.now(), format.S)
	if err != nil {
		return nil, err
	}
	return Trusted(text), r.make(len(text))
}
