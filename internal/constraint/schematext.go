package constraint

import (
	"fmt"
	"regexp/syntax"
	"strconv"
	"unicode/utf8"
)

// writeString writes a string, in quotes.
func (w *schemaWriter) writeString(nodes []*schemaNode) (Expr, error) {
	content, err := w.text(nodes)
	if err != nil {
		return nil, err
	}
	return Sequence{Text(`"`), content, Text(`"`)}, nil
}

// text is what stands between the quotes.
func (w *schemaWriter) text(nodes []*schemaNode) (Expr, error) {
	least, most := joinedCounts(nodes, textLengths)
	if most >= 0 && least > most {
		return never, nil
	}
	var pattern *textPattern
	for _, n := range nodes {
		for _, p := range n.patterns {
			if pattern != nil && p.source != pattern.source {
				return nil, &SchemaError{p.pointer, fmt.Sprintf("%q", shortened(p.source)), fmt.Sprintf(
					"cannot be held together with %q at %q: want one pattern or format for one string", shortened(pattern.source), pattern.pointer)}
			}
			pattern = p
		}
	}
	if pattern == nil {
		role := fmt.Sprintf("string of %s", lengthRange(least, most)) // many schemas set the same
		return w.rule(role, nil, func(string) (Expr, error) { return Repeat{Rule(ruleCharacter), least, most}, nil }), nil
	}
	fitting := longer(pattern.whole, least)
	if fitting != nil && most >= 0 {
		fitting = shorter(fitting, most)
	}
	if fitting != nil {
		if l, m := lengths(fitting); l < least || most >= 0 && m > most {
			fitting = nil
		}
	}
	if fitting == nil {
		return nil, &SchemaError{pattern.pointer, fmt.Sprintf("%q", shortened(pattern.source)), fmt.Sprintf(
			"no matches of %s found: write the length into the expression", lengthRange(least, most))}
	}
	return w.matching(pattern, fitting)
}

func lengthRange(least, most int) string {
	if most < 0 {
		return fmt.Sprintf("%d or more characters", least)
	}
	return fmt.Sprintf("%d to %d characters", least, most)
}

// matching is the matches of re, which has no anchors, as they stand in a string.
func (w *schemaWriter) matching(p *textPattern, re *syntax.Regexp) (Expr, error) {
	e, err := fromRegexp(re, false, false)
	if err != nil {
		return nil, &SchemaError{p.pointer, strconv.Quote(shortened(p.source)), err.Error()}
	}
	return w.inString(e), nil
}

// inString is a text as it stands in a string.
func (w *schemaWriter) inString(e Expr) Expr {
	switch e := e.(type) {
	case Text:
		s := quoted(string(e))
		return Text(s[1 : len(s)-1])
	case Chars:
		return w.charsInString(e)
	case Sequence:
		inside := make(Sequence, len(e))
		for i, part := range e {
			inside[i] = w.inString(part)
		}
		return inside
	case Choice:
		inside := make(Choice, len(e))
		for i, part := range e {
			inside[i] = w.inString(part)
		}
		return inside
	case Repeat:
		return Repeat{w.inString(e.Of), e.Min, e.Max}
	}
	panic(fmt.Sprintf("constraint: %T in the grammar of a regular expression", e))
}

// charsInString is one character of a class. Large ones are rules, since repetitions would write them out again and again.
func (w *schemaWriter) charsInString(chars Chars) Expr {
	const maxInPlace = 8
	size := rune(0)
	for _, r := range chars {
		size += r.Last - r.First + 1
	}
	switch {
	case size == utf8.MaxRune+1-(surrogateLast-surrogateFirst+1): // every character, by any of its spellings
		return Rule(ruleCharacter)
	case len(chars) <= maxInPlace:
		return encoded(chars)
	}
	return w.rule(fmt.Sprintf("character of %d ranges, %x", len(chars), chars), nil, func(string) (Expr, error) { return encoded(chars), nil })
}
