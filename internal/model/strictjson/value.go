package strictjson

import (
	"fmt"
	"unicode/utf8"
)

// Value is any JSON value, kept for those that look at it in more than one order.
type Value struct {
	Kind    Kind
	Text    string // the string; or the number or the word as written
	Items   []Value
	Members []Member
}

// Member is a key of an object and its value.
type Member struct {
	Key   string
	Value Value
}

// MaxValues bounds how many values Parse makes of a text: each takes some hundred bytes, and two of the text are enough for one.
const MaxValues = 1 << 17

// Parse reads data, which holds one value.
func Parse(data []byte) (Value, error) {
	r, err := NewReader(data)
	if err != nil {
		return Value{}, err
	}
	v, err := r.Value()
	if err != nil {
		return Value{}, err
	}
	return v, r.End()
}

// Value reads a value of any kind.
func (r *Reader) Value() (v Value, err error) {
	if v.Kind, err = r.Kind(); err != nil {
		return Value{}, err
	}
	if r.made++; r.made > MaxValues {
		return Value{}, r.errorf("more than %d values", MaxValues)
	}
	start := r.pos
	switch v.Kind {
	case Object:
		err = r.Object(func(key string) error {
			member, err := r.Value()
			v.Members = append(v.Members, Member{key, member})
			return err
		})
	case Array:
		err = r.Array(func(int) error {
			item, err := r.Value()
			v.Items = append(v.Items, item)
			return err
		})
	case String:
		v.Text, err = r.String()
	default:
		err = r.Skip()
		v.Text = string(r.data[start:r.pos])
	}
	return v, err
}

// String is the value as JSON, for messages; what is long is shortened.
func (v Value) String() string {
	const maxBytes = 120
	s := v.text()
	if len(s) > maxBytes {
		return fmt.Sprintf("%.*s…", maxBytes/utf8.UTFMax, s)
	}
	return s
}

func (v Value) text() string {
	switch v.Kind {
	case String:
		return fmt.Sprintf("%.100q", v.Text)
	case Array:
		s := "["
		for i, item := range v.Items {
			if i == 4 {
				s += ", …"
				break
			}
			if i > 0 {
				s += ", "
			}
			s += item.String()
		}
		return s + "]"
	case Object:
		s := "{"
		for i, m := range v.Members {
			if i == 4 {
				s += ", …"
				break
			}
			if i > 0 {
				s += ", "
			}
			s += fmt.Sprintf("%.100q", m.Key) + ": " + m.Value.String()
		}
		return s + "}"
	default:
		return v.Text
	}
}
