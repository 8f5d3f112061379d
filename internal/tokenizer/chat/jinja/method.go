package jinja

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// textMethod is a method of Python's str.
type textMethod func(r *renderer, t Text, a arguments) (Value, error)

// unsafeMethods change their object, which is not for templates.
var unsafeMethods = map[string][]string{
	"list": {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"},
	"dict": {"clear", "pop", "popitem", "setdefault", "update"},
}

// methodOf is the method of a value's type, nil where there is none of the name.
func methodOf(v Value, name string) Value {
	if slices.Contains(unsafeMethods[v.typeName()], name) {
		return &undefined{says: fmt.Sprintf("access to attribute '%s' of '%s' object is unsafe.", name, v.typeName())}
	}
	switch o := v.(type) {
	case Text:
		if m := textMethods[name]; m != nil {
			return &function{name: name, call: func(r *renderer, a arguments) (Value, error) {
				if err := r.touch(len(o.S)); err != nil {
					return nil, err
				}
				return m(r, o, a)
			}}
		}
	case *Dict:
		if m := dictMethods[name]; m != nil {
			return &function{name: name, call: func(r *renderer, a arguments) (Value, error) { return m(r, o, a) }}
		}
	case *List:
		if m := listMethods[name]; m != nil {
			return &function{name: name, call: func(r *renderer, a arguments) (Value, error) { return m(r, o, a) }}
		}
	}
	return nil
}

// cmpError is err, or where that is nil an error of its own.
func cmpError(err error, otherwise string) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("%s", otherwise)
}

var textMethods = map[string]textMethod{
	"strip":        stripper("strip", true, true),
	"lstrip":       stripper("lstrip", true, false),
	"rstrip":       stripper("rstrip", false, true),
	"upper":        func(r *renderer, t Text, _ arguments) (Value, error) { return r.mapRunes(t, upperRune) },
	"lower":        func(r *renderer, t Text, _ arguments) (Value, error) { return r.mapRunes(t, lowerRune) },
	"casefold":     func(r *renderer, t Text, _ arguments) (Value, error) { return r.mapRunes(t, foldRune) },
	"capitalize":   func(r *renderer, t Text, _ arguments) (Value, error) { return r.capitalize(t) },
	"title":        func(r *renderer, t Text, _ arguments) (Value, error) { return r.title(t, unicode.IsLetter) },
	"swapcase":     func(r *renderer, t Text, _ arguments) (Value, error) { return r.mapRunes(t, swapRune) },
	"startswith":   affix("startswith", strings.HasPrefix),
	"endswith":     affix("endswith", strings.HasSuffix),
	"removeprefix": remover("removeprefix", func(s, part string) (int, int) { return len(s) - len(strings.TrimPrefix(s, part)), len(s) }),
	"removesuffix": remover("removesuffix", func(s, part string) (int, int) { return 0, len(strings.TrimSuffix(s, part)) }),
	"find":         finder("find", strings.Index, false),
	"rfind":        finder("rfind", strings.LastIndex, false),
	"index":        finder("index", strings.Index, true),
	"rindex":       finder("rindex", strings.LastIndex, true),
	"count":        countText,
	"replace":      replaceText,
	"split":        splitText,
	"rsplit":       rsplitText,
	"splitlines":   splitLines,
	"partition":    partitioner("partition", strings.Index),
	"rpartition":   partitioner("rpartition", strings.LastIndex),
	"join":         joinText,
	"format":       formatText,
	"center":       justifier("center"),
	"ljust":        justifier("ljust"),
	"rjust":        justifier("rjust"),
	"zfill":        zeroFill,
	"isalpha":      every(unicode.IsLetter),
	"isdigit":      every(unicode.IsDigit),
	"isdecimal":    every(unicode.IsDigit),
	"isnumeric":    every(unicode.IsNumber),
	"isalnum":      every(func(c rune) bool { return unicode.IsLetter(c) || unicode.IsNumber(c) }),
	"isspace":      every(isSpace),
	"isascii":      func(_ *renderer, t Text, _ arguments) (Value, error) { return Bool(isASCII(t.S)), nil },
	"isupper":      cased(unicode.IsUpper, unicode.IsLower),
	"islower":      cased(unicode.IsLower, unicode.IsUpper),
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(c rune) bool { return c >= utf8.RuneSelf }) < 0
}

func upperRune(_ int, c rune) string {
	if c == 'ß' {
		return "SS"
	}
	return string(unicode.ToUpper(c))
}

func lowerRune(_ int, c rune) string {
	if c == 'İ' {
		return "i̇"
	}
	return string(unicode.ToLower(c))
}

func foldRune(at int, c rune) string {
	if c == 'ß' {
		return "ss"
	}
	return lowerRune(at, c)
}

func swapRune(at int, c rune) string {
	if unicode.IsUpper(c) {
		return lowerRune(at, c)
	}
	return upperRune(at, c)
}

func (r *renderer) capitalize(t Text) (Text, error) {
	return r.mapRunes(t, func(at int, c rune) string {
		if at == 0 {
			return string(unicode.ToTitle(c))
		}
		return lowerRune(at, c)
	})
}

