package jinja

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// str is Python's str(v), with the origin of texts kept.
func (r *renderer) str(v Value) (Text, error) {
	if t, ok := v.(Text); ok {
		return t, nil
	}
	b := r.newBuilder()
	err := r.printValue(b, v)
	return b.text(), err
}

// printValue appends str(v).
func (r *renderer) printValue(b *builder, v Value) error {
	if t, ok := v.(Text); ok {
		return b.add(t)
	}
	if isUndefined(v) {
		return nil
	}
	return r.repr(b, v)
}

// repr appends Python's repr(v).
func (r *renderer) repr(b *builder, v Value) error {
	if err := r.work(1); err != nil {
		return err
	}
	switch v := v.(type) {
	case None:
		return b.trusted("None")
	case Bool:
		if v {
			return b.trusted("True")
		}
		return b.trusted("False")
	case Int:
		return b.trusted(strconv.FormatInt(int64(v), 10))
	case Float:
		return b.trusted(pythonFloat(float64(v)))
	case Text:
		return r.quoted(b, v, quoteFor(v.S), pythonEscape)
	case *undefined:
		return b.trusted("Undefined")
	case *List:
		return r.reprList(b, v)
	case *Dict:
		return r.reprDict(b, v)
	case *namespace:
		return r.surround(b, "<Namespace ", ">", v.attributes)
	case *function:
		return b.trusted("<function '" + v.name + "'>")
	case *loop:
		return b.trusted(fmt.Sprintf("<LoopContext %d/%d>", v.index+1, len(v.items)))
	}
	panic(fmt.Sprintf("jinja: no repr of a %T", v))
}

func (r *renderer) surround(b *builder, before, after string, v Value) error {
	if err := b.trusted(before); err != nil {
		return err
	}
	if err := r.repr(b, v); err != nil {
		return err
	}
	return b.trusted(after)
}

func (r *renderer) reprList(b *builder, l *List) error {
	if err := r.deeper(); err != nil {
		return err
	}
	defer func() { r.depth-- }()
	opening, closing := "[", "]"
	if l.tuple {
		opening, closing = "(", ")"
		if len(l.Items) == 1 {
			closing = ",)"
		}
	}
	for i, one := range l.Items {
		if i > 0 {
			opening = ", "
		}
		if err := r.surround(b, opening, "", one); err != nil {
			return err
		}
	}
	if len(l.Items) == 0 {
		closing = opening + closing
	}
	return b.trusted(closing)
}

func (r *renderer) reprDict(b *builder, d *Dict) error {
	if err := r.deeper(); err != nil {
		return err
	}
	defer func() { r.depth-- }()
	opening := "{"
	for key, v := range d.All {
		if err := r.surround(b, opening, ": ", key); err != nil {
			return err
		}
		if err := r.repr(b, v); err != nil {
			return err
		}
		opening = ", "
	}
	if d.Len() == 0 {
		return b.trusted("{}")
	}
	return b.trusted("}")
}

// pythonFloat is Python's repr of a float: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
func pythonFloat(f float64) string {
	short := strconv.FormatFloat(f, 'e', -1, 64)
	mantissa, exponent, ok := strings.Cut(short, "e")
	if !ok { // NaN and the infinities
		return strings.TrimPrefix(strings.ToLower(short), "+")
	}
	n, err := strconv.Atoi(exponent)
	if err != nil {
		panic(fmt.Sprintf("jinja: float %v is written %q", f, short))
	}
	if n < -4 || n >= 16 {
		return mantissa + "e" + exponent
	}
	plain := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(plain, ".") {
		plain += ".0"
	}
	return plain
}

// quoteFor is the quote that Python takes for a text.
func quoteFor(s string) string {
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		return `"`
	}
	return "'"
}

// quoted appends a text between quotes, with the escapes of some language; escape returns "" for what stays as it is. An escape is of the
// origin of what it stands for.
func (r *renderer) quoted(b *builder, t Text, quote string, escape func(c rune, quote string) string) error {
	if err := b.trusted(quote); err != nil {
		return err
	}
	from := 0
	for i := 0; i < len(t.S); {
		c, n := utf8.DecodeRuneInString(t.S[i:])
		if escaped := escape(c, quote); escaped != "" {
			if err := b.add(t.slice(from, i)); err != nil {
				return err
			}
			if err := b.as(escaped, t.isContent(i)); err != nil {
				return err
			}
			from = i + n
		}
		i += n
	}
	if err := b.add(t.slice(from, len(t.S))); err != nil {
		return err
	}
	return b.trusted(quote)
}

func pythonEscape(c rune, quote string) string {
	switch {
	case c == '\n':
		return `\n`
	case c == '\r':
		return `\r`
	case c == '\t':
		return `\t`
	case c == '\\', string(c) == quote:
		return `\` + string(c)
	case unicode.IsPrint(c):
		return ""
	case c < 0x100:
		return fmt.Sprintf(`\x%02x`, c)
	case c < 0x10000:
		return fmt.Sprintf(`\u%04x`, c)
	}
	return fmt.Sprintf(`\U%08x`, c)
}

// pythonQuote is repr of a string for messages, cut where it is long.
func pythonQuote(s string) string {
	const most = 64
	if len(s) > most {
		cut := most
		for !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	var out strings.Builder
	quote := quoteFor(s)
	for _, c := range s {
		if escaped := pythonEscape(c, quote); escaped != "" {
			out.WriteString(escaped)
		} else {
			out.WriteRune(c)
		}
	}
	return quote + out.String() + quote
}
