package jinja

import (
	"context"
	"fmt"
	"time"
)

// renderer is one rendering. It belongs to one goroutine.
type renderer struct {
	ctx      context.Context
	limits   Limits
	deadline time.Time
	now      func() time.Time

	out        *builder // what is printed goes here: the output, or what a macro or a block collects
	line       int      // of the statement in hand
	operations int      // done so far
	memory     int      // bytes made so far
	depth      int      // calls and loops in hand
}

// scope holds names. What it does not have, the one around it may.
type scope struct {
	parent *scope
	names  map[string]Value
}

func (s *scope) get(name string) Value {
	for ; s != nil; s = s.parent {
		if v, ok := s.names[name]; ok {
			return v
		}
	}
	return undefinedName(name)
}

func (s *scope) set(name string, v Value) {
	if s.names == nil {
		s.names = map[string]Value{}
	}
	s.names[name] = v
}

// checkEvery is how many operations pass between two looks at the clock.
const checkEvery = 1 << 10

// work counts operations, and looks at the clock now and then.
func (r *renderer) work(n int) error {
	before := r.operations
	r.operations += n
	if r.operations > r.limits.Operations {
		return &LimitError{Limit: fmt.Sprintf("takes more than %d operations", r.limits.Operations)}
	}
	if before/checkEvery == r.operations/checkEvery {
		return nil
	}
	if err := r.ctx.Err(); err != nil {
		return context.Cause(r.ctx)
	}
	if time.Now().After(r.deadline) {
		return &LimitError{Limit: fmt.Sprintf("takes longer than %v", r.limits.Time), Slow: true}
	}
	return nil
}

// make counts bytes that are allocated, and the work of filling them.
func (r *renderer) make(bytes int) error {
	if r.memory += bytes; r.memory > r.limits.Memory {
		return &LimitError{Limit: fmt.Sprintf("makes values of more than %d bytes", r.limits.Memory)}
	}
	return r.touch(bytes)
}

// touch counts the work of reading so many bytes.
func (r *renderer) touch(bytes int) error { return r.work(bytes >> 10) }

func (r *renderer) outputError() error {
	return &LimitError{Limit: fmt.Sprintf("makes a text of more than %d bytes", r.limits.Output)}
}

// deeper counts a call or a level of values within values; the caller takes it back by r.depth--.
func (r *renderer) deeper() error {
	if r.depth++; r.depth > r.limits.Depth {
		return &LimitError{Limit: fmt.Sprintf("goes more than %d levels deep", r.limits.Depth)}
	}
	return nil
}

func (r *renderer) run(body []statement, s *scope) (flow, error) {
	for _, one := range body {
		if err := r.work(1); err != nil {
			return flowOn, err
		}
		if f, err := one.run(r, s); f != flowOn || err != nil {
			return f, err
		}
	}
	return flowOn, nil
}

// capture collects what a body prints.
func (r *renderer) capture(body []statement, s *scope) (Text, error) {
	outer := r.out
	r.out = r.newBuilder()
	defer func() { r.out = outer }()
	if _, err := r.run(body, s); err != nil {
		return Text{}, err
	}
	return r.out.text(), nil
}

// eval is the way to evaluate any expression: it counts.
func (r *renderer) eval(e expression, s *scope) (Value, error) {
	if err := r.work(1); err != nil {
		return nil, err
	}
	return e.eval(r, s)
}

func (r *renderer) truth(e expression, s *scope) (bool, error) {
	v, err := r.eval(e, s)
	if err != nil {
		return false, err
	}
	return truth(v)
}
