package jinja

import (
	"fmt"
	"strconv"
	"strings"
)

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
