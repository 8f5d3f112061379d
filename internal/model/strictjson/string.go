package strictjson

import (
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// String reads a string.
func (r *Reader) String() (string, error) {
	if err := r.want(String); err != nil {
		return "", err
	}
	start := r.pos + 1
	for i := start; i < len(r.data); i++ {
		switch c := r.data[i]; {
		case c == '"':
			r.pos = i + 1
			return string(r.data[start:i]), nil
		case c == '\\':
			return r.escaped(start, i)
		case c < ' ':
			r.pos = i
			return "", r.errorf("control character %#02x in a string", c)
		}
	}
	return "", r.errorf("string without end")
}

// escaped reads on from the first backslash, at i, of the string whose text begins at start.
func (r *Reader) escaped(start, i int) (string, error) {
	text := append(make([]byte, 0, 2*(i-start)+16), r.data[start:i]...)
	for i < len(r.data) {
		c := r.data[i]
		switch {
		case c == '"':
			r.pos = i + 1
			return string(text), nil
		case c < ' ':
			r.pos = i
			return "", r.errorf("control character %#02x in a string", c)
		case c != '\\':
			text = append(text, c)
			i++
		default:
			r.pos = i
			char, n, err := r.escape()
			if err != nil {
				return "", err
			}
			text = utf8.AppendRune(text, char)
			i += n
		}
	}
	return "", r.errorf("string without end")
}

// escape decodes the escape sequence at pos and says how long it is.
func (r *Reader) escape() (char rune, n int, err error) {
	if r.pos+1 >= len(r.data) {
		return 0, 0, r.errorf("string without end")
	}
	switch c := r.data[r.pos+1]; c {
	case '"', '\\', '/':
		return rune(c), 2, nil
	case 'b':
		return '\b', 2, nil
	case 'f':
		return '\f', 2, nil
	case 'n':
		return '\n', 2, nil
	case 'r':
		return '\r', 2, nil
	case 't':
		return '\t', 2, nil
	case 'u':
		return r.unicodeEscape()
	default:
		return 0, 0, r.errorf("unknown escape \\%c", c)
	}
}

func (r *Reader) unicodeEscape() (char rune, n int, err error) {
	high, ok := r.hex4(r.pos)
	if !ok {
		return 0, 0, r.errorf("malformed \\u escape")
	}
	if !utf16.IsSurrogate(high) {
		return high, 6, nil
	}
	low, ok := r.hex4(r.pos + 6)
	char = utf16.DecodeRune(high, low)
	if !ok || char == utf8.RuneError {
		return 0, 0, r.errorf("\\u%04x is half of a surrogate pair", high)
	}
	return char, 12, nil
}

// hex4 reads \uXXXX at offset at.
func (r *Reader) hex4(at int) (rune, bool) {
	if len(r.data)-at < 6 || r.data[at] != '\\' || r.data[at+1] != 'u' {
		return 0, false
	}
	v, err := strconv.ParseUint(string(r.data[at+2:at+6]), 16, 16)
	return rune(v), err == nil
}
