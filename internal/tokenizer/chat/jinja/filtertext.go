package jinja

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

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

var htmlEscapes = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&#39;", `"`, "&#34;")

func escapeHTML(r *renderer, t Text) (Value, error) {
	return r.mapRunes(t, func(_ int, c rune) string { return htmlEscapes.Replace(string(c)) })
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
	if err := r.touch(len(t.S)); err != nil {
		return nil, err
	}
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

func wordCount(r *renderer, t Text) (Value, error) {
	n, within := 0, false
	for _, c := range t.S {
		isWord := c == '_' || unicode.IsLetter(c) || unicode.IsNumber(c)
		if isWord && !within {
			n++
		}
		within = isWord
	}
	return Int(n), r.touch(len(t.S))
}
