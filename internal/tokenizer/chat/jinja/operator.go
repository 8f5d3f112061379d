package jinja

import (
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
