package jinja

import (
	"fmt"
	"slices"
	"strconv"
)

// follow reads attributes, elements, calls, and where they are wanted filters and tests.
func (p *parser) follow(base expression, filters bool) (expression, error) {
	node := &path{line: p.current().line, base: base}
	for {
		t := p.current()
		var one step
		var err error
		switch {
		case t.is(".") || t.is("["):
			one, err = p.subscript()
		case t.is("("):
			one, err = p.call()
		case filters && t.is("|"):
			p.next()
			one, err = p.filter()
		case filters && t.is("is"):
			p.next()
			one, err = p.test()
		case len(node.steps) == 0:
			return base, nil
		default:
			return node, nil
		}
		if err != nil {
			return nil, err
		}
		node.steps = append(node.steps, one)
	}
}

// subscript reads .name, .0, [key] or [from:to:by].
func (p *parser) subscript() (step, error) {
	if p.skip(".") {
		t := p.next()
		switch t.kind {
		case nameToken:
			return &attribute{t.text}, nil
		case integerToken:
			value, err := strconv.ParseInt(t.text, 10, 64)
			return &item{constant{Int(value)}}, err
		}
		return nil, p.errorf("expected name or number")
	}
	p.next()
	var key expression
	var err error
	if !p.current().is(":") {
		if key, err = p.expression(); err != nil {
			return nil, err
		}
		if p.skip("]") {
			return &item{key}, nil
		}
		if p.current().is(",") {
			return nil, p.errorf("a tuple as a key is not supported")
		}
	}
	bounds := &slicing{}
	bounds.bounds[0] = key
	for i := 1; i < 3 && p.skip(":"); i++ {
		if t := p.current(); !t.is(":") && !t.is("]") {
			if bounds.bounds[i], err = p.expression(); err != nil {
				return nil, err
			}
		}
	}
	return bounds, p.expect("]")
}

// call reads (a, *b, c=d, **e).
func (p *parser) call() (*call, error) {
	p.next()
	c := &call{line: p.current().line}
	for n := 0; !p.skip(")"); n++ {
		if n > 0 {
			if err := p.expect(","); err != nil {
				return nil, err
			}
			if p.skip(")") {
				break
			}
		}
		if err := p.argument(c); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (p *parser) argument(c *call) (err error) {
	switch {
	case p.skip("*"):
		if c.spread != nil || c.spreadKeywords != nil {
			return p.errorf("invalid syntax for function call expression")
		}
		c.spread, err = p.expression()
	case p.skip("**"):
		if c.spreadKeywords != nil {
			return p.errorf("invalid syntax for function call expression")
		}
		c.spreadKeywords, err = p.expression()
	case p.current().kind == nameToken && p.peek().is("="):
		name := p.next().text
		p.next()
		if slices.Contains(c.names, name) {
			return p.errorf("keyword argument repeated: %s", name)
		}
		var value expression
		value, err = p.expression()
		c.names, c.keywords = append(c.names, name), append(c.keywords, value)
	default:
		if c.spread != nil || c.spreadKeywords != nil || len(c.names) > 0 {
			return p.errorf("invalid syntax for function call expression")
		}
		var value expression
		value, err = p.expression()
		c.positional = append(c.positional, value)
	}
	return err
}

// filter reads what stands behind a |.
func (p *parser) filter() (step, error) {
	line := p.current().line
	name, err := p.dotted()
	if err != nil {
		return nil, err
	}
	f := &applyFilter{name: name, filter: filterNamed(name), call: &call{line: line}}
	if f.filter == nil {
		p.unknown = append(p.unknown, &Error{line, fmt.Sprintf("No filter named '%s'.", name)})
	}
	if p.current().is("(") {
		f.call, err = p.call()
	}
	return f, err
}

// test reads what stands behind `is`.
func (p *parser) test() (step, error) {
	line := p.current().line
	negated := p.skip("not")
	name, err := p.dotted()
	if err != nil {
		return nil, err
	}
	t := &applyTest{name: name, test: tests[name], negated: negated, call: &call{line: line}}
	if t.test == nil {
		p.unknown = append(p.unknown, &Error{line, fmt.Sprintf("No test named '%s'.", name)})
	}
	switch now := p.current(); {
	case now.is("("):
		t.call, err = p.call()
	case now.is("is"):
		err = p.errorf("You cannot chain multiple tests with is")
	case p.startsOperand(now):
		var operand expression
		if operand, err = p.primary(); err == nil {
			operand, err = p.follow(operand, false)
		}
		t.call.positional = []expression{operand}
	}
	return t, err
}

// startsOperand tells whether a test without parentheses has an argument: `x is divisibleby 3`.
func (p *parser) startsOperand(t token) bool {
	switch t.kind {
	case nameToken:
		return !slices.ContainsFunc([]string{"else", "or", "and"}, t.is)
	case stringToken, integerToken, floatToken:
		return true
	}
	return t.is("[") || t.is("{")
}

func (p *parser) dotted() (string, error) {
	name, err := p.name()
	for err == nil && p.skip(".") {
		var more string
		more, err = p.name()
		name += "." + more
	}
	return name, err
}
