package jinja

import "fmt"

// expression is a part of a template that has a value.
type expression interface {
	eval(r *renderer, s *scope) (Value, error)
}

// step makes a value of a value: an attribute, a call, a filter.
type step interface {
	apply(r *renderer, s *scope, v Value) (Value, error)
}

type (
	constant    struct{ value Value }
	variable    struct{ name string }
	listLiteral struct {
		items []expression
		tuple bool
	}
	dictLiteral struct{ keys, values []expression }
	conditional struct {
		line                   int
		test, value, otherwise expression // otherwise is nil where there is none
	}
	logic struct {
		or       bool
		operands []expression
	}
	negation struct{ operand expression }
	// comparison is a chain: a < b < c means a < b and b < c.
	comparison struct {
		first expression
		rest  []operation
	}
	// arithmetic is a chain of operators of one precedence, from left to right.
	arithmetic struct {
		first expression
		rest  []operation
	}
	operation struct {
		operator string
		operand  expression
	}
	sign struct {
		negative bool
		operand  expression
	}
	// path is a value and what is done to it, in order.
	path struct {
		line  int
		base  expression
		steps []step
	}

	attribute   struct{ name string }
	item        struct{ key expression }
	slicing     struct{ bounds [3]expression } // from, to, by; nil where left out
	applyFilter struct {
		name   string
		filter filter // nil where there is none of the name, which is an error once it is reached
		call   *call
	}
	applyTest struct {
		name    string
		test    test // nil as in applyFilter
		negated bool
		call    *call
	}
)

func (c constant) eval(*renderer, *scope) (Value, error) { return c.value, nil }

func (v *variable) eval(_ *renderer, s *scope) (Value, error) { return s.get(v.name), nil }

func (l *listLiteral) eval(r *renderer, s *scope) (Value, error) {
	out := &List{tuple: l.tuple}
	for _, e := range l.items {
		v, err := r.eval(e, s)
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, v)
	}
	return out, r.make(16 * (1 + len(out.Items)))
}

func (d *dictLiteral) eval(r *renderer, s *scope) (Value, error) {
	out := NewDict()
	for i, e := range d.keys {
		key, err := r.eval(e, s)
		if err != nil {
			return nil, err
		}
		v, err := r.eval(d.values[i], s)
		if err == nil {
			err = out.put(key, v)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, r.make(64 * (1 + out.Len()))
}

func (c *conditional) eval(r *renderer, s *scope) (Value, error) {
	yes, err := r.truth(c.test, s)
	switch {
	case err != nil:
		return nil, err
	case yes:
		return r.eval(c.value, s)
	case c.otherwise != nil:
		return r.eval(c.otherwise, s)
	}
	return &undefined{says: fmt.Sprintf("the inline if-expression on line %d is false and has no else.", c.line)}, nil
}

func (l *logic) eval(r *renderer, s *scope) (v Value, err error) {
	for _, e := range l.operands {
		if v, err = r.eval(e, s); err != nil {
			return nil, err
		}
		if yes, err := truth(v); err != nil || yes == l.or {
			return v, err
		}
	}
	return v, nil
}

func (n *negation) eval(r *renderer, s *scope) (Value, error) {
	yes, err := r.truth(n.operand, s)
	return Bool(!yes), err
}

func (c *comparison) eval(r *renderer, s *scope) (Value, error) {
	left, err := r.eval(c.first, s)
	if err != nil {
		return nil, err
	}
	for _, o := range c.rest {
		right, err := r.eval(o.operand, s)
		if err != nil {
			return nil, err
		}
		if yes, err := r.compare(o.operator, left, right); err != nil || !yes {
			return Bool(false), err
		}
		left = right
	}
	return Bool(true), nil
}

// eval joins texts once, not one after the other: a + b + c + d would copy a three times.
func (a *arithmetic) eval(r *renderer, s *scope) (Value, error) {
	left, err := r.eval(a.first, s)
	if err != nil {
		return nil, err
	}
	var parts []Text // of which left is the sum, where there are any
	for _, o := range a.rest {
		right, err := r.eval(o.operand, s)
		if err != nil {
			return nil, err
		}
		if next, ok := right.(Text); ok && (o.operator == "+" || o.operator == "~") {
			if parts == nil && isText(left) {
				parts = append(parts, left.(Text))
			}
			if parts != nil {
				parts = append(parts, next)
				continue
			}
		}
		if parts != nil {
			if left, err = r.joinTexts(parts); err != nil {
				return nil, err
			}
			parts = nil
		}
		if left, err = r.calculate(o.operator, left, right); err != nil {
			return nil, err
		}
	}
	if parts != nil {
		return r.joinTexts(parts)
	}
	return left, nil
}

func (e *sign) eval(r *renderer, s *scope) (Value, error) {
	v, err := r.eval(e.operand, s)
	if err != nil {
		return nil, err
	}
	if b, ok := v.(Bool); ok {
		v = toInt(b)
	}
	switch n := v.(type) {
	case Int:
		if e.negative {
			return r.calculate("-", Int(0), n)
		}
		return n, nil
	case Float:
		if e.negative {
			return -n, nil
		}
		return n, nil
	case *undefined:
		return nil, n.fail()
	}
	return nil, fmt.Errorf("bad operand type for unary %c: '%s'", map[bool]byte{true: '-', false: '+'}[e.negative], v.typeName())
}

func (p *path) eval(r *renderer, s *scope) (Value, error) {
	v, err := r.eval(p.base, s)
	for _, one := range p.steps {
		if err != nil {
			return nil, err
		}
		if err = r.work(1); err == nil {
			v, err = one.apply(r, s, v)
		}
	}
	return v, err
}
