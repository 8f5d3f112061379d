package jinja

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// apply reads v.name: what Python's object has under the name goes before what a dictionary holds.
func (a *attribute) apply(r *renderer, _ *scope, v Value) (Value, error) {
	if u, ok := v.(*undefined); ok {
		return nil, u.fail()
	}
	if m := methodOf(v, a.name); m != nil {
		return m, nil
	}
	if found, ok := ownAttribute(v, a.name); ok {
		return found, nil
	}
	return missing(v, Trusted(a.name)), nil
}

// apply reads v[key]: what a dictionary or a list holds goes before what Python's object has under the name.
func (i *item) apply(r *renderer, s *scope, v Value) (Value, error) {
	key, err := r.eval(i.key, s)
	if err != nil {
		return nil, err
	}
	return r.item(v, key)
}

func (r *renderer) item(v, key Value) (Value, error) {
	if u, ok := v.(*undefined); ok {
		return nil, u.fail()
	}
	if name, ok := key.(Text); ok { // is hashed
		if err := r.touch(len(name.S)); err != nil {
			return nil, err
		}
	}
	switch container := v.(type) {
	case *Dict:
		if found, ok, err := container.find(key); ok && err == nil { // what cannot be a key is missing too
			return found, nil
		}
	case *List:
		if at, ok := asIndex(key); ok {
			if at < 0 {
				at += len(container.Items)
			}
			if at >= 0 && at < len(container.Items) {
				return container.Items[at], nil
			}
			return missing(v, key), nil
		}
	case Text:
		if at, ok := asIndex(key); ok {
			return r.character(container, at)
		}
	}
	if name, ok := key.(Text); ok {
		if found, ok := ownAttribute(v, name.S); ok {
			return found, nil
		}
		if m := methodOf(v, name.S); m != nil {
			return m, nil
		}
	}
	return missing(v, key), nil
}

// ownAttribute is what v holds under a name.
func ownAttribute(v Value, name string) (Value, bool) {
	switch o := v.(type) {
	case *Dict:
		return o.Get(name)
	case *namespace:
		return o.attributes.Get(name)
	case *loop:
		found := o.attribute(name)
		return found, found != nil
	case *List:
		if i := slices.Index([]string{"grouper", "list"}, name); o.group && i >= 0 {
			return o.Items[i], true
		}
	case *function:
		if name == "name" {
			return Trusted(o.name), true
		}
	}
	return nil, false
}

// missing stands for what v does not have. What Python's objects all have, such as __class__, is there, but not for templates.
func missing(v, key Value) Value {
	name, isText := key.(Text)
	if isText && strings.HasPrefix(name.S, "__") {
		return &undefined{says: fmt.Sprintf("access to attribute %s of '%s' object is unsafe.", pythonQuote(name.S), v.typeName())}
	}
	kind := v.typeName() + " object"
	if _, none := v.(None); none {
		kind = "None"
	}
	if isText {
		return &undefined{says: fmt.Sprintf("'%s' has no attribute %s", kind, pythonQuote(name.S))}
	}
	return &undefined{says: fmt.Sprintf("%s has no element %s", kind, describe(key))}
}

// describe shows a short value in a message.
func describe(v Value) string {
	switch v := v.(type) {
	case Int:
		return fmt.Sprint(int64(v))
	case Text:
		return pythonQuote(v.S)
	}
	return "of type " + v.typeName()
}

func asIndex(v Value) (int, bool) {
	switch n := v.(type) {
	case Int:
		return int(n), true
	case Bool:
		return int(toInt(n)), true
	}
	return 0, false
}

// character is t[at].
func (r *renderer) character(t Text, at int) (Value, error) {
	if err := r.touch(2 * len(t.S)); err != nil {
		return nil, err
	}
	n := utf8.RuneCountInString(t.S)
	if at < 0 {
		at += n
	}
	if at < 0 || at >= n {
		return missing(t, Int(at)), nil
	}
	start := runeOffset(t.S, at)
	return t.slice(start, start+runeOffset(t.S[start:], 1)), nil
}

// runeOffset is the byte offset of the n-th rune: what Python's indices stand for.
func runeOffset(s string, n int) int {
	for i := range s {
		if n <= 0 {
			return i
		}
		n--
	}
	return len(s)
}

func (f *applyFilter) apply(r *renderer, s *scope, v Value) (Value, error) {
	if f.filter == nil {
		return nil, fmt.Errorf("No filter named '%s' found.", f.name)
	}
	a, err := f.call.arguments(r, s)
	if err != nil {
		return nil, err
	}
	return f.filter(r, v, a)
}

func (t *applyTest) apply(r *renderer, s *scope, v Value) (Value, error) {
	if t.test == nil {
		return nil, fmt.Errorf("No test named '%s' found.", t.name)
	}
	a, err := t.call.arguments(r, s)
	if err != nil {
		return nil, err
	}
	yes, err := t.test(r, v, a)
	return Bool(yes != t.negated), err
}
