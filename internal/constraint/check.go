package constraint

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Limits of a grammar, all far above what people write by hand, and below what would keep a core busy for long.
const (
	maxRules   = 10_000  // rules
	maxParts   = 1 << 18 // expressions in all of them
	maxNesting = 1_000   // expressions in each other
	maxText    = 1 << 20 // bytes of all Texts together
	maxRounds  = 1 << 25 // expressions looked at to learn which rules can be empty, and which can end
)

// checked is what is known of a grammar's rules before they are compiled.
type checked struct {
	grammar  *Grammar
	order    []string        // the rules that the start needs, callees first as far as there is no circle
	empty    map[string]bool // it has the empty text
	ends     map[string]bool // it has any text at all
	parts    int             // expressions so far
	text     int             // bytes of Texts so far
	lookedAt int             // of maxRounds
}

// check refuses what is no grammar, or has a rule that begins with itself.
func check(g *Grammar) (*checked, error) {
	if g == nil {
		return nil, errors.New("no grammar")
	}
	if len(g.Rules) > maxRules {
		return nil, fmt.Errorf("%d rules; the limit is %d", len(g.Rules), maxRules)
	}
	c := &checked{grammar: g, empty: map[string]bool{}, ends: map[string]bool{}}
	if err := c.visit(g.Start, map[string]bool{}); err != nil {
		return nil, err
	}
	if err := c.settle(c.empty, canBeEmpty); err != nil {
		return nil, err
	}
	if err := c.settle(c.ends, canEnd); err != nil {
		return nil, err
	}
	if !c.ends[g.Start] {
		return nil, fmt.Errorf("rule %s: it has no text: whatever it begins with never ends", g.Start)
	}
	return c, c.refuseLeftRecursion()
}

// visit puts a rule into the order, behind those that it calls.
func (c *checked) visit(name string, seen map[string]bool) error {
	seen[name] = true
	e, ok := c.grammar.Rules[name]
	if !ok {
		return fmt.Errorf("rule %s is not defined", name)
	}
	calls, err := c.calls(nil, e, 0)
	if err != nil {
		return fmt.Errorf("rule %s: %w", name, err)
	}
	for _, callee := range calls {
		if seen[callee] {
			continue
		}
		if _, ok := c.grammar.Rules[callee]; !ok {
			return fmt.Errorf("rule %s: it uses rule %s, which is not defined", name, callee)
		}
		if err := c.visit(callee, seen); err != nil {
			return err
		}
	}
	c.order = append(c.order, name)
	return nil
}

// calls appends the rules that e names, and checks e by the way.
func (c *checked) calls(dst []string, e Expr, depth int) ([]string, error) {
	if c.parts++; c.parts > maxParts {
		return nil, fmt.Errorf("the grammar has more than %d expressions", maxParts)
	}
	if depth > maxNesting {
		return nil, fmt.Errorf("expressions are nested deeper than %d", maxNesting)
	}
	var within []Expr
	switch e := e.(type) {
	case Text:
		if c.text += len(e); c.text > maxText {
			return nil, fmt.Errorf("the grammar has more than %d bytes of text", maxText)
		}
		if !utf8.ValidString(string(e)) {
			return nil, fmt.Errorf("text %.40q is not UTF-8", string(e))
		}
	case Chars:
		for _, r := range e {
			if r.First < 0 || r.First > r.Last || r.Last > utf8.MaxRune {
				return nil, fmt.Errorf("U+%04X to U+%04X is no range of characters", r.First, r.Last)
			}
		}
	case Rule:
		return append(dst, string(e)), nil
	case Repeat:
		if e.Min < 0 || e.Max >= 0 && e.Max < e.Min {
			return nil, fmt.Errorf("a repeat of at least %d and at most %d", e.Min, e.Max)
		}
		within = []Expr{e.Of}
	case Sequence:
		within = e
	case Choice:
		within = e
	default:
		return nil, fmt.Errorf("an expression is %T", e)
	}
	var err error
	for _, part := range within {
		if dst, err = c.calls(dst, part, depth+1); err != nil {
			return nil, err
		}
	}
	return dst, nil
}

// settle finds the rules that have a property, which a rule has the sooner the more others have it.
func (c *checked) settle(known map[string]bool, has func(Expr, func(Expr) bool) bool) error {
	var holds func(Expr) bool
	holds = func(e Expr) bool {
		c.lookedAt++
		if name, ok := e.(Rule); ok {
			return known[string(name)]
		}
		return has(e, holds)
	}
	for changed := true; changed; {
		changed = false
		for _, name := range c.order {
			if !known[name] && holds(c.grammar.Rules[name]) {
				known[name], changed = true, true
			}
			if c.lookedAt > maxRounds {
				return fmt.Errorf("rule %s: its rules use each other in too many ways to follow", c.grammar.Start)
			}
		}
	}
	return nil
}

// canBeEmpty says whether e, no Rule, has the empty text, by whether its parts do.
func canBeEmpty(e Expr, part func(Expr) bool) bool {
	switch e := e.(type) {
	case Text:
		return e == ""
	case Sequence:
		return !slices.ContainsFunc(e, func(e Expr) bool { return !part(e) })
	case Choice:
		return slices.ContainsFunc(e, part)
	case Repeat:
		return e.Min == 0 || part(e.Of)
	}
	return false
}

// canEnd says whether e, no Rule, has any text, by whether its parts do.
func canEnd(e Expr, part func(Expr) bool) bool {
	switch e := e.(type) {
	case Text:
		return true
	case Chars:
		return len(scalars(e)) > 0
	case Sequence:
		return !slices.ContainsFunc(e, func(e Expr) bool { return !part(e) })
	case Choice:
		return slices.ContainsFunc(e, part)
	case Repeat:
		return e.Min == 0 || part(e.Of)
	}
	return false
}

// refuseLeftRecursion finds a rule that may call itself before any byte: it could do so for ever.
func (c *checked) refuseLeftRecursion() error {
	done := map[string]bool{} // false: on the path
	var path []string
	var follow func(name string) error
	follow = func(name string) error {
		if over, ok := done[name]; over {
			return nil
		} else if ok {
			circle := append(slices.Clone(path[slices.Index(path, name):]), name)
			return fmt.Errorf("rule %s: left recursion (%s): a rule must not begin with itself", name, strings.Join(circle, " → "))
		}
		path, done[name] = append(path, name), false
		first, _ := c.first(nil, c.grammar.Rules[name])
		for _, callee := range first {
			if err := follow(callee); err != nil {
				return err
			}
		}
		path, done[name] = path[:len(path)-1], true
		return nil
	}
	for _, name := range slices.Backward(c.order) {
		if err := follow(name); err != nil {
			return err
		}
	}
	return nil
}

// first appends the rules that e may begin with, and says whether what follows e may begin there too.
func (c *checked) first(dst []string, e Expr) (rules []string, empty bool) {
	switch e := e.(type) {
	case Text:
		return dst, e == ""
	case Rule:
		return append(dst, string(e)), c.empty[string(e)]
	case Repeat:
		if e.Max == 0 {
			return dst, true
		}
		dst, empty = c.first(dst, e.Of)
		return dst, empty || e.Min == 0
	case Choice:
		for _, part := range e {
			var over bool
			dst, over = c.first(dst, part)
			empty = empty || over
		}
		return dst, empty
	case Sequence:
		for _, part := range e {
			if dst, empty = c.first(dst, part); !empty {
				return dst, false
			}
		}
		return dst, true
	}
	return dst, false
}