// title makes the first letter of each word large, the others small. inWord tells what belongs to a word.
func (r *renderer) title(t Text, inWord func(rune) bool) (Text, error) {
	within := false
	return r.mapRunes(t, func(at int, c rune) string {
		first := !within
		within = inWord(c)
		if first {
			return string(unicode.ToTitle(c))
		}
		return lowerRune(at, c)
	})
}

// every makes a test of all characters; an empty text fails it.
func every(is func(rune) bool) textMethod {
	return func(_ *renderer, t Text, _ arguments) (Value, error) {
		return Bool(t.S != "" && strings.IndexFunc(t.S, func(c rune) bool { return !is(c) }) < 0), nil
	}
}

// cased makes a test of the letters that have two forms.
func cased(want, other func(rune) bool) textMethod {
	return func(_ *renderer, t Text, _ arguments) (Value, error) {
		return Bool(strings.IndexFunc(t.S, want) >= 0 && strings.IndexFunc(t.S, other) < 0), nil
	}
}

// textArgument is an argument that has to be a text.
func textArgument(function string, v Value) (Text, error) {
	switch v := v.(type) {
	case Text:
		return v, nil
	case nil:
		return Text{}, fmt.Errorf("%s() misses an argument", function)
	case *undefined:
		return Text{}, v.fail()
	default:
		return Text{}, fmt.Errorf("%s() argument must be str, not %s", function, v.typeName())
	}
}

// intArgument is an argument that has to be an integer, with a value for when it is left out.
func intArgument(function string, v Value, otherwise int) (int, error) {
	if v == nil {
		return otherwise, nil
	}
	n, ok := asIndex(v)
	if !ok {
		return 0, fmt.Errorf("%s() argument must be an integer, not %s", function, v.typeName())
	}
	return n, nil
}

func stripper(name string, left, right bool) textMethod {
	return func(r *renderer, t Text, a arguments) (Value, error) {
		bound, err := a.bind(name, "chars")
		if err != nil {
			return nil, err
		}
		return r.strip(t, name, bound[0], left, right)
	}
}

// strip takes characters off the ends: those of a text, or where that is not given white space.
func (r *renderer) strip(t Text, name string, chars Value, left, right bool) (Value, error) {
	if err := r.touch(len(t.S)); err != nil {
		return nil, err
	}
	takes := isSpace
	switch chars.(type) {
	case nil, None:
	default:
		set, err := textArgument(name, chars)
		if err != nil {
			return nil, err
		}
		if err := r.touch(len(set.S) * len(t.S)); err != nil {
			return nil, err
		}
		takes = func(c rune) bool { return strings.ContainsRune(set.S, c) }
	}
	start, end := 0, len(t.S)
	if left {
		start = end - len(strings.TrimLeftFunc(t.S, takes))
	}
	if right {
		end = start + len(strings.TrimRightFunc(t.S[start:], takes))
	}
	return t.slice(start, end), nil
}

func affix(name string, has func(s, part string) bool) textMethod {
	return func(_ *renderer, t Text, a arguments) (Value, error) {
		bound, err := a.bind(name, "prefix")
		if err != nil {
			return nil, err
		}
		if several, ok := bound[0].(*List); ok && several.tuple {
			for _, one := range several.Items {
				part, err := textArgument(name, one)
				if err != nil || has(t.S, part.S) {
					return Bool(true), err
				}
			}
			return Bool(false), nil
		}
		part, err := textArgument(name, bound[0])
		return Bool(has(t.S, part.S)), err
	}
}

func remover(name string, keep func(s, part string) (start, end int)) textMethod {
	return func(_ *renderer, t Text, a arguments) (Value, error) {
		bound, err := a.bind(name, "part")
		if err != nil {
			return nil, err
		}
		part, err := textArgument(name, bound[0])
		if err != nil {
			return nil, err
		}
		return t.slice(keep(t.S, part.S)), nil
	}
}

// finder returns the index of a part in characters, −1 where it is not there, or fails then.
func finder(name string, index func(s, part string) int, fails bool) textMethod {
	return func(_ *renderer, t Text, a arguments) (Value, error) {
		bound, err := a.bind(name, "sub", "start")
		if err != nil {
			return nil, err
		}
		part, err := textArgument(name, bound[0])
		if err != nil {
			return nil, err
		}
		from, err := intArgument(name, bound[1], 0)
		if err != nil {
			return nil, err
		}
		if from < 0 {
			from = max(from+utf8.RuneCountInString(t.S), 0)
		}
		start := runeOffset(t.S, from)
		if i := index(t.S[start:], part.S); i >= 0 {
			return Int(utf8.RuneCountInString(t.S[:start+i])), nil
		}
		if fails {
			return nil, fmt.Errorf("substring not found")
		}
		return Int(-1), nil
	}
}

func countText(_ *renderer, t Text, a arguments) (Value, error) {
	bound, err := a.bind("count", "sub")
	if err != nil {
		return nil, err
	}
	part, err := textArgument("count", bound[0])
	return Int(strings.Count(t.S, part.S)), err
}
