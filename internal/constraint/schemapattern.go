package constraint

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"sync"
	"unicode/utf16"
)

// parsePattern reads a regular expression as JSON Schema has it, a search: whatever it is not anchored to may stand around it. It is read
// as RE2, and where JavaScript, of which the standard speaks, differs in what . and \s are, as what both agree on.
func parsePattern(at, source string) (*textPattern, error) {
	if len(source) > maxPatternBytes {
		return nil, &SchemaError{at, strconv.Quote(shortened(source)), fmt.Sprintf("want at most %d bytes", maxPatternBytes)}
	}
	return compilePattern(at, source)
}

func compilePattern(at, source string) (*textPattern, error) {
	fault := func(err error) error { return &SchemaError{at, strconv.Quote(shortened(source)), err.Error()} }
	parsed, err := syntax.Parse(fromJavaScript(source), syntax.Perl)
	if err != nil {
		return nil, fault(fmt.Errorf("want a regular expression in RE2 syntax: %w", err))
	}
	whole, err := searched(parsed, free, free)
	if err != nil {
		return nil, fault(err)
	}
	size := patternSize(whole)
	if size > maxPatternSize {
		return nil, fault(fmt.Errorf("want at most %d characters and classes, counting repetitions", maxPatternSize))
	}
	compiled := sync.OnceValues(func() (*regexp.Regexp, error) { return regexp.Compile(`\A(?:` + whole.String() + `)\z`) })
	return &textPattern{at, source, whole, size, compiled}, nil
}

// Limits of one pattern, which is compiled.
const (
	maxPatternBytes = 4096
	maxPatternSize  = 20_000
)

// patternSize is how much of a machine re takes, its bounded repetitions written out.
func patternSize(re *syntax.Regexp) int {
	const rangesPerState = 8
	size := 1 + len(re.Rune)/rangesPerState
	if re.Op == syntax.OpLiteral {
		size = len(re.Rune)
	}
	for _, sub := range re.Sub {
		size = min(size+patternSize(sub), unbounded)
	}
	if re.Op == syntax.OpRepeat {
		size = product(size, max(re.Min, re.Max, 1))
	}
	return size
}

func shortened(s string) string {
	const maxRunes = 60
	if r := []rune(s); len(r) > maxRunes {
		return string(r[:maxRunes]) + "…"
	}
	return s
}

// JavaScript's \s is more than RE2's, so that what is no white space is less.
const (
	scriptSpace   = `\t-\r \x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}\x{FEFF}`
	scriptNoSpace = `\x00-\x08\x0E-\x1F!-\x{9F}\x{A1}-\x{167F}\x{1681}-\x{1FFF}\x{200B}-\x{2027}\x{202A}-\x{202E}\x{2030}-\x{205E}` +
		`\x{2060}-\x{2FFF}\x{3001}-\x{FEFE}\x{FF00}-\x{10FFFF}`
)

// fromJavaScript rewrites the escapes that RE2 does not have or reads otherwise.
func fromJavaScript(source string) string {
	var b strings.Builder
	class, negated := false, false
	for i := 0; i < len(source); i++ {
		switch c := source[i]; {
		case c == '\\' && i+1 < len(source):
			i++
			text, used := escapeFromJavaScript(source[i:], class, negated)
			b.WriteString(text)
			i += used - 1
			continue
		case c == '[' && !class:
			class, negated = true, strings.HasPrefix(source[i+1:], "^")
		case c == ']':
			class = false
		}
		b.WriteByte(source[i])
	}
	return b.String()
}

