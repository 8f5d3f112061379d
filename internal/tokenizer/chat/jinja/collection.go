package jinja

import "fmt"

var dictMethods = map[string]func(r *renderer, d *Dict, a arguments) (Value, error){
	"get": func(_ *renderer, d *Dict, a arguments) (Value, error) {
		bound, err := a.bind("get", "key", "default")
		if err != nil || bound[0] == nil {
			return nil, cmpError(err, "get expected at least 1 argument, got 0")
		}
		v, ok, err := d.find(bound[0])
		switch {
		case err != nil || ok:
			return v, err
		case bound[1] != nil:
			return bound[1], nil
		}
		return None{}, nil
	},
	"items":  func(r *renderer, d *Dict, a arguments) (Value, error) { return r.pairs(d) },
	"keys":   func(r *renderer, d *Dict, a arguments) (Value, error) { return NewList(d.keys...), r.work(d.Len()) },
	"values": func(r *renderer, d *Dict, a arguments) (Value, error) { return NewList(d.values...), r.work(d.Len()) },
	"copy":   func(_ *renderer, d *Dict, a arguments) (Value, error) { return d, nil }, // which cannot change
}

// pairs are the tuples (key, value).
func (r *renderer) pairs(d *Dict) (*List, error) {
	if err := r.make(64 * d.Len()); err != nil {
		return nil, err
	}
	out := &List{}
	for key, v := range d.All {
		out.Items = append(out.Items, &List{Items: []Value{key, v}, tuple: true})
	}
	return out, nil
}

var listMethods = map[string]func(r *renderer, l *List, a arguments) (Value, error){
	"index": func(r *renderer, l *List, a arguments) (Value, error) {
		bound, err := a.bind("index", "value")
		if err != nil || bound[0] == nil {
			return nil, cmpError(err, "index expected 1 argument, got 0")
		}
		for i, one := range l.Items {
			if same, err := r.equal(one, bound[0]); err != nil || same {
				return Int(i), err
			}
		}
		return nil, fmt.Errorf("%s is not in list", describe(bound[0]))
	},
	"count": func(r *renderer, l *List, a arguments) (Value, error) {
		bound, err := a.bind("count", "value")
		if err != nil || bound[0] == nil {
			return nil, cmpError(err, "count expected 1 argument, got 0")
		}
		n := 0
		for _, one := range l.Items {
			same, err := r.equal(one, bound[0])
			if err != nil {
				return nil, err
			}
			if same {
				n++
			}
		}
		return Int(n), nil
	},
	"copy": func(_ *renderer, l *List, _ arguments) (Value, error) { return l, nil }, // which cannot change
}
