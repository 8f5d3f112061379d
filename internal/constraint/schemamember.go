package constraint

import (
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

// otherMembers are the forms of an object's properties that are not named. Their names differ from known, those that are: a name that came
// twice would have the value that comes last.
func (w *schemaWriter) otherMembers(
	object string, nodes []*schemaNode, open openness, names []*schemaNode, known []string,
) ([]Expr, error) {
	if len(open.patterns) > 0 {
		return w.patternMembers(open.patterns, names, known)
	}
	if !open.others {
		return nil, nil
	}
	var at []*schemaNode
	for _, n := range nodes {
		if n.additional != nil && !slices.Contains(at, n.additional) {
			at = append(at, n.additional)
		}
	}
	var key Expr = Rule(ruleString)
	switch {
	case len(names) > 0:
		for _, name := range known {
			ok, err := possibleNames{nodes: names}.allow(w, name)
			if err != nil {
				return nil, err
			}
			if ok {
				return nil, &SchemaError{names[0].pointer, fmt.Sprintf("%.60q", name), "is a property by name, from which the names of others " +
					"that propertyNames allows cannot be kept apart: want additionalProperties false, or propertyNames that refuse it or list all names"}
			}
		}
		var err error
		if key, err = w.nameOf(names); err != nil {
			return nil, err
		}
	case len(known) > 0:
		const perByte = 8 // steps, since each byte may become a few expressions
		if err := w.work(nodes[0], perByte*len(strings.Join(known, ""))); err != nil {
			return nil, err
		}
		key = Sequence{Text(`"`), w.textOtherThan(object, slices.Sorted(slices.Values(known)), 0), Text(`"`)}
	}
	return []Expr{Sequence{key, colon, w.value(at)}}, nil
}

// nameOf is a name that all nodes accept.
func (w *schemaWriter) nameOf(nodes []*schemaNode) (Expr, error) {
	branches, err := w.branches(nodes)
	if err != nil {
		return nil, err
	}
	if err := w.checkTaken(branches); err != nil {
		return nil, err
	}
	forms := Choice{}
	for _, b := range branches {
		values, ok, err := w.enum(b)
		if err != nil {
			return nil, err
		}
		for _, v := range values {
			if v.Kind == strictjson.String {
				forms = append(forms, jsonLiteral(v))
			}
		}
		if !ok && b.types.has(strictjson.String) {
			forms = append(forms, w.typed(strictjson.String, b.of(strictjson.String)))
		}
	}
	return forms, nil
}

// patternMembers are properties whose names match a pattern. One name may match one pattern only, since it would have to satisfy both.
func (w *schemaWriter) patternMembers(patterns []patternProperty, names []*schemaNode, known []string) ([]Expr, error) {
	if len(names) > 0 {
		return nil, &SchemaError{names[0].pointer, "", "cannot be held beside patternProperties: write it into the patterns"}
	}
	var forms []Expr
	for i, p := range patterns {
		for _, name := range known {
			ok, err := w.matches(p.node, p.pattern, name)
			if err != nil {
				return nil, err
			}
			if ok {
				return nil, &SchemaError{p.pattern.pointer, fmt.Sprintf("%.60q", name),
					"is a property by name, from which others that match the pattern cannot be kept apart: want a pattern that does not match it"}
			}
		}
		for _, q := range patterns[:i] {
			if !prefixesApart(p.pattern.whole, q.pattern.whole) {
				return nil, &SchemaError{p.pattern.pointer, fmt.Sprintf("%q", shortened(p.pattern.source)), fmt.Sprintf(
					"may match a name that %q matches too: want patterns that begin with ^ and different texts", shortened(q.pattern.source))}
			}
		}
		name, err := w.matching(p.pattern, p.pattern.whole)
		if err != nil {
			return nil, err
		}
		forms = append(forms, Sequence{Text(`"`), name, Text(`"`), colon, w.value([]*schemaNode{p.node})})
	}
	return forms, nil
}

// prefixesApart is whether the matches of both begin with literal texts of which none is the beginning of the other.
func prefixesApart(re, other *syntax.Regexp) bool {
	a, b := literalPrefix(re), literalPrefix(other)
	return !strings.HasPrefix(a, b) && !strings.HasPrefix(b, a)
}

func literalPrefix(re *syntax.Regexp) string {
	for re.Op == syntax.OpConcat && len(re.Sub) > 0 {
		re = re.Sub[0]
	}
	if re.Op != syntax.OpLiteral || re.Flags&syntax.FoldCase != 0 {
		return ""
	}
	return string(re.Rune)
}

// textOtherThan is a text that is none of names, which are sorted, differ, and agree in their first bytes. Where it leaves them it does so by
// a character that is not escaped.
func (w *schemaWriter) textOtherThan(object string, names []string, agreed int) Expr {
	const levels = 16 // of expressions within each other, before the rest is a rule
	forms := Choice{Sequence{}}
	if len(names[0]) == agreed {
		forms, names = nil, names[1:]
	}
	taken := Chars{}
	for len(names) > 0 {
		c, size := utf8.DecodeRuneInString(names[0][agreed:])
		next := agreed + size
		same := slices.IndexFunc(names, func(n string) bool { return !strings.HasPrefix(n[agreed:], string(c)) })
		if same < 0 {
			same = len(names)
		}
		taken = append(taken, CharRange{c, c})
		rest := w.textOtherThan(object, names[:same], next)
		if next/levels != agreed/levels {
			name := fmt.Sprintf("%s, name beside %d", object, len(w.rules))
			w.rules[name] = rest
			rest = Rule(name)
		}
		forms = append(forms, Sequence{encoded(Chars{{c, c}}), rest})
		names = names[same:]
	}
	return append(forms, Sequence{plainOtherThan(taken), Repeat{Rule(ruleCharacter), 0, -1}})
}

// plainOtherThan are the characters that stand in a string as themselves, but for some.
func plainOtherThan(some Chars) Chars {
	var kept []CharRange
	for _, r := range others(some) {
		for _, p := range plainCharacters {
			if first, last := max(r.First, p.First), min(r.Last, p.Last); first <= last {
				kept = append(kept, CharRange{first, last})
			}
		}
	}
	return kept
}

// memberChain writes the members of an object: each state is how many of the named ones have been passed, and how many have been written.
type memberChain struct {
	*schemaWriter
	object
	written map[[2]int]bool
	counted int // counts beyond it are all alike
}

func (w *schemaWriter) writeMembers(o object) (Expr, error) {
	required := 0
	for _, m := range o.members {
		if m.required {
			required++
		}
	}
	if o.least <= required {
		o.least = 0
	}
	if o.most >= len(o.members) && len(o.others) == 0 {
		o.most = -1
	}
	c := memberChain{w, o, map[[2]int]bool{}, max(1, o.least, o.most+1)}
	start := c.rule(0, 0)
	// Depth first would be as deep as there are properties: states come in the order in which they are first named.
	states := [][2]int{{0, 0}}
	for len(states) > 0 {
		s := states[0]
		states = states[1:]
		if c.written[s] {
			continue
		}
		c.written[s] = true
		if len(c.written) > maxRules {
			return nil, &SchemaError{o.pointer, fmt.Sprintf("%d properties", len(o.members)),
				"so many cannot be counted against minProperties or maxProperties"}
		}
		var next [][2]int
		w.rules[string(c.rule(s[0], s[1]))], next = c.from(s[0], s[1])
		states = append(states, next...)
	}
	return Sequence{Text("{"), Rule(ruleSpace), start}, nil
}

func (c *memberChain) rule(passed, count int) Rule {
	return Rule(fmt.Sprintf("%s, after %d of its properties, %d written", c.name, passed, count))
}

// from is what follows in a state, with the closing bracket, and the states to which it leads.
func (c *memberChain) from(passed, count int) (Expr, [][2]int) {
	if passed == len(c.members) {
		return c.end(count), nil
	}
	m := c.members[passed]
	with := [2]int{passed + 1, min(count+1, c.counted)}
	var forms Choice
	next := [][2]int{}
	if c.most < 0 || count < c.most {
		s := Sequence{m.expr, c.rule(with[0], with[1])}
		if count > 0 {
			s = append(Sequence{Text(","), Rule(ruleSpace)}, s...)
		}
		forms = append(forms, s)
		next = append(next, with)
	}
	if !m.required {
		forms = append(forms, c.rule(passed+1, count))
		next = append(next, [2]int{passed + 1, count})
	}
	return forms, next
}

// end is the other properties, as many as may still come, and the closing bracket.
func (c *memberChain) end(count int) Expr {
	closing := Sequence{Rule(ruleSpace), Text("}")}
	if count == 0 {
		closing = Sequence{Text("}")}
	}
	missing := max(0, c.least-count)
	if c.most == count || len(c.others) == 0 {
		if missing > 0 {
			return never
		}
		return closing
	}
	if missing > 1 {
		return never // two others may have one name, and count once
	}
	other := Choice(c.others)
	more := Sequence{Text(","), Rule(ruleSpace), other}
	if count > 0 {
		return append(Sequence{Repeat{more, missing, left(c.most, count)}}, closing...)
	}
	some := Sequence{other, Repeat{more, 0, left(c.most, 1)}, Rule(ruleSpace), Text("}")}
	if missing > 0 {
		return some
	}
	return Choice{some, closing}
}
