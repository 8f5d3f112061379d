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
