package jinja

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

func absolute(r *renderer, v Value, _ arguments) (Value, error) {
	n, isInt, ok := number(v)
	switch {
	case !ok:
		return nil, fmt.Errorf("bad operand type for abs(): '%s'", v.typeName())
	case n >= 0:
		return v, nil
	case isInt:
		return r.calculate("-", Int(0), v)
	}
	return Float(-n), nil
}

func floatFilter(r *renderer, v Value, a arguments) (Value, error) {
	bound, err := a.bind("float", "default")
	if err != nil {
		return nil, err
	}
	if n, _, ok := number(v); ok {
		return Float(n), nil
	}
	if t, ok := v.(Text); ok {
		if err := r.touch(len(t.S)); err != nil {
			return nil, err
		}
		if f, err := strconv.ParseFloat(strings.TrimFunc(t.S, isSpace), 64); err == nil {
			return Float(f), nil
		}
	}
	if bound[0] != nil {
		return bound[0], nil
	}
	return Float(0), nil
}

func intFilter(r *renderer, v Value, a arguments) (Value, error) {
	bound, err := a.bind("int", "default", "base")
	if err != nil {
		return nil, err
	}
	otherwise := bound[0]
	if otherwise == nil {
		otherwise = Int(0)
	}
	base, err := intArgument("int", bound[1], 10)
	if err != nil {
		return nil, err
	}
	switch n := v.(type) {
	case Int:
		return n, nil
	case Bool:
		return toInt(n), nil
	case Float:
		return truncated(float64(n), otherwise), nil
	case Text:
		return parseInt(n.S, base, otherwise), r.make(2 * len(n.S))
	}
	return otherwise, nil
}

func truncated(f float64, otherwise Value) Value {
	if math.IsNaN(f) || f >= 1<<63 || f < -1<<63 {
		return otherwise
	}
	return Int(f)
}

// parseInt reads an integer, or a number whose fraction is cut off.
func parseInt(s string, base int, otherwise Value) Value {
	s = strings.ReplaceAll(strings.TrimFunc(s, isSpace), "_", "")
	digits := strings.ToLower(s)
	if prefix := map[int]string{16: "0x", 8: "0o", 2: "0b"}[base]; prefix != "" {
		sign := ""
		if strings.HasPrefix(digits, "-") {
			sign, digits = "-", digits[1:]
		}
		digits = sign + strings.TrimPrefix(digits, prefix)
	}
	if base >= 2 && base <= 36 {
		if n, err := strconv.ParseInt(digits, base, 64); err == nil {
			return Int(n)
		}
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		return truncated(f, otherwise)
	}
	return otherwise
}

func round(_ *renderer, v Value, a arguments) (Value, error) {
	bound, err := a.bind("round", "precision", "method")
	if err != nil {
		return nil, err
	}
	n, isInt, ok := number(v)
	if !ok {
		return nil, fmt.Errorf("type %s doesn't define __round__ method", v.typeName())
	}
	precision, err := intArgument("round", bound[0], 0)
	if err != nil {
		return nil, err
	}
	method := "common"
	if t, ok := bound[1].(Text); ok {
		method = t.S
	}
	scale := math.Pow(10, float64(precision))
	switch method {
	case "common":
		if isInt && precision >= 0 {
			return v, nil
		}
		if precision >= 0 && precision < 300 {
			exact, err := strconv.ParseFloat(strconv.FormatFloat(n, 'f', precision, 64), 64)
			return Float(exact), err
		}
		return Float(math.RoundToEven(n*scale) / scale), nil
	case "ceil":
		return Float(math.Ceil(n*scale) / scale), nil
	case "floor":
		return Float(math.Floor(n*scale) / scale), nil
	}
	return nil, errors.New("method must be common, ceil or floor")
}
