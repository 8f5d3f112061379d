package jinja

import (
	"fmt"
	"slices"
	"strings"
)

// sortKeys are what elements are compared by: themselves or an attribute, small letters and large ones alike unless case matters.
func (r *renderer) sortKeys(items []Value, attribute, caseSensitive Value) ([]Value, error) {
	keys := items
	several, _ := attribute.(Text)
	switch {
	case attribute == nil || attribute == Value(None{}):
	case strings.Contains(several.S, ","):
		return r.tupleKeys(items, several.S, caseSensitive)
	default:
		var err error
		if keys, err = r.attributes(items, attribute, nil); err != nil {
			return nil, err
		}
	}
	exact, err := optionalTruth(caseSensitive)
	if err != nil || exact {
		return keys, err
	}
	out := make([]Value, len(keys))
	for i, key := range keys {
		out[i] = key
		if t, ok := key.(Text); ok {
			if out[i], err = r.mapRunes(t, lowerRune); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// tupleKeys are keys of several attributes: "age,name".
func (r *renderer) tupleKeys(items []Value, attributes string, caseSensitive Value) ([]Value, error) {
	keys := make([]Value, len(items))
	for i := range keys {
		keys[i] = &List{tuple: true}
	}
	for one := range strings.SplitSeq(attributes, ",") {
		parts, err := r.sortKeys(items, Trusted(one), caseSensitive)
		if err != nil {
			return nil, err
		}
		for i, part := range parts {
			key := keys[i].(*List)
			key.Items = append(key.Items, part)
		}
	}
	return keys, nil
}

// sorted returns the order in which keys stand sorted, equal ones as they were.
func (r *renderer) sorted(keys []Value, backwards bool) ([]int, error) {
	order := make([]int, len(keys))
	for i := range order {
		order[i] = i
	}
	var failed error
	slices.SortStableFunc(order, func(i, j int) int {
		if failed == nil {
			failed = r.work(1)
		}
		if failed != nil {
			return 0
		}
		c, comparable, err := r.orderLists(keys[i:i+1], keys[j:j+1]) // as Jinja does: what is equal needs no order
		if err == nil && !comparable {
			err = fmt.Errorf("'<' not supported between instances of '%s' and '%s'", keys[j].typeName(), keys[i].typeName())
		}
		failed = err
		switch {
		case c == unordered:
			return 0
		case backwards:
			return -c
		}
		return c
	})
	return order, failed
}

func sortFilter(r *renderer, v Value, a arguments) (Value, error) {
	bound, err := a.bind("sort", "reverse", "case_sensitive", "attribute")
	if err != nil {
		return nil, err
	}
	items, err := r.items(v)
	if err != nil {
		return nil, err
	}
	backwards, err := optionalTruth(bound[0])
	if err != nil {
		return nil, err
	}
	keys, err := r.sortKeys(items, bound[2], bound[1])
	if err != nil {
		return nil, err
	}
	order, err := r.sorted(keys, backwards)
	if err != nil {
		return nil, err
	}
	out := &List{}
	for _, i := range order {
		out.Items = append(out.Items, items[i])
	}
	return out, r.make(48 * len(items))
}

func dictSort(r *renderer, v Value, a arguments) (Value, error) {
	bound, err := a.bind("dictsort", "case_sensitive", "by", "reverse")
	if err != nil {
		return nil, err
	}
	d, ok := v.(*Dict)
	if !ok {
		return nil, fmt.Errorf("dictsort takes a mapping, not %s", v.typeName())
	}
	by := d.keys
	if t, ok := bound[1].(Text); ok && t.S == "value" {
		by = d.values
	} else if ok && t.S != "key" {
		return nil, fmt.Errorf(`You can only sort by either "key" or "value"`)
	}
	backwards, err := optionalTruth(bound[2])
	if err != nil {
		return nil, err
	}
	keys, err := r.sortKeys(by, nil, bound[0])
	if err != nil {
		return nil, err
	}
	order, err := r.sorted(keys, backwards)
	if err != nil {
		return nil, err
	}
	out := &List{}
	for _, i := range order {
		out.Items = append(out.Items, &List{Items: []Value{d.keys[i], d.values[i]}, tuple: true})
	}
	return out, r.make(64 * len(order))
}

// extreme makes min and max.
func extreme(name string, sign int) filter {
	return func(r *renderer, v Value, a arguments) (Value, error) {
		bound, err := a.bind(name, "case_sensitive", "attribute")
		if err != nil {
			return nil, err
		}
		items, err := r.items(v)
		if err != nil {
			return nil, err
		}
		if len(items) == 0 {
			return &undefined{says: "No aggregated item, sequence was empty."}, nil
		}
		keys, err := r.sortKeys(items, bound[1], bound[0])
		if err != nil {
			return nil, err
		}
		best := 0
		for i := range keys {
			c, comparable, err := r.order(keys[i], keys[best])
			if err == nil && !comparable {
				err = fmt.Errorf("'<' not supported between instances of '%s' and '%s'", keys[i].typeName(), keys[best].typeName())
			}
			if err != nil {
				return nil, err
			}
			if c == sign {
				best = i
			}
		}
		return items[best], r.work(len(items))
	}
}

func unique(r *renderer, v Value, a arguments) (Value, error) {
	bound, err := a.bind("unique", "case_sensitive", "attribute")
	if err != nil {
		return nil, err
	}
	items, err := r.items(v)
	if err != nil {
		return nil, err
	}
	keys, err := r.sortKeys(items, bound[1], bound[0])
	if err != nil {
		return nil, err
	}
	seen := map[any]bool{}
	out := &List{}
	for i, key := range keys {
		h, err := hash(key)
		if t, ok := key.(Text); ok && err == nil {
			err = r.touch(len(t.S))
		}
		if err != nil {
			return nil, err
		}
		if !seen[h] {
			seen[h] = true
			out.Items = append(out.Items, items[i])
		}
	}
	return out, r.make(64 * len(items))
}

// groupBy gathers elements of one key, in the order of the keys: pairs of a key and a list.
func groupBy(r *renderer, v Value, a arguments) (Value, error) {
	bound, err := a.bind("groupby", "attribute", "default", "case_sensitive")
	if err != nil || bound[0] == nil {
		return nil, cmpError(err, "groupby needs an attribute")
	}
	items, err := r.items(v)
	if err != nil {
		return nil, err
	}
	own, err := r.attributes(items, bound[0], bound[1])
	if err != nil {
		return nil, err
	}
	keys, err := r.sortKeys(own, nil, bound[2])
	if err != nil {
		return nil, err
	}
	order, err := r.sorted(keys, false)
	if err != nil {
		return nil, err
	}
	out := &List{}
	var group *List
	for n, i := range order {
		same := false
		if n > 0 {
			if same, err = r.equal(keys[order[n-1]], keys[i]); err != nil {
				return nil, err
			}
		}
		if !same {
			group = NewList()
			out.Items = append(out.Items, &List{Items: []Value{own[i], group}, tuple: true, group: true})
		}
		group.Items = append(group.Items, items[i])
	}
	return out, r.make(96 * len(items))
}
