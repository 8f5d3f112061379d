package jinja

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxFormatWidth bounds the widths and precisions that a format asks for.
const maxFormatWidth = 1000

// percentFormat is t % arguments: the conversions d i s r f e g x o c and %%, with flags, width and precision.
func (r *renderer) percentFormat(t Text, v Value) (Value, error) {
	values := []Value{v}
	if l, ok := v.(*List); ok && l.tuple {
		values = l.Items
	}
	named, _ := v.(*Dict)
	b := r.newBuilder()
	used := 0
	for at := 0; at < len(t.S); {
		i := strings.IndexByte(t.S[at:], '%')
		if i < 0 {
			i = len(t.S) - at
		}
		if err := b.add(t.slice(at, at+i)); err != nil {
			return nil, err
		}
		if at += i; at == len(t.S) {
			break
		}
		c, err := readConversion(t.S[at:])
		if err != nil {
			return nil, err
		}
		at += c.length
		if c.verb == '%' {
			if err := b.trusted("%"); err != nil {
				return nil, err
			}
			continue
		}
		var one Value
		switch {
		case c.name != nil && named != nil:
			found, ok := named.Get(*c.name)
			if !ok {
				return nil, fmt.Errorf("no value for %s in the format's arguments", pythonQuote(*c.name))
			}
			one = found
		case c.name != nil:
			return nil, errors.New("format requires a mapping")
		case used == len(values):
			return nil, errors.New("not enough arguments for format string")
		default:
			one = values[used]
			used++
		}
		text, err := r.convert(c, one)
		if err == nil {
			err = b.add(text)
		}
		if err != nil {
			return nil, err
		}
	}
	if used < len(values) && named == nil {
		return nil, errors.New("not all arguments converted during string formatting")
	}
	return b.text(), nil
}

// conversion is a part of a format: %-5.2f, or what stands within the braces of {:<5.2f}.
type conversion struct {
	length    int     // bytes of the format
	name      *string // %(name)s
	fill      string
	align     byte // <, > or ^; 0 where it is not said
	sign      byte // + or blank: what a positive number starts with
	zero, alt bool
	grouped   bool // thousands have a comma between them
	width     int
	precision int // −1 for none
	verb      byte
}

// readConversion reads the conversion at the front of s.
func readConversion(s string) (c conversion, err error) {
	c = conversion{fill: " ", precision: -1}
	i := 1
	if strings.HasPrefix(s[i:], "(") {
		end := strings.IndexByte(s, ')')
		if end < 0 {
			return c, errors.New("incomplete format key")
		}
		name := s[2:end]
		c.name, i = &name, end+1
	}
	for ; i < len(s) && strings.IndexByte("-+ 0#", s[i]) >= 0; i++ {
		switch s[i] {
		case '-':
			c.align = '<'
		case '0':
			c.zero = true
		case '#':
			c.alt = true
		default:
			c.sign = s[i]
		}
	}
	if i, err = c.size(s, i); err != nil {
		return c, err
	}
	if i == len(s) {
		return c, errors.New("incomplete format")
	}
	c.verb, c.length = s[i], i+1
	return c, nil
}

// size reads a width and a precision, and returns the index behind them.
func (c *conversion) size(s string, i int) (int, error) {
	var err error
	number := func() int {
		start := i
		for i < len(s) && '0' <= s[i] && s[i] <= '9' {
			i++
		}
		if start == i {
			return 0
		}
		n, failed := strconv.Atoi(s[start:i])
		if failed != nil || n > maxFormatWidth {
			err = fmt.Errorf("a format asks for %s characters, want at most %d", s[start:i], maxFormatWidth)
		}
		return n
	}
	c.width = number()
	if i < len(s) && s[i] == ',' {
		c.grouped = true
		i++
	}
	if i < len(s) && s[i] == '.' {
		i++
		c.precision = number()
	}
	return i, err
}

// convert writes a value as a conversion says.
func (r *renderer) convert(c conversion, v Value) (Text, error) {
	if u, ok := v.(*undefined); ok && c.verb != 's' {
		return Text{}, u.fail()
	}
	var text Text
	var err error
	switch c.verb {
	case 's':
		text, err = r.str(v)
	case 'r':
		b := r.newBuilder()
		err = r.repr(b, v)
		text = b.text()
	default:
		var digits string
		digits, err = c.number(v)
		text = Trusted(digits)
		if c.align == 0 {
			c.align = '>'
		}
		if c.zero && c.align != '<' {
			filled, err := zeroFill(r, text, arguments{positional: []Value{Int(c.width)}})
			if err != nil {
				return Text{}, err
			}
			text = filled.(Text)
		}
	}
	if err != nil {
		return Text{}, err
	}
	if (c.verb == 's' || c.verb == 'r') && c.precision >= 0 && c.precision < utf8.RuneCountInString(text.S) {
		text = text.slice(0, runeOffset(text.S, c.precision))
	}
	if c.align == 0 {
		c.align = '>'
	}
	out, err := r.justify(text, c.align, c.width, Trusted(c.fill))
	if err != nil {
		return Text{}, err
	}
	return out.(Text), nil
}

// number writes a number.
func (c conversion) number(v Value) (string, error) {
	value, _, ok := number(v)
	if !ok {
		return "", fmt.Errorf("%%%c format: a real number is required, not %s", c.verb, v.typeName())
	}
	precision := c.precision
	if precision < 0 {
		precision = 6
	}
	var digits string
	switch c.verb {
	case 'd', 'i', 'u':
		n, exact := asIndex(v)
		if !exact {
			n = int(value)
		}
		digits = strconv.Itoa(n)
	case 'x', 'X', 'o', 'b', 'c':
		n, exact := asIndex(v)
		if !exact {
			return "", fmt.Errorf("%%%c format: an integer is required, not %s", c.verb, v.typeName())
		}
		digits = c.based(int64(n))
	case 'f', 'F', 'e', 'E':
		digits = strconv.FormatFloat(value, c.verb|0x20, precision, 64)
	case 'g', 'G':
		digits = strconv.FormatFloat(value, 'g', max(precision, 1), 64)
	case '%':
		digits = strconv.FormatFloat(value*100, 'f', precision, 64) + "%"
	default:
		return "", fmt.Errorf("unsupported format character '%c'", c.verb)
	}
	if c.grouped {
		digits = group(digits)
	}
	if c.sign != 0 && !strings.HasPrefix(digits, "-") {
		digits = string(c.sign) + digits
	}
	return digits, nil
}

// based writes an integer to the base of the verb, or the character of that code point.
func (c conversion) based(n int64) string {
	if c.verb == 'c' {
		return string(rune(n))
	}
	sign, digits := "", strconv.FormatInt(n, map[byte]int{'x': 16, 'X': 16, 'o': 8, 'b': 2}[c.verb])
	if n < 0 {
		sign, digits = "-", digits[1:]
	}
	if c.alt {
		digits = "0" + strings.ToLower(string(c.verb)) + digits
	}
	if c.verb == 'X' {
		digits = strings.ToUpper(digits)
	}
	return sign + digits
}

// group puts commas between the thousands.
func group(digits string) string {
	whole := strings.TrimPrefix(digits, "-")
	rest := ""
	if i := strings.IndexAny(whole, ".e%"); i >= 0 {
		whole, rest = whole[:i], whole[i:]
	}
	sign := digits[:len(digits)-len(whole)-len(rest)]
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	return sign + whole + rest
}
