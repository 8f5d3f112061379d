package jinja

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// filter makes a value of a value and arguments.
type filter func(r *renderer, v Value, a arguments) (Value, error)

// filterNamed returns nil where there is none of the name.
func filterNamed(name string) filter {
	switch name { // those that apply filters
	case "map":
		return mapItems
	case "select", "selectattr":
		return selector(true, name == "selectattr")
	case "reject", "rejectattr":
		return selector(false, name == "rejectattr")
	}
	return filters[name]
}

var filters = map[string]filter{
	"abs":        absolute,
	"attr":       func(r *renderer, v Value, a arguments) (Value, error) { return attributeFilter(v, a) },
	"batch":      batch,
	"capitalize": onText(func(r *renderer, t Text) (Value, error) { return r.capitalize(t) }),
	"center":     centerFilter,
	"count":      length,
	"d":          defaultFilter,
	"default":    defaultFilter,
	"dictsort":   dictSort,
	"e":          onText(escapeHTML),
	"escape":     onText(escapeHTML),
	"first":      func(r *renderer, v Value, _ arguments) (Value, error) { return r.end(v, false) },
	"float":      floatFilter,
	"format": func(r *renderer, v Value, a arguments) (Value, error) {
		t, err := r.str(v)
		if err != nil {
			return nil, err
		}
		if a.keywords != nil {
			return r.percentFormat(t, a.keywords)
		}
		return r.percentFormat(t, &List{Items: a.positional, tuple: true})
	},
	"groupby": groupBy,
	"indent":  indentFilter,
	"int":     intFilter,
	"items":   itemsFilter,
	"join":    joinFilter,
	"last":    func(r *renderer, v Value, _ arguments) (Value, error) { return r.end(v, true) },
	"length":  length,
	"list":    func(r *renderer, v Value, _ arguments) (Value, error) { return r.list(v) },
	"lower":   onText(func(r *renderer, t Text) (Value, error) { return r.mapRunes(t, lowerRune) }),
	"max":     extreme("max", 1),
	"min":     extreme("min", -1),
	"replace": replaceFilter,
	"reverse": reverse,
	"round":   round,
	"safe":    func(r *renderer, v Value, _ arguments) (Value, error) { return r.str(v) },
	"slice":   sliceFilter,
	"sort":    sortFilter,
	"string":  func(r *renderer, v Value, _ arguments) (Value, error) { return r.str(v) },
	"sum":     sum,
	"title": onText(func(r *renderer, t Text) (Value, error) {
		return r.title(t, func(c rune) bool { return !startsWord(c) })
	}),
	"tojson":    toJSON,
	"trim":      trim,
	"truncate":  truncate,
	"unique":    unique,
	"upper":     onText(func(r *renderer, t Text) (Value, error) { return r.mapRunes(t, upperRune) }),
	"urlencode": onText(urlEncode),
	"wordcount": onText(func(r *renderer, t Text) (Value, error) {
		isWord := func(c rune) bool { return c == '_' || unicode.IsLetter(c) || unicode.IsNumber(c) }
		return Int(len(strings.FieldsFunc(t.S, func(c rune) bool { return !isWord(c) }))), nil
	}),
}

// onText makes a filter without arguments of what it does to the text of a value.
func onText(f func(r *renderer, t Text) (Value, error)) filter {
	return func(r *renderer, v Value, a arguments) (Value, error) {
		if len(a.positional) > 0 || a.keywords != nil {
			return nil, errors.New("the filter takes no arguments")
		}
		t, err := r.str(v)
		if err != nil {
			return nil, err
		}
		return f(r, t)
	}
}

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

func attributeFilter(v Value, a arguments) (Value, error) {
	bound, err := a.bind("attr", "name")
	if err != nil {
		return nil, err
	}
	name, err := textArgument("attr", bound[0])
	if err != nil {
		return nil, err
	}
	if m := methodOf(v, name.S); m != nil {
		return m, nil
	}
	if _, isDict := v.(*Dict); !isDict {
		if found, ok := ownAttribute(v, name.S); ok {
			return found, nil
		}
	}
	return missing(v, name), nil
}

func centerFilter(r *renderer, v Value, a arguments) (Value, error) {
	bound, err := a.bind("center", "width")
	if err != nil {
		return nil, err
	}
	width, err := intArgument("center", bound[0], 80)
	if err != nil {
		return nil, err
	}
	t, err := r.str(v)
	if err != nil {
		return nil, err
	}
	return r.justify(t, '^', width, Trusted(" "))
}

func defaultFilter(_ *renderer, v Value, a arguments) (Value, error) {
	bound, err := a.bind("default", "default_value", "boolean")
	if err != nil {
		return nil, err
	}
	otherwise := bound[0]
	if otherwise == nil {
		otherwise = Text{}
	}
	if isUndefined(v) {
		return otherwise, nil
	}
	falseToo, err := optionalTruth(bound[1])
	if err != nil || !falseToo {
		return v, err
	}
	yes, err := truth(v)
	if err != nil || yes {
		return v, err
	}
	return otherwise, nil
}

