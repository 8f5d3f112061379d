package jinja

import "slices"

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
