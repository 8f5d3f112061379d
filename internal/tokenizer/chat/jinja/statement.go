package jinja

import (
	"errors"
	"fmt"
	"strings"
)

// statement is a part of a template that is run.
type statement interface {
	run(r *renderer, s *scope) (flow, error)
}

// flow is how a statement ended.
type flow uint8

const (
	flowOn       flow = iota // the next one follows
	flowBreak                // the loop around it ends
	flowContinue             // the loop around it goes on with its next element
)

type (
	// output is text of the template, or the value of an expression.
	output struct {
		line  int
		data  string
		value expression // nil for data
	}
	ifElse struct {
		line      int
		branches  []branch
		otherwise []statement
	}
	branch struct {
		test expression
		body []statement
	}
	forLoop struct {
		line            int
		target          target
		over, test      expression // test is nil where there is none
		recursive       bool
		body, otherwise []statement
	}
	assign struct {
		line   int
		target target
		value  expression
	}
	assignBlock struct {
		line    int
		target  target
		filters []step
		body    []statement
	}
	macro struct {
		line       int
		name       string
		parameters []parameter
		varargs    bool // its body names them, and so it takes more arguments than parameters
		kwargs     bool // the same by name
		body       []statement
	}
	parameter struct {
		name      string
		otherwise expression // nil: undefined
	}
	callBlock struct {
		line   int
		called expression
		call   *call
		caller *macro
	}
	filterBlock struct {
		line    int
		filters []step
		body    []statement
	}
	with struct {
		line    int
		targets []target
		values  []expression
		body    []statement
	}
	jump struct {
		line int
		to   flow
	}
)

func (o *output) run(r *renderer, s *scope) (flow, error) {
	if o.value == nil {
		return flowOn, r.out.trusted(o.data)
	}
	r.line = o.line
	v, err := r.eval(o.value, s)
	if err != nil {
		return flowOn, err
	}
	return flowOn, r.printValue(r.out, v)
}

func (i *ifElse) run(r *renderer, s *scope) (flow, error) {
	for _, b := range i.branches {
		r.line = i.line
		yes, err := r.truth(b.test, s)
		if err != nil {
			return flowOn, err
		}
		if yes {
			return r.run(b.body, s)
		}
	}
	return r.run(i.otherwise, s)
}

func (a *assign) run(r *renderer, s *scope) (flow, error) {
	r.line = a.line
	v, err := r.eval(a.value, s)
	if err != nil {
		return flowOn, err
	}
	return flowOn, r.assign(a.target, v, s)
}

func (a *assignBlock) run(r *renderer, s *scope) (flow, error) {
	v, err := r.captureFiltered(a.body, a.filters, s)
	if err != nil {
		return flowOn, err
	}
	return flowOn, r.assign(a.target, v, s)
}

// captureFiltered renders a body in a scope of its own and applies filters to the text.
func (r *renderer) captureFiltered(body []statement, filters []step, s *scope) (Value, error) {
	text, err := r.capture(body, &scope{parent: s})
	var v Value = text
	for _, f := range filters {
		if err == nil {
			v, err = f.apply(r, s, v)
		}
	}
	return v, err
}

func (f *filterBlock) run(r *renderer, s *scope) (flow, error) {
	v, err := r.captureFiltered(f.body, f.filters, s)
	if err != nil {
		return flowOn, err
	}
	return flowOn, r.printValue(r.out, v)
}

func (w *with) run(r *renderer, s *scope) (flow, error) {
	inner := &scope{parent: s}
	for i, e := range w.values {
		r.line = w.line
		v, err := r.eval(e, s)
		if err == nil {
			err = r.assign(w.targets[i], v, inner)
		}
		if err != nil {
			return flowOn, err
		}
	}
	return r.run(w.body, inner)
}

func (j *jump) run(*renderer, *scope) (flow, error) { return j.to, nil }

func (m *macro) run(r *renderer, s *scope) (flow, error) {
	if err := r.make(64); err != nil {
		return flowOn, err
	}
	s.set(m.name, r.macro(m, s))
	return flowOn, nil
}

func (c *callBlock) run(r *renderer, s *scope) (flow, error) {
	r.line = c.line
	called, err := r.eval(c.called, s)
	if err != nil {
		return flowOn, err
	}
	a, err := c.call.arguments(r, s)
	if err != nil {
		return flowOn, err
	}
	if err := a.setKeyword(Trusted("caller"), r.macro(c.caller, s)); err != nil {
		return flowOn, err
	}
	v, err := r.call(called, a)
	if err != nil {
		return flowOn, err
	}
	return flowOn, r.printValue(r.out, v)
}

// assign binds the names of a target.
func (r *renderer) assign(t target, v Value, s *scope) error {
	if err := r.work(1); err != nil {
		return err
	}
	switch {
	case t.parts != nil:
		items, err := r.items(v)
		switch {
		case err != nil:
			return err
		case len(items) < len(t.parts):
			return fmt.Errorf("not enough values to unpack (expected %d, got %d)", len(t.parts), len(items))
		case len(items) > len(t.parts):
			return fmt.Errorf("too many values to unpack (expected %d)", len(t.parts))
		}
		for i, part := range t.parts {
			if err := r.assign(part, items[i], s); err != nil {
				return err
			}
		}
		return nil
	case t.attribute == "":
		s.set(t.name, v)
		return nil
	}
	object, ok := s.get(t.name).(*namespace)
	if !ok {
		return errors.New("cannot assign attribute on non-namespace object")
	}
	return object.set(Trusted(t.attribute), v)
}

func (n *namespace) set(name Text, v Value) error {
	if strings.HasPrefix(name.S, "_") {
		return fmt.Errorf("a namespace takes no attributes that start with an underscore, but got '%s'", name.S)
	}
	n.attributes.Put(name, v)
	return nil
}
