package constraint

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"unicode"
	"unicode/utf8"
)

// MaxRegex is how long a regular expression may be, in bytes.
const MaxRegex = 1 << 16

// regexRule is the one rule of a regular expression.
const regexRule = "regex"

// FromRegex is the texts that a regular expression matches as a whole, in RE2's syntax as Go's regexp reads it. Whether a repeat is lazy makes no
// difference. ^, $, \A and \z may stand at the ends, where they change nothing; there and elsewhere, what looks at the text around it (\b, \B) is
// refused.
func FromRegex(pattern string) (*Grammar, error) {
	if len(pattern) > MaxRegex {
		return nil, fmt.Errorf("regular expression of %d bytes; the limit is %d", len(pattern), MaxRegex)
	}
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		var fault *syntax.Error
		if errors.As(err, &fault) {
			return nil, fmt.Errorf("regular expression: %s: %.100q", fault.Code, fault.Expr)
		}
		return nil, fmt.Errorf("regular expression: %w", err)
	}
	if sizeOfRegexp(re) > maxCompiled { // a few bytes may stand for hundreds of ranges
		return nil, fmt.Errorf("regular expression: more than %d characters and ranges of characters", maxCompiled)
	}
	e, err := fromRegexp(re, true, true)
	if err != nil {
		return nil, fmt.Errorf("regular expression: %w", err)
	}
	return &Grammar{Rules: map[string]Expr{regexRule: e}, Start: regexRule}, nil
}

// sizeOfRegexp counts characters and ranges, each once where a repeat stands for many.
func sizeOfRegexp(re *syntax.Regexp) int {
	n := len(re.Rune)
	if re.Op == syntax.OpCharClass {
		n /= 2
	}
	for _, sub := range re.Sub {
		n += sizeOfRegexp(sub)
	}
	return n
}

// fromRegexp converts an expression, which may stand at the start of the text or at its end.
func fromRegexp(re *syntax.Regexp, atStart, atEnd bool) (Expr, error) {
	switch re.Op {
	case syntax.OpNoMatch:
		return Chars{}, nil
	case syntax.OpEmptyMatch:
		return Sequence{}, nil
	case syntax.OpLiteral:
		return literal(re.Rune, re.Flags&syntax.FoldCase != 0)
	case syntax.OpCharClass:
		var ranges []CharRange
		for i := 0; i < len(re.Rune); i += 2 {
			ranges = append(ranges, CharRange{re.Rune[i], re.Rune[i+1]})
		}
		return scalars(ranges), nil
	case syntax.OpAnyCharNotNL:
		return others(Chars{{'\n', '\n'}}), nil
	case syntax.OpAnyChar:
		return others(nil), nil
	case syntax.OpBeginLine, syntax.OpBeginText:
		if !atStart {
			return nil, fmt.Errorf("%s may only stand at the start: the whole text has to match", re)
		}
		return Sequence{}, nil
	case syntax.OpEndLine, syntax.OpEndText:
		if !atEnd {
			return nil, fmt.Errorf("%s may only stand at the end: the whole text has to match", re)
		}
		return Sequence{}, nil
	case syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return nil, fmt.Errorf("%s is not supported: it looks at the text around it", re)
	case syntax.OpCapture:
		return fromRegexp(re.Sub[0], atStart, atEnd)
	case syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat:
		return repeated(re)
	case syntax.OpConcat:
		return concatenated(re.Sub, atStart, atEnd)
	case syntax.OpAlternate:
		var choice Choice
		for _, sub := range re.Sub {
			e, err := fromRegexp(sub, atStart, atEnd)
			if err != nil {
				return nil, err
			}
			choice = append(choice, e)
		}
		return choice, nil
	}
	return nil, fmt.Errorf("%s is not supported", re)
}

// literal is a text, or its characters in either case.
func literal(runes []rune, fold bool) (Expr, error) {
	for _, r := range runes {
		if !utf8.ValidRune(r) {
			return nil, fmt.Errorf("U+%04X is no character", r)
		}
	}
	if !fold {
		return Text(runes), nil
	}
	var sequence Sequence
	for _, r := range runes {
		ranges := []CharRange{{r, r}}
		for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
			ranges = append(ranges, CharRange{other, other})
		}
		sequence = append(sequence, scalars(ranges))
	}
	return sequence, nil
}

func repeated(re *syntax.Regexp) (Expr, error) {
	r := Repeat{Min: re.Min, Max: re.Max}
	switch re.Op {
	case syntax.OpStar:
		r.Min, r.Max = 0, -1
	case syntax.OpPlus:
		r.Min, r.Max = 1, -1
	case syntax.OpQuest:
		r.Min, r.Max = 0, 1
	}
	var err error
	r.Of, err = fromRegexp(re.Sub[0], false, false)
	return r, err
}

func concatenated(subs []*syntax.Regexp, atStart, atEnd bool) (Expr, error) {
	// What matches nothing but the empty text leaves its neighbour at the end where it stands.
	last := len(subs) - 1
	for last > 0 && isEmptyMatch(subs[last]) {
		last--
	}
	var sequence Sequence
	for i, sub := range subs {
		e, err := fromRegexp(sub, atStart, atEnd && i >= last)
		if err != nil {
			return nil, err
		}
		atStart = atStart && isEmptyMatch(sub)
		sequence = append(sequence, e)
	}
	return sequence, nil
}

// isEmptyMatch says whether re matches the empty text alone.
func isEmptyMatch(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpEmptyMatch, syntax.OpBeginLine, syntax.OpBeginText, syntax.OpEndLine, syntax.OpEndText:
		return true
	case syntax.OpCapture:
		return isEmptyMatch(re.Sub[0])
	}
	return false
}
