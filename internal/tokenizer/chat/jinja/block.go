package jinja

import "slices"

func (p *parser) ifBlock(line int) (statement, error) {
	defer p.forgive(len(p.unknown))
	node := &ifElse{line: line}
	for {
		test, err := p.tuple(false)
		if err != nil {
			return nil, err
		}
		body, end, err := p.block("elif", "else", "endif")
		if err != nil {
			return nil, err
		}
		node.branches = append(node.branches, branch{test, body})
		switch end {
		case "else":
			node.otherwise, _, err = p.block("endif")
			return node, err
		case "endif":
			return node, nil
		}
	}
}

func (p *parser) forBlock(line int) (statement, error) {
	target, err := p.targets(false)
	if err != nil {
		return nil, err
	}
	if err := p.expect("in"); err != nil {
		return nil, err
	}
	node := &forLoop{line: line, target: target}
	if node.over, err = p.tuple(false, "recursive"); err != nil {
		return nil, err
	}
	if p.skip("if") {
		if node.test, err = p.expression(); err != nil {
			return nil, err
		}
	}
	node.recursive = p.skip("recursive")
	p.loops++
	body, end, err := p.block("else", "endfor")
	p.loops--
	if err != nil {
		return nil, err
	}
	node.body = body
	if end == "else" {
		node.otherwise, _, err = p.block("endfor")
	}
	return node, err
}

func (p *parser) set(line int) (statement, error) {
	target, err := p.targets(true)
	if err != nil {
		return nil, err
	}
	if p.skip("=") {
		value, err := p.tuple(true)
		return &assign{line: line, target: target, value: value}, err
	}
	var filters []step
	for p.skip("|") {
		f, err := p.filter()
		if err != nil {
			return nil, err
		}
		filters = append(filters, f)
	}
	body, _, err := p.block("endset")
	return &assignBlock{line: line, target: target, filters: filters, body: body}, err
}

// target is a name, an attribute of a namespace, or several targets that a list is spread over.
type target struct {
	name, attribute string
	parts           []target
}

// reserved names are constants.
var reserved = []string{"true", "false", "none", "True", "False", "None"}

// targets reads a, or a, b, or (a, (b, c)).
func (p *parser) targets(namespaces bool) (target, error) {
	var parts []target
	isTuple := false
	for {
		if len(parts) > 0 && (p.current().kind != nameToken && !p.current().is("(") || p.current().is("in")) {
			break // a comma at the end
		}
		one, err := p.target(namespaces)
		if err != nil {
			return target{}, err
		}
		parts = append(parts, one)
		if !p.skip(",") {
			break
		}
		isTuple = true
	}
	if !isTuple {
		return parts[0], nil
	}
	return target{parts: parts}, nil
}

func (p *parser) target(namespaces bool) (target, error) {
	if p.skip("(") {
		if err := p.enter(); err != nil {
			return target{}, err
		}
		defer p.leave()
		inner, err := p.targets(namespaces)
		if err == nil {
			err = p.expect(")")
		}
		return inner, err
	}
	if p.current().kind != nameToken || slices.Contains(reserved, p.current().text) {
		return target{}, p.errorf("can't assign to %s", p.current().describe())
	}
	t := target{name: p.next().text}
	if namespaces && p.skip(".") {
		var err error
		if t.attribute, err = p.name(); err != nil {
			return target{}, err
		}
	}
	return t, nil
}

func (p *parser) macro(line int) (statement, error) {
	name, err := p.name()
	if err != nil {
		return nil, err
	}
	m := &macro{line: line, name: name}
	if err := p.parameters(m); err != nil {
		return nil, err
	}
	return m, p.macroBody(m, "endmacro")
}

// macroBody is no part of the loops around it.
func (p *parser) macroBody(m *macro, end string) (err error) {
	outer := *p
	p.loops, p.varargs, p.kwargs = 0, false, false
	m.body, _, err = p.block(end)
	m.varargs, m.kwargs = p.varargs, p.kwargs
	p.loops, p.varargs, p.kwargs = outer.loops, outer.varargs || m.varargs, outer.kwargs || m.kwargs
	return err
}

// parameters reads (a, b=1).
func (p *parser) parameters(m *macro) error {
	if err := p.expect("("); err != nil {
		return err
	}
	for !p.skip(")") {
		if len(m.parameters) > 0 {
			if err := p.expect(","); err != nil {
				return err
			}
		}
		name, err := p.target(false)
		if err != nil {
			return err
		}
		one := parameter{name: name.name}
		if p.skip("=") {
			if one.otherwise, err = p.expression(); err != nil {
				return err
			}
		} else if n := len(m.parameters); n > 0 && m.parameters[n-1].otherwise != nil {
			return p.errorf("non-default argument follows default argument")
		}
		m.parameters = append(m.parameters, one)
	}
	return nil
}

func (p *parser) callBlock(line int) (statement, error) {
	m := &macro{line: line, name: "caller"}
	if p.current().is("(") {
		if err := p.parameters(m); err != nil {
			return nil, err
		}
	}
	e, err := p.expression()
	if err != nil {
		return nil, err
	}
	chain, ok := e.(*path)
	if !ok {
		return nil, p.errorf("expected call")
	}
	c, ok := chain.steps[len(chain.steps)-1].(*call)
	if !ok {
		return nil, p.errorf("expected call")
	}
	called := &path{line: chain.line, base: chain.base, steps: chain.steps[:len(chain.steps)-1]}
	return &callBlock{line: line, called: called, call: c, caller: m}, p.macroBody(m, "endcall")
}

func (p *parser) filterBlock(line int) (statement, error) {
	node := &filterBlock{line: line}
	for more := true; more; more = p.skip("|") {
		f, err := p.filter()
		if err != nil {
			return nil, err
		}
		node.filters = append(node.filters, f)
	}
	var err error
	node.body, _, err = p.block("endfilter")
	return node, err
}

func (p *parser) with(line int) (statement, error) {
	node := &with{line: line}
	for p.current().kind != blockEnd {
		if len(node.targets) > 0 {
			if err := p.expect(","); err != nil {
				return nil, err
			}
		}
		target, err := p.target(false)
		if err != nil {
			return nil, err
		}
		if err := p.expect("="); err != nil {
			return nil, err
		}
		value, err := p.expression()
		if err != nil {
			return nil, err
		}
		node.targets, node.values = append(node.targets, target), append(node.values, value)
	}
	var err error
	node.body, _, err = p.block("endwith")
	return node, err
}
