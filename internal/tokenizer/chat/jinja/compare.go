package jinja

import (
	"cmp"
	"fmt"
	"math"
	"strings"
)

// compare is left operator right.
func (r *renderer) compare(operator string, left, right Value) (bool, error) {
	switch operator {
	case "==":
		return r.equal(left, right)
	case "!=":
		same, err := r.equal(left, right)
		return !same, err
	case "in":
		return r.contains(right, left)
	case "not in":
		found, err := r.contains(right, left)
		return !found, err
	}
	order, comparable, err := r.order(left, right)
	if err != nil {
		return false, err
	}
	if !comparable {
		return false, fmt.Errorf("'%s' not supported between instances of '%s' and '%s'", operator, left.typeName(), right.typeName())
	}
	switch operator {
	case "<":
		return order == -1, nil
	case "<=":
		return order == -1 || order == 0, nil
	case ">":
		return order == 1, nil
	}
	return order == 1 || order == 0, nil
}

// unordered is the order of a NaN and anything.
const unordered = 2

// order is −1, 0 or 1, or unordered.
func (r *renderer) order(left, right Value) (int, bool, error) {
	for _, v := range [...]Value{left, right} {
		if u, ok := v.(*undefined); ok {
			return 0, false, u.fail()
		}
	}
	a, aInt, aOK := number(left)
	b, bInt, bOK := number(right)
	if aOK && bOK {
		switch {
		case aInt && bInt:
			i, _ := asIndex(left)
			j, _ := asIndex(right)
			return cmp.Compare(i, j), true, nil
		case math.IsNaN(a) || math.IsNaN(b):
			return unordered, true, nil
		}
		return cmp.Compare(a, b), true, nil
	}
	switch l := left.(type) {
	case Text:
		if other, ok := right.(Text); ok { // UTF-8 orders as its code points do
			return strings.Compare(l.S, other.S), true, r.touch(min(len(l.S), len(other.S)))
		}
	case *List:
		if other, ok := right.(*List); ok && l.tuple == other.tuple {
			return r.orderLists(l.Items, other.Items)
		}
	}
	return 0, false, nil
}

func (r *renderer) orderLists(a, b []Value) (int, bool, error) {
	if err := r.deeper(); err != nil {
		return 0, false, err
	}
	defer func() { r.depth-- }()
	for i := range min(len(a), len(b)) {
		if err := r.work(1); err != nil {
			return 0, false, err
		}
		same, err := r.equal(a[i], b[i])
		if err != nil {
			return 0, false, err
		}
		if !same {
			return r.order(a[i], b[i])
		}
	}
	return cmp.Compare(len(a), len(b)), true, nil
}

// equal is Python's ==.
func (r *renderer) equal(left, right Value) (bool, error) {
	if err := r.work(1); err != nil {
		return false, err
	}
	a, aInt, aOK := number(left)
	b, bInt, bOK := number(right)
	if aOK && bOK {
		if aInt && bInt {
			x, _ := asIndex(left)
			y, _ := asIndex(right)
			return x == y, nil
		}
		return a == b, nil
	}
	switch l := left.(type) {
	case Text:
		other, ok := right.(Text)
		return ok && l.S == other.S, r.touch(len(l.S))
	case None:
		_, ok := right.(None)
		return ok, nil
	case *undefined:
		return isUndefined(right), nil
	case *List:
		other, ok := right.(*List)
		if !ok || l.tuple != other.tuple || len(l.Items) != len(other.Items) {
			return false, nil
		}
		return r.equalItems(l.Items, other.Items)
	case *Dict:
		other, ok := right.(*Dict)
		if !ok || l.Len() != other.Len() {
			return false, nil
		}
		return r.equalDicts(l, other)
	}
	return left == right, nil // namespaces, functions and loops are equal to themselves
}

func (r *renderer) equalItems(a, b []Value) (bool, error) {
	if err := r.deeper(); err != nil {
		return false, err
	}
	defer func() { r.depth-- }()
	for i := range a {
		if same, err := r.equal(a[i], b[i]); err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

func (r *renderer) equalDicts(a, b *Dict) (bool, error) {
	if err := r.deeper(); err != nil {
		return false, err
	}
	defer func() { r.depth-- }()
	for i, key := range a.keys {
		v, ok, err := b.find(key)
		if err != nil || !ok {
			return false, err
		}
		if same, err := r.equal(a.values[i], v); err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

// contains is v in container.
func (r *renderer) contains(container, v Value) (bool, error) {
	switch c := container.(type) {
	case Text:
		if u, ok := v.(*undefined); ok {
			return false, u.fail()
		}
		part, ok := v.(Text)
		if !ok {
			return false, fmt.Errorf("'in <string>' requires string as left operand, not %s", v.typeName())
		}
		return strings.Contains(c.S, part.S), r.touch(len(c.S))
	case *Dict:
		_, found, err := c.find(v)
		if t, ok := v.(Text); ok && err == nil {
			err = r.touch(len(t.S))
		}
		return found, err
	case *List:
		for _, one := range c.Items {
			if same, err := r.equal(one, v); err != nil || same {
				return same, err
			}
		}
		return false, nil
	case *undefined:
		return false, nil
	}
	return false, fmt.Errorf("argument of type '%s' is not iterable", container.typeName())
}
