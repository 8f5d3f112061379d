// Package strictjson reads JSON that somebody else wrote and that a model's arithmetic hangs on. Where encoding/json is lenient it
// refuses: duplicate keys, keys in another case, text after the value, invalid UTF-8, lone surrogates, nesting without bound.
//
// A Reader pulls one value after the other from a buffer, keeps no state but its position and allocates only what it returns, so that a
// header of 100,000 tensors costs little more than its names.
package strictjson

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"
)

// MaxDepth bounds how deep arrays and objects nest.
const MaxDepth = 64

// Kind is the type of a JSON value.
type Kind byte

const (
	Null Kind = iota + 1
	Bool
	Number
	String
	Array
	Object
)

var kindNames = [...]string{Null: "null", Bool: "a boolean", Number: "a number", String: "a string", Array: "an array", Object: "an object"}

// String names the kind as an error message does: "a number".
func (k Kind) String() string {
	if int(k) >= len(kindNames) || k == 0 {
		return fmt.Sprintf("Kind(%d)", byte(k))
	}
	return kindNames[k]
}

// Reader reads one JSON text. It belongs to one goroutine.
type Reader struct {
	data  []byte
	pos   int
	depth int
	made  int // Values
}

// NewReader reads data, which must not change meanwhile. Invalid UTF-8 is refused here.
func NewReader(data []byte) (*Reader, error) {
	if !utf8.Valid(data) {
		at := 0
		for at < len(data) {
			r, n := utf8.DecodeRune(data[at:])
			if r == utf8.RuneError && n <= 1 {
				break
			}
			at += n
		}
		return nil, fmt.Errorf("offset %d: invalid UTF-8", at)
	}
	return &Reader{data: data}, nil
}

// Kind looks at the next value without reading it.
func (r *Reader) Kind() (Kind, error) {
	r.space()
	if r.pos == len(r.data) {
		return 0, r.errorf("the text ends where a value should be")
	}
	switch c := r.data[r.pos]; {
	case c == '{':
		return Object, nil
	case c == '[':
		return Array, nil
	case c == '"':
		return String, nil
	case c == 't' || c == 'f':
		return Bool, nil
	case c == 'n':
		return Null, nil
	case c == '-' || '0' <= c && c <= '9':
		return Number, nil
	default:
		return 0, r.errorf("%q where a value should be", c)
	}
}

// Object calls member for each key, in order; it must read the value. Errors of member are wrapped with the key.
func (r *Reader) Object(member func(key string) error) error {
	if err := r.enter(Object); err != nil {
		return err
	}
	var seen keySet
	for first := true; ; first = false {
		if done, err := r.next('}', first); done || err != nil {
			return err
		}
		key, err := r.String()
		if err != nil {
			return fmt.Errorf("key: %w", err)
		}
		if !seen.add(key) {
			return r.errorf("duplicate key %.100q", key)
		}
		r.space()
		if r.pos == len(r.data) || r.data[r.pos] != ':' {
			return r.errorf("no colon after key %.100q", key)
		}
		r.pos++
		if err := member(key); err != nil {
			return fmt.Errorf("%s: %w", quoteUnlessPlain(key), err)
		}
	}
}

// Array calls element for each element; it must read the value. Errors of element are wrapped with the index.
func (r *Reader) Array(element func(i int) error) error {
	if err := r.enter(Array); err != nil {
		return err
	}
	for i := 0; ; i++ {
		if done, err := r.next(']', i == 0); done || err != nil {
			return err
		}
		if err := element(i); err != nil {
			return fmt.Errorf("[%d]: %w", i, err)
		}
	}
}

// Int reads a number without fraction or exponent.
func (r *Reader) Int() (int64, error) {
	s, err := r.Number()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("%.100s does not fit in 64 bits", s)
	}
	if err != nil {
		return 0, fmt.Errorf("%.100s is not an integer", s)
	}
	return n, nil
}