var htmlEscapes = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&#39;", `"`, "&#34;")

func escapeHTML(r *renderer, t Text) (Value, error) {
	return r.mapRunes(t, func(_ int, c rune) string { return htmlEscapes.Replace(string(c)) })
}

func floatFilter(_ *renderer, v Value, a arguments) (Value, error) {
	bound, err := a.bind("float", "default")
	if err != nil {
		return nil, err
	}
	if n, _, ok := number(v); ok {
		return Float(n), nil
	}
	if t, ok := v.(Text); ok {
		if f, err := strconv.ParseFloat(strings.TrimFunc(t.S, isSpace), 64); err == nil {
			return Float(f), nil
		}
	}
	if bound[0] != nil {
		return bound[0], nil
	}
	return Float(0), nil
}

func intFilter(_ *renderer, v Value, a arguments) (Value, error) {
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
		return parseInt(n.S, base, otherwise), nil
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

// indentFilter puts blanks, or another text, in front of the lines but the first one and the blank ones.
func indentFilter(r *renderer, v Value, a arguments) (Value, error) {
	bound, err := a.bind("indent", "width", "first", "blank")
	if err != nil {
		return nil, err
	}
	t, err := r.str(v)
	if err != nil {
		return nil, err
	}
	by, ok := bound[0].(Text)
	if !ok {
		width, err := intArgument("indent", bound[0], 4)
		if err != nil {
			return nil, err
		}
		blanks, err := r.repeatText(Trusted(" "), width)
		if err != nil {
			return nil, err
		}
		by = blanks.(Text)
	}
	first, err := optionalTruth(bound[1])
	if err != nil {
		return nil, err
	}
	blank, err := optionalTruth(bound[2])
	if err != nil {
		return nil, err
	}
	if t, err = r.concat(t, Trusted("\n")); err != nil { // as Jinja does: a line end at the end starts no line then
		return nil, err
	}
	lines, err := r.lines(t, false)
	if err != nil {
		return nil, err
	}
	b := r.newBuilder()
	for i, line := range lines {
		line := line.(Text)
		if i > 0 {
			if err := b.trusted("\n"); err != nil {
				return nil, err
			}
		}
		if (i > 0 || first) && (line.S != "" || blank && i > 0 || first && i == 0) {
			if err := b.add(by); err != nil {
				return nil, err
			}
		}
		if err := b.add(line); err != nil {
			return nil, err
		}
	}
	return b.text(), nil
}

func replaceFilter(r *renderer, v Value, a arguments) (Value, error) {
	t, err := r.str(v)
	if err != nil {
		return nil, err
	}
	return replaceText(r, t, a)
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

func trim(r *renderer, v Value, a arguments) (Value, error) {
	bound, err := a.bind("trim", "chars")
	if err != nil {
		return nil, err
	}
	t, err := r.str(v)
	if err != nil {
		return nil, err
	}
	return r.strip(t, "trim", bound[0], true, true)
}

// truncate cuts a text to a length, at a word's end unless killwords is true, and puts an ellipsis behind it.
func truncate(r *renderer, v Value, a arguments) (Value, error) {
	bound, err := a.bind("truncate", "length", "killwords", "end", "leeway")
	if err != nil {
		return nil, err
	}
	t, err := r.str(v)
	if err != nil {
		return nil, err
	}
	most, err := intArgument("truncate", bound[0], 255)
	if err != nil {
		return nil, err
	}
	kill, err := optionalTruth(bound[1])
	if err != nil {
		return nil, err
	}
	end := Trusted("...")
	if bound[2] != nil {
		if end, err = textArgument("truncate", bound[2]); err != nil {
			return nil, err
		}
	}
	leeway, err := intArgument("truncate", bound[3], 5)
	if err != nil {
		return nil, err
	}
	width := utf8.RuneCountInString(end.S)
	switch {
	case most < width:
		return nil, fmt.Errorf("expected length >= %d, got %d", width, most)
	case utf8.RuneCountInString(t.S) <= most+leeway:
		return t, nil
	}
	cut := t.slice(0, runeOffset(t.S, most-width))
	if i := strings.LastIndexByte(cut.S, ' '); i >= 0 && !kill {
		cut = cut.slice(0, i)
	}
	return r.concat(cut, end)
}

// urlEncode escapes all bytes but those that a path may have.
func urlEncode(r *renderer, t Text) (Value, error) {
	return r.mapRunes(t, func(_ int, c rune) string {
		if c < utf8.RuneSelf && (unicode.IsLetter(c) || unicode.IsDigit(c) || strings.ContainsRune("_.-~/", c)) {
			return string(c)
		}
		var out strings.Builder
		for _, b := range []byte(string(c)) {
			fmt.Fprintf(&out, "%%%02X", b)
		}
		return out.String()
	})
}
