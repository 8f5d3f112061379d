package jinja

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// expression reads a conditional expression, or what binds tighter.
func (p *parser) expression() (expression, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	line, known := p.current().line, len(p.unknown)
	value, err := p.or()
	for err == nil && p.current().is("if") {
		p.next()
		node := &conditional{line: line, value: value}
		if node.test, err = p.or(); err == nil && p.skip("else") {
			node.otherwise, err = p.expression()
		}
		p.forgive(known)
		value = node
	}
	return value, err
}

// tuple reads an expression, or several with commas between them. Without conditions `if` ends it, as does the word in ends.
func (p *parser) tuple(conditions bool, ends ...string) (expression, error) {
	one := p.or
	if conditions {
		one = p.expression
	}
	var items []expression
	isTuple := false
	for !p.tupleEnds(ends) {
		item, err := one()
		if err != nil {
			return nil, err
		}
		items = append(items, item)
		if !p.skip(",") {
			break
		}
		isTuple = true
	}
	switch {
	case len(items) == 0:
		return nil, p.errorf("Expected an expression, got %s", p.current().describe())
	case !isTuple:
		return items[0], nil
	}
	return &listLiteral{items: items, tuple: true}, nil
}

func (p *parser) tupleEnds(ends []string) bool {
	t := p.current()
	return t.kind == variableEnd || t.kind == blockEnd || t.kind == endToken || t.is(")") || slices.ContainsFunc(ends, t.is)
}

func (p *parser) or() (expression, error) { return p.logic("or", p.and) }

func (p *parser) and() (expression, error) { return p.logic("and", p.not) }

func (p *parser) logic(word string, operand func() (expression, error)) (expression, error) {
	first, err := operand()
	if err != nil || !p.current().is(word) {
		return first, err
	}
	node := &logic{or: word == "or", operands: []expression{first}}
	for p.skip(word) {
		next, err := operand()
		if err != nil {
			return nil, err
		}
		node.operands = append(node.operands, next)
	}
	return node, nil
}

func (p *parser) not() (expression, error) {
	if !p.skip("not") {
		return p.comparison()
	}
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	operand, err := p.not()
	return &negation{operand}, err
}

var comparisons = []string{"==", "!=", "<", "<=", ">", ">=", "in"}

func (p *parser) comparison() (expression, error) {
	first, err := p.sum()
	if err != nil {
		return nil, err
	}
	node := &comparison{first: first}
	for {
		t := p.current()
		op := t.text
		switch {
		case slices.ContainsFunc(comparisons, t.is):
		case t.is("not") && p.peek().is("in"):
			p.next()
			op = "not in"
		default:
			if len(node.rest) == 0 {
				return first, nil
			}
			return node, nil
		}
		p.next()
		operand, err := p.sum()
		if err != nil {
			return nil, err
		}
		node.rest = append(node.rest, operation{op, operand})
	}
}

func (p *parser) sum() (expression, error) { return p.arithmetic(p.concatenation, "+", "-") }

func (p *parser) concatenation() (expression, error) { return p.arithmetic(p.product, "~") }

func (p *parser) product() (expression, error) { return p.arithmetic(p.power, "*", "/", "//", "%") }

func (p *parser) power() (expression, error) {
	return p.arithmetic(func() (expression, error) { return p.unary(true) }, "**")
}

// arithmetic reads operands with operators of one precedence between them, which group to the left.
func (p *parser) arithmetic(operand func() (expression, error), operators ...string) (expression, error) {
	first, err := operand()
	if err != nil || !slices.ContainsFunc(operators, p.current().is) {
		return first, err
	}
	node := &arithmetic{first: first}
	for slices.ContainsFunc(operators, p.current().is) {
		op := p.next().text
		next, err := operand()
		if err != nil {
			return nil, err
		}
		node.rest = append(node.rest, operation{op, next})
	}
	return node, nil
}

// unary reads a sign or a primary with what follows it. A sign binds tighter than a filter.
func (p *parser) unary(filters bool) (expression, error) {
	if t := p.current(); t.is("-") || t.is("+") {
		if err := p.enter(); err != nil {
			return nil, err
		}
		defer p.leave()
		p.next()
		operand, err := p.unary(false)
		if err != nil {
			return nil, err
		}
		return p.follow(&sign{negative: t.is("-"), operand: operand}, filters)
	}
	base, err := p.primary()
	if err != nil {
		return nil, err
	}
	return p.follow(base, filters)
}

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

func (p *parser) primary() (expression, error) {
	t := p.current()
	switch {
	case t.kind == nameToken:
		p.next()
		switch t.text {
		case "true", "True":
			return constant{Bool(true)}, nil
		case "false", "False":
			return constant{Bool(false)}, nil
		case "none", "None":
			return constant{None{}}, nil
		}
		p.varargs, p.kwargs = p.varargs || t.text == "varargs", p.kwargs || t.text == "kwargs"
		return &variable{t.text}, nil
	case t.kind == stringToken:
		var text strings.Builder
		for p.current().kind == stringToken {
			text.WriteString(p.next().text)
		}
		return constant{Trusted(text.String())}, nil
	case t.kind == integerToken:
		p.next()
		value, err := strconv.ParseInt(t.text, 10, 64)
		return constant{Int(value)}, err
	case t.kind == floatToken:
		p.next()
		value, err := strconv.ParseFloat(t.text, 64)
		if err != nil {
			return nil, &Error{t.line, fmt.Sprintf("number %s is too large", t.text)}
		}
		return constant{Float(value)}, nil
	case t.is("("):
		return p.parenthesis()
	case t.is("["):
		p.next()
		items, err := p.list("]")
		return &listLiteral{items: items}, err
	case t.is("{"):
		return p.dict()
	}
	return nil, p.errorf("unexpected %s", t.describe())
}

func (p *parser) parenthesis() (expression, error) {
	p.next()
	if p.skip(")") {
		return &listLiteral{tuple: true}, nil
	}
	inner, err := p.tuple(true)
	if err == nil {
		err = p.expect(")")
	}
	return inner, err
}

// list reads expressions up to a closing bracket.
func (p *parser) list(closing string) (items []expression, err error) {
	for !p.skip(closing) {
		if len(items) > 0 {
			if err := p.expect(","); err != nil {
				return nil, err
			}
			if p.skip(closing) {
				break
			}
		}
		item, err := p.expression()
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return items, nil
}

func (p *parser) dict() (expression, error) {
	p.next()
	node := &dictLiteral{}
	for !p.skip("}") {
		if len(node.keys) > 0 {
			if err := p.expect(","); err != nil {
				return nil, err
			}
			if p.skip("}") {
				break
			}
		}
		key, err := p.expression()
		if err != nil {
			return nil, err
		}
		if err := p.expect(":"); err != nil {
			return nil, err
		}
		value, err := p.expression()
		if err != nil {
			return nil, err
		}
		node.keys, node.values = append(node.keys, key), append(node.values, value)
	}
	return node, nil
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