// Float reads a finite number.
func (r *Reader) Float() (float64, error) {
	s, err := r.Number()
	if err != nil {
		return 0, err
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsInf(f, 0) {
		return 0, fmt.Errorf("%.100s does not fit in a float64", s)
	}
	return f, nil
}

// Number reads a number as it is written.
func (r *Reader) Number() (string, error) {
	if err := r.want(Number); err != nil {
		return "", err
	}
	start := r.pos
	if r.data[r.pos] == '-' {
		r.pos++
	}
	whole := r.digits()
	if whole == 0 || whole > 1 && r.data[r.pos-whole] == '0' {
		return "", r.errorf("malformed number")
	}
	if r.at('.') {
		r.pos++
		if r.digits() == 0 {
			return "", r.errorf("number without digits after its point")
		}
	}
	if r.at('e') || r.at('E') {
		r.pos++
		if r.at('+') || r.at('-') {
			r.pos++
		}
		if r.digits() == 0 {
			return "", r.errorf("number without digits in its exponent")
		}
	}
	return string(r.data[start:r.pos]), nil
}

// Bool reads true or false.
func (r *Reader) Bool() (bool, error) {
	if err := r.want(Bool); err != nil {
		return false, err
	}
	if r.data[r.pos] == 't' {
		return true, r.literal("true")
	}
	return false, r.literal("false")
}

// Null reads null.
func (r *Reader) Null() error {
	if err := r.want(Null); err != nil {
		return err
	}
	return r.literal("null")
}

// Skip reads a value of any kind and forgets it; it is as strict as reading it.
func (r *Reader) Skip() error {
	k, err := r.Kind()
	if err != nil {
		return err
	}
	switch k {
	case Object:
		return r.Object(func(string) error { return r.Skip() })
	case Array:
		return r.Array(func(int) error { return r.Skip() })
	case String:
		_, err = r.String()
	case Number:
		_, err = r.Number()
	case Bool:
		_, err = r.Bool()
	case Null:
		err = r.Null()
	}
	return err
}

// End is an error unless only white space is left.
func (r *Reader) End() error {
	r.space()
	if r.pos < len(r.data) {
		return r.errorf("text after the value")
	}
	return nil
}

func (r *Reader) enter(k Kind) error {
	if err := r.want(k); err != nil {
		return err
	}
	if r.depth == MaxDepth {
		return r.errorf("nested deeper than %d", MaxDepth)
	}
	r.depth++
	r.pos++
	return nil
}

// next moves to the next element or member, or past the closing bracket.
func (r *Reader) next(closing byte, first bool) (done bool, err error) {
	r.space()
	if r.at(closing) {
		r.pos++
		r.depth--
		return true, nil
	}
	if first {
		return false, nil
	}
	if !r.at(',') {
		return false, r.errorf("no ',' or %q after a value", closing)
	}
	r.pos++
	r.space()
	if r.at(closing) {
		return false, r.errorf("%q after a comma", closing)
	}
	return false, nil
}

func (r *Reader) want(k Kind) error {
	got, err := r.Kind()
	if err != nil {
		return err
	}
	if got != k {
		return r.errorf("%v, want %v", got, k)
	}
	return nil
}

func (r *Reader) literal(s string) error {
	if len(r.data)-r.pos < len(s) || string(r.data[r.pos:r.pos+len(s)]) != s {
		return r.errorf("unknown word, want %s", s)
	}
	r.pos += len(s)
	return nil
}

func (r *Reader) digits() (n int) {
	for r.pos < len(r.data) && '0' <= r.data[r.pos] && r.data[r.pos] <= '9' {
		r.pos++
		n++
	}
	return n
}

func (r *Reader) at(c byte) bool { return r.pos < len(r.data) && r.data[r.pos] == c }

func (r *Reader) space() {
	for r.pos < len(r.data) {
		switch r.data[r.pos] {
		case ' ', '\t', '\n', '\r':
			r.pos++
		default:
			return
		}
	}
}

func (r *Reader) errorf(format string, args ...any) error {
	return fmt.Errorf("offset %d: %s", r.pos, fmt.Sprintf(format, args...))
}

// quoteUnlessPlain keeps a key that a stranger chose from forging lines of a log.
func quoteUnlessPlain(key string) string {
	for _, c := range key {
		if c <= ' ' || c > '~' || c == '"' {
			return strconv.Quote(key)
		}
	}
	if key == "" || len(key) > 256 {
		return fmt.Sprintf("%.256q", key)
	}
	return key
}

// keySet finds duplicates: most objects have a few keys, one in a file has thousands.
type keySet struct {
	few  []string
	many map[string]struct{}
}

func (s *keySet) add(key string) bool {
	const fewEnough = 16
	if s.many == nil && len(s.few) < fewEnough {
		for _, k := range s.few {
			if k == key {
				return false
			}
		}
		s.few = append(s.few, key)
		return true
	}
	if s.many == nil {
		s.many = make(map[string]struct{}, 4*fewEnough)
		for _, k := range s.few {
			s.many[k] = struct{}{}
		}
	}
	if _, ok := s.many[key]; ok {
		return false
	}
	s.many[key] = struct{}{}
	return true
}
