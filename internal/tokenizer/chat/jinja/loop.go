package jinja

import (
	"errors"
	"fmt"
)

// loop is the variable of that name: where a for loop stands.
type loop struct {
	items   []Value
	index   int // from 0
	depth0  int
	changed []Value // what `changed` was last asked about; nil before
	again   *function
}

func (f *forLoop) run(r *renderer, s *scope) (flow, error) { return flowOn, f.loop(r, s, nil, 0) }

// loop runs over `over`, or where that is nil over the loop's own expression.
func (f *forLoop) loop(r *renderer, s *scope, over Value, depth0 int) error {
	if err := r.deeper(); err != nil {
		return err
	}
	defer func() { r.depth-- }()
	r.line = f.line
	if over == nil {
		var err error
		if over, err = r.eval(f.over, s); err != nil {
			return err
		}
	}
	items, err := r.items(over)
	if err == nil && f.test != nil {
		items, err = f.filter(r, s, items)
	}
	if err != nil {
		return err
	}
	if len(items) == 0 {
		_, err := r.run(f.otherwise, &scope{parent: s})
		return err
	}
	state := &loop{items: items, depth0: depth0}
	if f.recursive {
		state.again = f.recursion(s, depth0+1)
	}
	for i, one := range items {
		state.index = i
		if err := r.make(64); err != nil {
			return err
		}
		inner := &scope{parent: s, names: map[string]Value{"loop": state}}
		if err := r.assign(f.target, one, inner); err != nil {
			return err
		}
		to, err := r.run(f.body, inner)
		if err != nil {
			return err
		}
		if to == flowBreak {
			break
		}
	}
	return nil
}

// filter keeps the elements that pass the loop's own condition; `loop` counts those only.
func (f *forLoop) filter(r *renderer, s *scope, items []Value) (kept []Value, err error) {
	for _, one := range items {
		inner := &scope{parent: s}
		if err := r.assign(f.target, one, inner); err != nil {
			return nil, err
		}
		yes, err := r.truth(f.test, inner)
		if err != nil {
			return nil, err
		}
		if yes {
			kept = append(kept, one)
		}
	}
	return kept, r.make(16 * len(kept))
}

// recursion is what loop(children) calls.
func (f *forLoop) recursion(s *scope, depth0 int) *function {
	return &function{name: "loop", call: func(r *renderer, a arguments) (Value, error) {
		if len(a.positional) != 1 {
			return nil, fmt.Errorf("loop takes 1 argument, got %d", len(a.positional))
		}
		outer := r.out
		r.out = r.newBuilder()
		defer func() { r.out = outer }()
		if err := f.loop(r, s, a.positional[0], depth0); err != nil {
			return nil, err
		}
		return r.out.text(), nil
	}}
}

// attribute reads loop.first and the like; nil where there is none of the name.
func (l *loop) attribute(name string) Value {
	n := len(l.items)
	switch name {
	case "index":
		return Int(l.index + 1)
	case "index0":
		return Int(l.index)
	case "revindex":
		return Int(n - l.index)
	case "revindex0":
		return Int(n - l.index - 1)
	case "first":
		return Bool(l.index == 0)
	case "last":
		return Bool(l.index == n-1)
	case "length":
		return Int(n)
	case "depth":
		return Int(l.depth0 + 1)
	case "depth0":
		return Int(l.depth0)
	case "previtem":
		if l.index == 0 {
			return &undefined{says: "there is no previous item"}
		}
		return l.items[l.index-1]
	case "nextitem":
		if l.index == n-1 {
			return &undefined{says: "there is no next item"}
		}
		return l.items[l.index+1]
	case "cycle":
		return &function{name: "cycle", call: func(_ *renderer, a arguments) (Value, error) {
			if len(a.positional) == 0 {
				return nil, errors.New("no items for cycling given")
			}
			return a.positional[l.index%len(a.positional)], nil
		}}
	case "changed":
		return &function{name: "changed", call: func(r *renderer, a arguments) (Value, error) {
			same := l.changed != nil
			if same {
				var err error
				if same, err = r.equal(NewList(l.changed...), NewList(a.positional...)); err != nil {
					return nil, err
				}
			}
			l.changed = append([]Value{}, a.positional...)
			return Bool(!same), nil
		}}
	}
	return nil
}
