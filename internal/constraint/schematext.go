package constraint

import (
	"fmt"
	"regexp/syntax"
	"slices"
	"unicode"
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
		return Repeat{Rule(ruleCharacter), least, most}, nil
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
	return w.matching(fitting), nil
}

func lengthRange(least, most int) string {
	if most < 0 {
		return fmt.Sprintf("%d or more characters", least)
	}
	return fmt.Sprintf("%d to %d characters", least, most)
}

// matching is the matches of re, which has no anchors, as they stand in a string.
func (w *schemaWriter) matching(re *syntax.Regexp) Expr {
	switch re.Op {
	case syntax.OpNoMatch:
		return never
	case syntax.OpLiteral:
		var s Sequence
		for _, c := range re.Rune {
			chars := Chars{{c, c}}
			if re.Flags&syntax.FoldCase != 0 {
				chars = folded(c)
			}
			s = append(s, encoded(chars))
		}
		return s
	case syntax.OpCharClass:
		return w.class(re)
	case syntax.OpAnyChar:
		return Rule(ruleCharacter)
	case syntax.OpCapture:
		return w.matching(re.Sub[0])
	case syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat:
		from, to := repeatBounds(re)
		if to >= unbounded {
			to = -1
		}
		return Repeat{w.matching(re.Sub[0]), from, to}
	case syntax.OpConcat:
		var s Sequence
		for _, sub := range re.Sub {
			s = append(s, w.matching(sub))
		}
		return s
	case syntax.OpAlternate:
		choice := Choice{}
		for _, sub := range re.Sub {
			choice = append(choice, w.matching(sub))
		}
		return choice
	case syntax.OpEmptyMatch:
		return Sequence{}
	}
	panic(fmt.Sprintf("constraint: %v in a pattern without anchors", re.Op))
}

// class is one character of a class. Large ones are rules, since repetitions would write them out again and again.
func (w *schemaWriter) class(re *syntax.Regexp) Expr {
	const maxInlined = 8
	var chars Chars
	for i := 0; i < len(re.Rune); i += 2 {
		chars = append(chars, CharRange{re.Rune[i], re.Rune[i+1]})
	}
	if len(chars) <= maxInlined {
		return encoded(chars)
	}
	return w.rule("class "+re.String(), nil, func(string) (Expr, error) { return encoded(chars), nil })
}

// folded is c in either case.
func folded(c rune) Chars {
	chars := Chars{{c, c}}
	for f := unicode.SimpleFold(c); f != c; f = unicode.SimpleFold(f) {
		chars = append(chars, CharRange{f, f})
	}
	slices.SortFunc(chars, func(a, b CharRange) int { return int(a.First - b.First) })
	return chars
}
