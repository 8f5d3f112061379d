package jinja

import (
	"fmt"
	"math"
	"strconv"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

// FromJSON makes a value of JSON: keys keep their order, and every byte of a string, keys too, is content if content says so.
func FromJSON(v strictjson.Value, content bool) (Value, error) {
	text := Trusted
	if content {
		text = Content
	}
	switch v.Kind {
	case strictjson.Object:
		out := NewDict()
		for _, m := range v.Members {
			member, err := FromJSON(m.Value, content)
			if err == nil {
				err = out.put(text(m.Key), member)
			}
			if err != nil {
				return nil, err
			}
		}
		return out, nil
	case strictjson.Array:
		out := NewList()
		for _, one := range v.Items {
			element, err := FromJSON(one, content)
			if err != nil {
				return nil, err
			}
			out.Items = append(out.Items, element)
		}
		return out, nil
	case strictjson.String:
		return text(v.Text), nil
	case strictjson.Number:
		return fromNumber(v.Text)
	case strictjson.Bool:
		return Bool(v.Text == "true"), nil
	}
	return None{}, nil
}

// fromNumber tells integers from other numbers as Python's json does: by how they are written.
func fromNumber(s string) (Value, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return Int(n), nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsInf(f, 0) {
		return nil, fmt.Errorf("number %.40s is out of range", s)
	}
	return Float(f), nil
}
