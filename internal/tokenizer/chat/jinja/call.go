package jinja

import (
	"fmt"
	"slices"
)

// call calls a value, or gives a filter or a test its arguments.
type call struct {
	line           int
	positional     []expression
	names          []string
	keywords       []expression
	spread         expression // *spread
	spreadKeywords expression // **spreadKeywords
}

func (c *call) apply(r *renderer, s *scope, v Value) (Value, error) {
	a, err := c.arguments(r, s)
	if err != nil {
		return nil, err
	}
	return r.call(v, a)
}

func (c *call) arguments(r *renderer, s *scope) (a arguments, err error) {
	if err := r.make(16 * (len(c.positional) + len(c.keywords))); err != nil {
		return a, err
	}
	for _, e := range c.positional {
		v, err := r.eval(e, s)
		if err != nil {
			return a, err
		}
		a.positional = append(a.positional, v)
	}
	for i, e := range c.keywords {
		v, err := r.eval(e, s)
		if err == nil {
			err = a.setKeyword(Trusted(c.names[i]), v)
		}
		if err != nil {
			return a, err
		}
	}
	if c.spread != nil {
		v, err := r.eval(c.spread, s)
		if err != nil {
			return a, err
		}
		items, err := r.items(v)
		if err != nil {
			return a, err
		}
		a.positional = append(a.positional, items...)
	}
	if c.spreadKeywords == nil {
		return a, nil
	}
	v, err := r.eval(c.spreadKeywords, s)
	if err != nil {
		return a, err
	}
	more, ok := v.(*Dict)
	if !ok {
		return a, fmt.Errorf("argument after ** must be a mapping, not %s", v.typeName())
	}
	for key, value := range more.All {
		name, ok := key.(Text)
		if !ok {
			return a, fmt.Errorf("keywords must be strings")
		}
		if err := a.setKeyword(name, value); err != nil {
			return a, err
		}
	}
	return a, r.work(more.Len())
}

func (a *arguments) setKeyword(name Text, v Value) error {
	if a.keywords == nil {
		a.keywords = NewDict()
	}
	if _, ok := a.keywords.Get(name.S); ok {
		return fmt.Errorf("got multiple values for keyword argument '%s'", name.S)
	}
	a.keywords.Put(name, v)
	return nil
}

// bind gives arguments to parameters by place and by name. What is not given is nil.
func (a arguments) bind(function string, parameters ...string) ([]Value, error) {
	bound := make([]Value, len(parameters))
	if len(a.positional) > len(parameters) {
		return nil, fmt.Errorf("%s() takes at most %d arguments, got %d", function, len(parameters), len(a.positional))
	}
	copy(bound, a.positional)
	if a.keywords == nil {
		return bound, nil
	}
	for key, v := range a.keywords.All {
		name := key.(Text).S
		i := slices.Index(parameters, name)
		switch {
		case i < 0:
			return nil, fmt.Errorf("%s() got an unexpected keyword argument '%s'", function, name)
		case bound[i] != nil:
			return nil, fmt.Errorf("%s() got multiple values for argument '%s'", function, name)
		}
		bound[i] = v
	}
	return bound, nil
}

// call calls a function, or recurses into a loop.
func (r *renderer) call(v Value, a arguments) (Value, error) {
	switch f := v.(type) {
	case *function:
		if err := r.deeper(); err != nil {
			return nil, err
		}
		defer func() { r.depth-- }()
		return f.call(r, a)
	case *loop:
		if f.again == nil {
			return nil, fmt.Errorf("The loop must have the 'recursive' marker to be called recursively.")
		}
		return r.call(f.again, a)
	case *undefined:
		return nil, f.fail()
	}
	return nil, fmt.Errorf("'%s' object is not callable", v.typeName())
}

// macro makes a function of a macro: its names are seen in the scope where it was written.
func (r *renderer) macro(m *macro, defined *scope) *function {
	return &function{name: m.name, call: func(r *renderer, a arguments) (Value, error) {
		inner, err := m.bind(r, a, defined)
		if err != nil {
			return nil, err
		}
		line := r.line
		text, err := r.capture(m.body, inner)
		if err == nil {
			r.line = line
		}
		return text, err
	}}
}

// bind makes the scope of one call. Beyond its parameters a macro has varargs and kwargs, and within {% call %} its caller.
func (m *macro) bind(r *renderer, a arguments, defined *scope) (*scope, error) {
	if err := r.make(64 * (1 + len(m.parameters))); err != nil {
		return nil, err
	}
	s := &scope{parent: defined, names: map[string]Value{}}
	extra := &List{tuple: true}
	if len(a.positional) > len(m.parameters) {
		if !m.varargs {
			return nil, fmt.Errorf("macro '%s' takes not more than %d argument(s)", m.name, len(m.parameters))
		}
		extra.Items = a.positional[len(m.parameters):]
	}
	others := NewDict()
	if a.keywords != nil {
		for key, v := range a.keywords.All {
			others.Put(key.(Text), v)
		}
	}
	for i, p := range m.parameters {
		given, byName := others.Get(p.name)
		if byName {
			others = without(others, p.name)
		}
		switch {
		case i < len(a.positional):
			if byName {
				return nil, fmt.Errorf("macro '%s' got multiple values for argument '%s'", m.name, p.name)
			}
			s.set(p.name, a.positional[i])
		case byName:
			s.set(p.name, given)
		case p.otherwise != nil:
			v, err := r.eval(p.otherwise, s)
			if err != nil {
				return nil, err
			}
			s.set(p.name, v)
		default:
			s.set(p.name, &undefined{says: fmt.Sprintf("parameter '%s' was not provided", p.name)})
		}
	}
	if caller, ok := others.Get("caller"); ok {
		s.set("caller", caller)
		others = without(others, "caller")
	} else if m.name != "caller" {
		s.set("caller", &undefined{says: "No caller defined"})
	}
	if others.Len() > 0 && !m.kwargs {
		return nil, fmt.Errorf("macro '%s' takes no keyword argument '%s'", m.name, others.keys[0].(Text).S)
	}
	s.set("varargs", extra)
	s.set("kwargs", others)
	return s, nil
}

func without(d *Dict, name string) *Dict {
	out := NewDict()
	for key, v := range d.All {
		if key.(Text).S != name {
			out.Put(key.(Text), v)
		}
	}
	return out
}
