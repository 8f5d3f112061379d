package jinja

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// items are the elements of what a for loop runs over: of a list, the keys of a dictionary, the characters of a text.
func (r *renderer) items(v Value) ([]Value, error) {
	switch v := v.(type) {
	case *List:
		return v.Items, r.work(len(v.Items))
	case *Dict:
		return v.keys, r.work(v.Len())
	case Text:
		if err := r.make(64 * utf8.RuneCountInString(v.S)); err != nil {
			return nil, err
		}
		var out []Value
		for i := 0; i < len(v.S); {
			_, n := utf8.DecodeRuneInString(v.S[i:])
			out = append(out, v.slice(i, i+n))
			i += n
		}
		return out, nil
	case *undefined:
		return nil, nil
	}
	return nil, fmt.Errorf("'%s' object is not iterable", v.typeName())
}

// list is a list of its own of a value's elements.
func (r *renderer) list(v Value) (*List, error) {
	items, err := r.items(v)
	if err == nil {
		err = r.make(16 * len(items))
	}
	return &List{Items: slices.Clone(items)}, err
}

func length(r *renderer, v Value, _ arguments) (Value, error) {
	switch v := v.(type) {
	case *List:
		return Int(len(v.Items)), nil
	case *Dict:
		return Int(v.Len()), nil
	case Text:
		return Int(utf8.RuneCountInString(v.S)), r.touch(len(v.S))
	case *undefined:
		return Int(0), nil
	}
	return nil, fmt.Errorf("object of type '%s' has no len()", v.typeName())
}

// end is the first or the last element.
func (r *renderer) end(v Value, last bool) (Value, error) {
	var items []Value
	var err error
	if l, ok := v.(*List); ok {
		items = l.Items
	} else {
		items, err = r.items(v)
	}
	switch {
	case err != nil:
		return nil, err
	case len(items) == 0:
		return &undefined{says: fmt.Sprintf("No %s item, sequence was empty.", map[bool]string{false: "first", true: "last"}[last])}, nil
	case last:
		return items[len(items)-1], nil
	}
	return items[0], nil
}

func reverse(r *renderer, v Value, _ arguments) (Value, error) {
	items, err := r.list(v)
	if err != nil {
		return nil, err
	}
	slices.Reverse(items.Items)
	if isText(v) {
		return r.joinAll(items.Items, Text{})
	}
	return items, nil
}

func itemsFilter(r *renderer, v Value, _ arguments) (Value, error) {
	switch v := v.(type) {
	case *Dict:
		return r.pairs(v)
	case *undefined:
		return NewList(), nil
	}
	return nil, errors.New("Can only get item pairs from a mapping.")
}

func joinFilter(r *renderer, v Value, a arguments) (Value, error) {
	bound, err := a.bind("join", "d", "attribute")
	if err != nil {
		return nil, err
	}
	items, err := r.items(v)
	if err == nil && bound[1] != nil {
		items, err = r.attributes(items, bound[1], nil)
	}
	if err != nil {
		return nil, err
	}
	between := Text{}
	if bound[0] != nil {
		if between, err = r.str(bound[0]); err != nil {
			return nil, err
		}
	}
	return r.joinAll(items, between)
}

// attributes reads an attribute, such as "function.name" or 0, of each element; where one has none it takes otherwise, if that is set.
func (r *renderer) attributes(items []Value, name, otherwise Value) ([]Value, error) {
	if err := r.make(16 * len(items)); err != nil {
		return nil, err
	}
	out := make([]Value, len(items))
	for i, one := range items {
		v, err := r.attributePath(one, name)
		if err != nil {
			return nil, err
		}
		if otherwise != nil && isUndefined(v) {
			v = otherwise
		}
		out[i] = v
	}
	return out, nil
}

func (r *renderer) attributePath(v, name Value) (Value, error) {
	t, ok := name.(Text)
	if !ok {
		return r.item(v, name)
	}
	if err := r.touch(len(t.S)); err != nil {
		return nil, err
	}
	for part := range strings.SplitSeq(t.S, ".") {
		if err := r.work(1); err != nil {
			return nil, err
		}
		var key Value = Trusted(part)
		if part != "" && strings.Trim(part, "0123456789") == "" {
			key = parseInt(part, 10, key)
		}
		var err error
		if v, err = r.item(v, key); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func mapItems(r *renderer, v Value, a arguments) (Value, error) {
	items, err := r.items(v)
	if err != nil {
		return nil, err
	}
	if a.keywords != nil && len(a.positional) == 0 {
		bound, err := a.bind("map", "attribute", "default")
		if err != nil || bound[0] == nil {
			return nil, cmpError(err, "map requires a filter argument")
		}
		out, err := r.attributes(items, bound[0], bound[1])
		return NewList(out...), err
	}
	if len(a.positional) == 0 {
		return nil, errors.New("map requires a filter argument")
	}
	name, err := textArgument("map", a.positional[0])
	if err != nil {
		return nil, err
	}
	f := filterNamed(name.S)
	if f == nil {
		return nil, fmt.Errorf("No filter named '%s'.", name.S)
	}
	if err := r.deeper(); err != nil { // a map within a map within a map
		return nil, err
	}
	defer func() { r.depth-- }()
	rest := arguments{positional: a.positional[1:], keywords: a.keywords}
	out := &List{}
	for _, one := range items {
		made, err := f(r, one, rest)
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, made)
	}
	return out, r.make(16 * len(out.Items))
}

// selector makes select, reject and their forms for an attribute, which is the first argument then. The test is truth where none is named.
func selector(keep, byAttribute bool) filter {
	return func(r *renderer, v Value, a arguments) (Value, error) {
		items, err := r.items(v)
		if err != nil {
			return nil, err
		}
		looked := items
		if byAttribute {
			if len(a.positional) == 0 {
				return nil, errors.New("Missing parameter for attribute name")
			}
			if looked, err = r.attributes(items, a.positional[0], nil); err != nil {
				return nil, err
			}
			a.positional = a.positional[1:]
		}
		is := test(func(_ *renderer, v Value, _ arguments) (bool, error) { return truth(v) })
		if len(a.positional) > 0 {
			name, err := textArgument("select", a.positional[0])
			if err != nil {
				return nil, err
			}
			if is = tests[name.S]; is == nil {
				return nil, fmt.Errorf("No test named '%s'.", name.S)
			}
			a.positional = a.positional[1:]
		}
		out := &List{}
		for i, one := range looked {
			if err := r.work(1); err != nil {
				return nil, err
			}
			yes, err := is(r, one, a)
			if err != nil {
				return nil, err
			}
			if yes == keep {
				out.Items = append(out.Items, items[i])
			}
		}
		return out, r.make(16 * len(out.Items))
	}
}

func sum(r *renderer, v Value, a arguments) (Value, error) {
	bound, err := a.bind("sum", "attribute", "start")
	if err != nil {
		return nil, err
	}
	items, err := r.items(v)
	if err == nil && bound[0] != nil {
		if _, none := bound[0].(None); !none {
			items, err = r.attributes(items, bound[0], nil)
		}
	}
	if err != nil {
		return nil, err
	}
	total := bound[1]
	if total == nil {
		total = Int(0)
	}
	for _, one := range items {
		if isText(one) || isText(total) {
			return nil, errors.New("sum() can't sum strings")
		}
		if total, err = r.calculate("+", total, one); err != nil {
			return nil, err
		}
	}
	return total, nil
}
