package jinja

import (
	"fmt"
	"strings"
	"unicode"
)

// test is what stands behind `is`.
type test func(r *renderer, v Value, a arguments) (bool, error)

var tests = map[string]test{
	"defined":     kind(func(v Value) bool { return !isUndefined(v) }),
	"undefined":   kind(isUndefined),
	"none":        kind(func(v Value) bool { _, ok := v.(None); return ok }),
	"boolean":     kind(func(v Value) bool { _, ok := v.(Bool); return ok }),
	"true":        kind(func(v Value) bool { return v == Value(Bool(true)) }),
	"false":       kind(func(v Value) bool { return v == Value(Bool(false)) }),
	"integer":     kind(func(v Value) bool { _, ok := v.(Int); return ok }),
	"float":       kind(func(v Value) bool { _, ok := v.(Float); return ok }),
	"number":      kind(func(v Value) bool { _, _, ok := number(v); return ok }),
	"string":      kind(isText),
	"mapping":     kind(func(v Value) bool { _, ok := v.(*Dict); return ok }),
	"callable":    kind(func(v Value) bool { _, ok := v.(*function); return ok || isUndefined(v) }),
	"sequence":    kind(isSequence),
	"iterable":    kind(func(v Value) bool { return isSequence(v) || isUndefined(v) }),
	"escaped":     kind(func(Value) bool { return false }),
	"upper":       letters(unicode.IsUpper, unicode.IsLower),
	"lower":       letters(unicode.IsLower, unicode.IsUpper),
	"even":        divisible(2, 0),
	"odd":         divisible(2, 1),
	"divisibleby": divisible(0, 0),
	"in":          func(r *renderer, v Value, a arguments) (bool, error) { return binary(r, "in", v, a) },
	"sameas":      sameAs,
	"filter": func(r *renderer, v Value, _ arguments) (bool, error) {
		name, ok := v.(Text)
		return ok && (filters[name.S] != nil || strings.Contains(" map select selectattr reject rejectattr ", " "+name.S+" ")), nil
	},
	"eq": comparing("=="), "equalto": comparing("=="), "==": comparing("=="),
	"ne": comparing("!="), "!=": comparing("!="),
	"lt": comparing("<"), "lessthan": comparing("<"), "<": comparing("<"),
	"le": comparing("<="), "<=": comparing("<="),
	"gt": comparing(">"), "greaterthan": comparing(">"), ">": comparing(">"),
	"ge": comparing(">="), ">=": comparing(">="),
}

// kind makes a test of what a value is. What is there but not for templates has no kind.
func kind(is func(v Value) bool) test {
	return func(_ *renderer, v Value, a arguments) (bool, error) {
		if len(a.positional) > 0 || a.keywords != nil {
			return false, fmt.Errorf("the test takes no arguments")
		}
		return is(v), nil
	}
}

func isUndefined(v Value) bool {
	_, ok := v.(*undefined)
	return ok
}

func isSequence(v Value) bool {
	switch v.(type) {
	case Text, *List, *Dict:
		return true
	}
	return false
}

func letters(want, other func(rune) bool) test {
	return func(r *renderer, v Value, _ arguments) (bool, error) {
		t, err := r.str(v)
		if err == nil {
			err = r.touch(len(t.S))
		}
		return strings.IndexFunc(t.S, want) >= 0 && strings.IndexFunc(t.S, other) < 0, err
	}
}

// divisible makes a test of a remainder; by 0 means by the argument.
func divisible(by, rest Int) test {
	return func(r *renderer, v Value, a arguments) (bool, error) {
		var divisor Value = by
		if by == 0 {
			bound, err := a.bind("divisibleby", "num")
			if err != nil || bound[0] == nil {
				return false, cmpError(err, "divisibleby needs a number")
			}
			divisor = bound[0]
		}
		if _, _, ok := number(v); !ok {
			return false, fmt.Errorf("unsupported operand type(s) for %%: '%s' and 'int'", v.typeName())
		}
		is, err := r.calculate("%", v, divisor)
		if err != nil {
			return false, err
		}
		return r.equal(is, rest)
	}
}

func comparing(operator string) test {
	return func(r *renderer, v Value, a arguments) (bool, error) { return binary(r, operator, v, a) }
}

func binary(r *renderer, operator string, v Value, a arguments) (bool, error) {
	bound, err := a.bind(operator, "other")
	if err != nil || bound[0] == nil {
		return false, cmpError(err, "the test needs an argument")
	}
	return r.compare(operator, v, bound[0])
}

// sameAs tells whether two values are one object. Texts and numbers, which Python may or may not have once, are the same when they are
// equal and of one type.
func sameAs(r *renderer, v Value, a arguments) (bool, error) {
	bound, err := a.bind("sameas", "other")
	if err != nil || bound[0] == nil {
		return false, cmpError(err, "sameas needs a value")
	}
	switch v := v.(type) {
	case *List, *Dict, *namespace, *function, *loop:
		return v == bound[0], nil
	}
	if v.typeName() != bound[0].typeName() {
		return false, nil
	}
	return r.equal(v, bound[0])
}
