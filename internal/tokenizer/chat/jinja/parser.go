package jinja

import (
	"fmt"
	"slices"
)

// maxNesting bounds expressions within expressions and blocks within blocks, and with them the stack of a rendering.
const maxNesting = 100

// parser turns tokens into statements.
type parser struct {
	tokens  []token
	at      int
	nesting int
	loops   int     // for blocks around this one, within the macro in hand
	varargs bool    // the macro in hand names varargs
	kwargs  bool    // the macro in hand names kwargs
	unknown []error // filters and tests that there are none of, where they surely run
}

func (p *parser) current() token { return p.tokens[p.at] }

func (p *parser) peek() token { return p.tokens[min(p.at+1, len(p.tokens)-1)] }

func (p *parser) next() token {
	t := p.tokens[p.at]
	if t.kind != endToken {
		p.at++
	}
	return t
}

func (p *parser) skip(text string) bool {
	if p.current().is(text) {
		p.next()
		return true
	}
	return false
}

func (p *parser) errorf(format string, args ...any) error {
	return &Error{p.current().line, fmt.Sprintf(format, args...)}
}

func (p *parser) expect(text string) error {
	if !p.skip(text) {
		return p.errorf("expected token '%s', got %s", text, p.current().describe())
	}
	return nil
}

func (p *parser) expectKind(kind tokenKind, what string) (token, error) {
	if p.current().kind != kind {
		return token{}, p.errorf("expected %s, got %s", what, p.current().describe())
	}
	return p.next(), nil
}

func (p *parser) name() (string, error) {
	t, err := p.expectKind(nameToken, "token 'name'")
	return t.text, err
}

// enter counts a level of nesting; leave ends it.
func (p *parser) enter() error {
	if p.nesting++; p.nesting > maxNesting {
		return p.errorf("more than %d levels of nesting", maxNesting)
	}
	return nil
}

func (p *parser) leave() { p.nesting-- }

func (p *parser) template() ([]statement, error) {
	body, err := p.body()
	if err == nil && len(p.unknown) > 0 {
		err = p.unknown[0]
	}
	return body, err
}

// forgive forgets the unknown names beyond the first n: a branch holds them, and they are an error once that is taken.
func (p *parser) forgive(n int) { p.unknown = p.unknown[:n] }

// body reads statements up to the end, or to the name of a tag that is one of ends, which stays.
func (p *parser) body(ends ...string) (list []statement, err error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	for {
		var one statement
		switch t := p.next(); t.kind {
		case endToken:
			if len(ends) > 0 {
				return nil, p.errorf("Unexpected end of template. Jinja was looking for the following tags: '%s'", ends[len(ends)-1])
			}
			return list, nil
		case dataToken:
			one = &output{line: t.line, data: t.text}
		case variableBegin:
			one, err = p.print(t.line)
		default: // a block: the lexer yields nothing else between tags
			if slices.ContainsFunc(ends, p.current().is) {
				return list, nil
			}
			if one, err = p.statement(); err == nil {
				_, err = p.expectKind(blockEnd, "token 'end of statement block'")
			}
		}
		if err != nil {
			return nil, err
		}
		list = append(list, one)
	}
}

func (p *parser) print(line int) (statement, error) {
	e, err := p.tuple(true)
	if err != nil {
		return nil, err
	}
	_, err = p.expectKind(variableEnd, "token 'end of print statement'")
	return &output{line: line, value: e}, err
}

// block reads the end of the tag in hand and statements up to one of the tags, and takes the name of that.
func (p *parser) block(ends ...string) (list []statement, end string, err error) {
	p.skip(":")
	if _, err := p.expectKind(blockEnd, "token 'end of statement block'"); err != nil {
		return nil, "", err
	}
	if list, err = p.body(ends...); err != nil {
		return nil, "", err
	}
	return list, p.next().text, nil
}

func (p *parser) statement() (statement, error) {
	line := p.current().line
	name, err := p.expectKind(nameToken, "a tag name")
	if err != nil {
		return nil, err
	}
	switch name.text {
	case "if":
		return p.ifBlock(line)
	case "for":
		return p.forBlock(line)
	case "set":
		return p.set(line)
	case "macro":
		return p.macro(line)
	case "call":
		return p.callBlock(line)
	case "filter":
		return p.filterBlock(line)
	case "with":
		return p.with(line)
	case "generation": // marks what the assistant said, for training; renders what it holds
		body, _, err := p.block("endgeneration")
		return &with{line: line, body: body}, err
	case "break", "continue":
		if p.loops == 0 {
			return nil, p.errorf("'%s' outside of a loop", name.text)
		}
		return &jump{line: line, to: map[string]flow{"break": flowBreak, "continue": flowContinue}[name.text]}, nil
	case "extends", "block", "include", "import", "from", "autoescape", "trans", "do", "debug":
		return nil, &Error{line, fmt.Sprintf("the tag '%s' is not supported", name.text)}
	}
	return nil, &Error{line, fmt.Sprintf("Encountered unknown tag '%s'.", name.text)}
}

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
