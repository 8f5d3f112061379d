package jinja

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
)

var errIntegerRange = errors.New("integer outside 64 bits")

// calculate is left operator right.
func (r *renderer) calculate(operator string, left, right Value) (Value, error) {
	if operator == "~" {
		return r.join(left, right)
	}
	for _, v := range [...]Value{left, right} {
		if u, ok := v.(*undefined); ok {
			return nil, u.fail()
		}
	}
	switch l := left.(type) {
	case Text:
		switch {
		case operator == "%":
			return r.percentFormat(l, right)
		case operator == "+" && isText(right):
			return r.concat(l, right.(Text))
		case operator == "*":
			if n, ok := asIndex(right); ok {
				return r.repeatText(l, n)
			}
		}
	case *List:
		other, isList := right.(*List)
		switch {
		case operator == "+" && isList && l.tuple == other.tuple:
			if err := r.make(16 * (len(l.Items) + len(other.Items))); err != nil {
				return nil, err
			}
			return &List{Items: slices.Concat(l.Items, other.Items), tuple: l.tuple}, nil
		case operator == "*":
			if n, ok := asIndex(right); ok {
				return r.repeatList(l, n)
			}
		}
	}
	if n, ok := asIndex(left); ok && operator == "*" {
		switch other := right.(type) {
		case Text:
			return r.repeatText(other, n)
		case *List:
			return r.repeatList(other, n)
		}
	}
	a, aInt, aOK := number(left)
	b, bInt, bOK := number(right)
	switch {
	case !aOK || !bOK:
		return nil, fmt.Errorf("unsupported operand type(s) for %s: '%s' and '%s'", operator, left.typeName(), right.typeName())
	case aInt && bInt:
		x, _ := asIndex(left)
		y, _ := asIndex(right)
		return integers(operator, Int(x), Int(y))
	}
	return floats(operator, a, b)
}

// join is left ~ right: the texts of both.
func (r *renderer) join(left, right Value) (Value, error) {
	a, err := r.str(left)
	if err != nil {
		return nil, err
	}
	b, err := r.str(right)
	if err != nil {
		return nil, err
	}
	return r.concat(a, b)
}

func isText(v Value) bool {
	_, ok := v.(Text)
	return ok
}

// repeatText is t * n. The limit is checked before anything is made.
func (r *renderer) repeatText(t Text, n int) (Value, error) {
	if n <= 0 || t.S == "" {
		return Text{}, nil
	}
	if n > r.limits.Output/len(t.S) {
		return nil, r.outputError()
	}
	if len(t.Content) == 0 {
		return Trusted(strings.Repeat(t.S, n)), r.make(n * len(t.S))
	}
	b := r.newBuilder()
	for range n {
		if err := r.work(1); err != nil {
			return nil, err
		}
		if err := b.add(t); err != nil {
			return nil, err
		}
	}
	return b.text(), nil
}

func (r *renderer) repeatList(l *List, n int) (Value, error) {
	out := &List{tuple: l.tuple}
	if n <= 0 || len(l.Items) == 0 {
		return out, nil
	}
	if n > r.limits.Memory/16/len(l.Items) {
		return nil, r.make(r.limits.Memory + 1)
	}
	if err := r.make(16 * n * len(l.Items)); err != nil {
		return nil, err
	}
	for range n {
		out.Items = append(out.Items, l.Items...)
	}
	return out, nil
}

// number is the value of an Int, a Bool or a Float.
func number(v Value) (value float64, isInt, ok bool) {
	switch n := v.(type) {
	case Int:
		return float64(n), true, true
	case Bool:
		return float64(toInt(n)), true, true
	case Float:
		return float64(n), false, true
	}
	return 0, false, false
}

func integers(operator string, a, b Int) (Value, error) {
	switch operator {
	case "+":
		if sum := a + b; (sum > a) == (b > 0) {
			return sum, nil
		}
		return nil, errIntegerRange
	case "-":
		if difference := a - b; (difference < a) == (b > 0) {
			return difference, nil
		}
		return nil, errIntegerRange
	case "*":
		return multiply(a, b)
	case "/":
		if b == 0 {
			return nil, errors.New("division by zero")
		}
		return Float(float64(a) / float64(b)), nil
	case "//", "%":
		switch {
		case b == 0:
			return nil, errors.New("integer division or modulo by zero")
		case b == -1 && a == math.MinInt64:
			return nil, errIntegerRange
		}
		quotient, rest := a/b, a%b
		if rest != 0 && (rest < 0) != (b < 0) { // Python rounds down
			quotient, rest = quotient-1, rest+b
		}
		if operator == "%" {
			return rest, nil
		}
		return quotient, nil
	}
	if b < 0 {
		return floats(operator, float64(a), float64(b))
	}
	return power(a, b)
}

func multiply(a, b Int) (Value, error) {
	high, low := bits.Mul64(magnitude(a), magnitude(b))
	negative := (a < 0) != (b < 0)
	switch {
	case high != 0 || low > 1<<63 || !negative && low == 1<<63:
		return nil, errIntegerRange
	case negative:
		return Int(-low), nil
	}
	return Int(low), nil
}

func magnitude(a Int) uint64 {
	if a < 0 {
		return -uint64(a)
	}
	return uint64(a)
}

// power multiplies at most some 64 times: then it has left the range, or the base is 0, 1 or −1.
func power(a, b Int) (Value, error) {
	switch {
	case a == -1:
		return 1 - 2*(b&1), nil
	case b == 0 || a == 1:
		return Int(1), nil
	case a == 0:
		return Int(0), nil
	}
	var out Value = Int(1)
	for range b {
		var err error
		if out, err = multiply(out.(Int), a); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func floats(operator string, a, b float64) (Value, error) {
	if b == 0 && strings.ContainsAny(operator, "/%") {
		return nil, errors.New("float division by zero")
	}
	var out float64
	switch operator {
	case "+":
		out = a + b
	case "-":
		out = a - b
	case "*":
		out = a * b
	case "/":
		out = a / b
	case "//":
		out = math.Floor(a / b)
	case "%":
		if out = math.Mod(a, b); out != 0 && (out < 0) != (b < 0) {
			out += b
		}
	case "**":
		if a == 0 && b < 0 {
			return nil, errors.New("0.0 cannot be raised to a negative power")
		}
		out = math.Pow(a, b)
	}
	return Float(out), nil
}

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