// escapeFromJavaScript rewrites the escape that follows a backslash, and says how much of s it is.
func escapeFromJavaScript(s string, class, negated bool) (text string, used int) {
	switch {
	case s[0] == 'u':
		if c, used, ok := codePoint(s); ok {
			return fmt.Sprintf(`\x{%X}`, c), used
		}
	case s[0] == 's' && class && negated:
		return scriptSpace, 1
	case s[0] == 'S' && !class:
		return "[" + scriptNoSpace + "]", 1
	case s[0] == 'S' && !negated:
		return scriptNoSpace, 1
	}
	return `\` + s[:1], 1
}

// codePoint reads uXXXX, uXXXX\uXXXX for a surrogate pair, and u{X…}.
func codePoint(s string) (c rune, used int, ok bool) {
	if inner, _, closed := strings.Cut(strings.TrimPrefix(s, "u{"), "}"); closed && strings.HasPrefix(s, "u{") {
		n, err := strconv.ParseUint(inner, 16, 21)
		return rune(n), len("u{}") + len(inner), err == nil
	}
	unit := func(s string) (rune, bool) {
		if len(s) < 5 || s[0] != 'u' {
			return 0, false
		}
		n, err := strconv.ParseUint(s[1:5], 16, 16)
		return rune(n), err == nil
	}
	if c, ok = unit(s); !ok {
		return 0, 0, false
	}
	if utf16.IsSurrogate(c) && len(s) > 6 && s[5] == '\\' {
		if low, ok := unit(s[6:]); ok {
			return utf16.DecodeRune(c, low), 11, true
		}
	}
	return c, 5, true
}

// edge is what lies between an end of the text and an end of a part of the expression.
type edge byte

const (
	free    edge = iota // any text
	bound               // nothing
	insides             // other parts
)

// searched is the expression of whole texts in which re is found, without anchors.
func searched(re *syntax.Regexp, left, right edge) (*syntax.Regexp, error) {
	switch re.Op {
	case syntax.OpCapture:
		return searched(re.Sub[0], left, right)
	case syntax.OpAlternate:
		alternate := &syntax.Regexp{Op: syntax.OpAlternate}
		for _, sub := range re.Sub {
			form, err := searched(sub, left, right)
			if err != nil {
				return nil, err
			}
			alternate.Sub = append(alternate.Sub, form)
		}
		return alternate, nil
	case syntax.OpConcat:
		return searchedParts(re.Sub, left, right)
	case syntax.OpBeginText, syntax.OpEndText:
		return searchedParts([]*syntax.Regexp{re}, left, right)
	}
	if err := withoutAnchors(re); err != nil {
		return nil, err
	}
	return between(withoutLineEnds(re), left, right), nil
}

// searchedParts is searched for parts one after the other.
func searchedParts(parts []*syntax.Regexp, left, right edge) (*syntax.Regexp, error) {
	for len(parts) > 0 && parts[0].Op == syntax.OpBeginText && left != insides {
		left, parts = bound, parts[1:]
	}
	for len(parts) > 0 && parts[len(parts)-1].Op == syntax.OpEndText && right != insides {
		right, parts = bound, parts[:len(parts)-1]
	}
	if len(parts) == 0 {
		return between(&syntax.Regexp{Op: syntax.OpEmptyMatch}, left, right), nil
	}
	concat := &syntax.Regexp{Op: syntax.OpConcat}
	for i, part := range parts {
		l, r := insides, insides
		if i == 0 {
			l = left
		}
		if i == len(parts)-1 {
			r = right
		}
		if len(parts) == 1 && (part.Op == syntax.OpBeginText || part.Op == syntax.OpEndText) {
			return nil, errInnerAnchor
		}
		form, err := searched(part, l, r)
		if err != nil {
			return nil, err
		}
		concat.Sub = append(concat.Sub, form)
	}
	return concat, nil
}

var errInnerAnchor = errors.New("^, $ and \\b are supported at the ends of the expression or of its alternatives alone")

func withoutAnchors(re *syntax.Regexp) error {
	switch re.Op {
	case syntax.OpBeginText, syntax.OpEndText, syntax.OpBeginLine, syntax.OpEndLine, syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return errInnerAnchor
	}
	for _, sub := range re.Sub {
		if err := withoutAnchors(sub); err != nil {
			return err
		}
	}
	return nil
}

// withoutLineEnds makes . what it is in JavaScript too.
func withoutLineEnds(re *syntax.Regexp) *syntax.Regexp {
	if re.Op == syntax.OpAnyCharNotNL {
		return &syntax.Regexp{Op: syntax.OpCharClass, Rune: []rune{0, '\n' - 1, '\n' + 1, '\r' - 1, '\r' + 1, 0x2027, 0x202A, 0x10FFFF}}
	}
	for i, sub := range re.Sub {
		re.Sub[i] = withoutLineEnds(sub)
	}
	return re
}

// between is re with any text where its edges are free.
func between(re *syntax.Regexp, left, right edge) *syntax.Regexp {
	if left != free && right != free {
		return re
	}
	anyText := func() *syntax.Regexp {
		return &syntax.Regexp{Op: syntax.OpStar, Sub: []*syntax.Regexp{{Op: syntax.OpAnyChar}}}
	}
	if re.Op == syntax.OpEmptyMatch {
		return anyText()
	}
	concat := &syntax.Regexp{Op: syntax.OpConcat}
	if left == free {
		concat.Sub = append(concat.Sub, anyText())
	}
	concat.Sub = append(concat.Sub, re)
	if right == free {
		concat.Sub = append(concat.Sub, anyText())
	}
	return concat
}
