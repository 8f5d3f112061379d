package tokenizer

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonReader walks over a JSON text without building values: a vocabulary has 10⁵ entries and more, for which
// encoding/json takes a second. Small parts are cut out by raw and left to encoding/json.
// The text must be valid UTF-8. Every error names the byte at which it occurred.
type jsonReader struct {
	data []byte
	at   int
	buf  []byte // the last string that had escapes
}

func (r *jsonReader) fail(format string, args ...any) error {
	return fmt.Errorf("json, byte %d: %s", r.at, fmt.Sprintf(format, args...))
}

// peek returns the next byte that is no white space, or 0 at the end.
func (r *jsonReader) peek() byte {
	for ; r.at < len(r.data); r.at++ {
		if c := r.data[r.at]; c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return c
		}
	}
	return 0
}

func (r *jsonReader) expect(c byte) error {
	if got := r.peek(); got != c {
		if r.at == len(r.data) {
			return r.fail("ends where %q is due", c)
		}
		return r.fail("%q where %q is due", got, c)
	}
	r.at++
	return nil
}

// end checks that nothing follows.
func (r *jsonReader) end() error {
	if c := r.peek(); r.at < len(r.data) {
		return r.fail("%q after the end", c)
	}
	return nil
}

// list calls item before each element of an array or member of an object; item reads the element.
func (r *jsonReader) list(open, shut byte, item func() error) error {
	if err := r.expect(open); err != nil {
		return err
	}
	if r.peek() == shut {
		r.at++
		return nil
	}
	for {
		if err := item(); err != nil {
			return err
		}
		if r.peek() == ',' {
			r.at++
			continue
		}
		return r.expect(shut)
	}
}

// object calls member for each member of an object; member reads the value. key is valid until then.
func (r *jsonReader) object(member func(key []byte) error) error {
	return r.list('{', '}', func() error {
		key, err := r.str()
		if err != nil {
			return err
		}
		if err := r.expect(':'); err != nil {
			return err
		}
		return member(key)
	})
}

func (r *jsonReader) array(item func() error) error { return r.list('[', ']', item) }

// str reads a string. The result is a view of the text or of a buffer: valid until the next call.
func (r *jsonReader) str() ([]byte, error) {
	if err := r.expect('"'); err != nil {
		return nil, err
	}
	start := r.at
	for i := start; i < len(r.data); i++ {
		switch c := r.data[i]; {
		case c == '"':
			r.at = i + 1
			return r.data[start:i], nil
		case c == '\\':
			return r.escaped(start, i)
		case c < ' ':
			r.at = i
			return nil, r.fail("control character in a string")
		}
	}
	return nil, r.fail("string without an end")
}

// escaped reads the rest of a string whose first escape is at i.
func (r *jsonReader) escaped(start, i int) ([]byte, error) {
	r.buf = append(r.buf[:0], r.data[start:i]...)
	for r.at = i; r.at < len(r.data); {
		c := r.data[r.at]
		switch {
		case c == '"':
			r.at++
			return r.buf, nil
		case c < ' ':
			return nil, r.fail("control character in a string")
		case c != '\\':
			r.buf = append(r.buf, c)
			r.at++
		default:
			if err := r.escape(); err != nil {
				return nil, err
			}
		}
	}
	return nil, r.fail("string without an end")
}

// shortEscapes are the escapes of one letter, each followed by what it means.
const shortEscapes = "\"\"\\\\//b\bf\fn\nr\rt\t"

func (r *jsonReader) escape() error {
	if r.at+1 >= len(r.data) {
		return r.fail("string without an end")
	}
	c := r.data[r.at+1]
	if c == 'u' {
		return r.unicodeEscape()
	}
	for i := 0; i < len(shortEscapes); i += 2 {
		if shortEscapes[i] == c {
			r.buf = append(r.buf, shortEscapes[i+1])
			r.at += 2
			return nil
		}
	}
	return r.fail(`unknown escape \%c`, c)
}

func (r *jsonReader) unicodeEscape() error {
	u, err := r.hex4()
	if err != nil {
		return err
	}
	if utf16.IsSurrogate(u) {
		low, err := r.hex4()
		if err != nil {
			return err
		}
		if u = utf16.DecodeRune(u, low); u == utf8.RuneError {
			return r.fail("surrogate without its pair")
		}
	}
	r.buf = utf8.AppendRune(r.buf, u)
	return nil
}

// hex4 reads \uXXXX.
func (r *jsonReader) hex4() (rune, error) {
	if len(r.data)-r.at < 6 || r.data[r.at] != '\\' || r.data[r.at+1] != 'u' {
		return 0, r.fail(`\uXXXX is due`)
	}
	var u rune
	for _, c := range r.data[r.at+2 : r.at+6] {
		h := hexDigit(c)
		if h < 0 {
			return 0, r.fail(`\uXXXX is due`)
		}
		u = u<<4 | rune(h)
	}
	r.at += 6
	return u, nil
}

// id reads a token id: an integer in [0, 2³¹).
func (r *jsonReader) id() (int32, error) {
	r.peek()
	start, whole := r.at, int32(0)
	for r.at < len(r.data) && r.at-start < 9 && r.data[r.at] >= '0' && r.data[r.at] <= '9' {
		whole = whole*10 + int32(r.data[r.at]-'0')
		r.at++
	}
	if r.at > start && r.at < len(r.data) && (r.data[r.at] == ',' || r.data[r.at] == '}') && (r.data[start] != '0' || r.at == start+1) {
		return whole, nil // nearly always
	}
	for r.at < len(r.data) && bytes.IndexByte([]byte("+-.0123456789eE"), r.data[r.at]) >= 0 {
		r.at++
	}
	text := string(r.data[start:r.at])
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 0 || text != strconv.FormatInt(n, 10) {
		return 0, r.fail("%.100q is not a token id", r.data[start:r.at])
	}
	return int32(n), nil
}

var errDepth = errors.New("json: more than 100 levels")

// raw passes over a value and returns its text. What is within it is checked for balance only.
func (r *jsonReader) raw() ([]byte, error) {
	r.peek()
	start, depth := r.at, 0
	for r.peek() != 0 {
		switch r.data[r.at] {
		case '{', '[':
			r.at++
			if depth++; depth > 100 {
				return nil, errDepth
			}
			continue
		case '}', ']':
			r.at++
			depth--
		case '"':
			if err := r.passString(); err != nil {
				return nil, err
			}
		case ',', ':':
			if depth == 0 {
				return nil, r.fail("a value is due")
			}
			r.at++
			continue
		default:
			r.passWord()
		}
		if depth < 0 {
			return nil, r.fail("unbalanced bracket")
		}
		if depth == 0 {
			return r.data[start:r.at], nil
		}
	}
	return nil, r.fail("a value without an end")
}

func (r *jsonReader) passString() error {
	for i := r.at + 1; i < len(r.data); i++ {
		switch r.data[i] {
		case '\\':
			i++
		case '"':
			r.at = i + 1
			return nil
		}
	}
	return r.fail("string without an end")
}

// passWord passes over a number, true, false, null, or what is none of these.
func (r *jsonReader) passWord() {
	for r.at++; r.at < len(r.data); r.at++ {
		switch r.data[r.at] {
		case ',', ':', '}', ']', '{', '[', '"', ' ', '\n', '\t', '\r':
			return
		}
	}
}
