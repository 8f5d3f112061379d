package jinja

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

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
	return &undefined{says: fmt.Sprintf("the inline if-expression on line %d evaluated to false and no else section was defined.", c.line)}, nil
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

func (a *arithmetic) eval(r *renderer, s *scope) (Value, error) {
	left, err := r.eval(a.first, s)
	if err != nil {
		return nil, err
	}
	for _, o := range a.rest {
		right, err := r.eval(o.operand, s)
		if err != nil {
			return nil, err
		}
		if left, err = r.calculate(o.operator, left, right); err != nil {
			return nil, err
		}
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
		return &undefined{says: fmt.Sprintf("access to attribute '%s' of '%s' object is unsafe.", name.S, v.typeName())}
	}
	kind := v.typeName() + " object"
	if _, none := v.(None); none {
		kind = "None"
	}
	if isText {
		return &undefined{says: fmt.Sprintf("'%s' has no attribute '%s'", kind, name.S)}
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

// apply is v[from:to:by].
func (sl *slicing) apply(r *renderer, s *scope, v Value) (Value, error) {
	var bounds [3]*int
	for i, e := range sl.bounds {
		if e == nil {
			continue
		}
		b, err := r.eval(e, s)
		if err != nil {
			return nil, err
		}
		if _, none := b.(None); none {
			continue
		}
		n, ok := asIndex(b)
		if !ok {
			return nil, fmt.Errorf("slice indices must be integers or None, not %s", b.typeName())
		}
		bounds[i] = &n
	}
	switch c := v.(type) {
	case *List:
		from, to, by, err := place(len(c.Items), bounds)
		out := &List{tuple: c.tuple}
		for i := from; by > 0 && i < to || by < 0 && i > to; i += by {
			out.Items = append(out.Items, c.Items[i])
		}
		if err == nil {
			err = r.make(32 * len(out.Items))
		}
		return out, err
	case Text:
		return r.sliceText(c, bounds)
	case *undefined:
		return nil, c.fail()
	}
	return nil, fmt.Errorf("'%s' object cannot be sliced", v.typeName())
}

func (r *renderer) sliceText(t Text, bounds [3]*int) (Value, error) {
	if err := r.make(len(t.S)); err != nil {
		return nil, err
	}
	from, to, by, err := place(utf8.RuneCountInString(t.S), bounds)
	switch {
	case err != nil:
		return nil, err
	case by == 1:
		start := runeOffset(t.S, from)
		return t.slice(start, start+runeOffset(t.S[start:], to-from)), nil
	}
	offsets, err := r.runeOffsets(t.S)
	if err != nil {
		return nil, err
	}
	b := r.newBuilder()
	for i := from; by > 0 && i < to || by < 0 && i > to; i += by {
		if err := b.add(t.slice(offsets[i], offsets[i+1])); err != nil {
			return nil, err
		}
	}
	return b.text(), nil
}

// place cuts the bounds of a slice to n elements, by Python's rules.
func place(n int, bounds [3]*int) (from, to, by int, err error) {
	by = 1
	if bounds[2] != nil {
		by = *bounds[2]
	}
	if by == 0 {
		return 0, 0, 0, errors.New("slice step cannot be zero")
	}
	low, high := 0, n // where a bound is cut
	from, to = 0, n
	if by < 0 {
		low, high = -1, n-1
		from, to = n-1, -1
	}
	cut := func(b *int, otherwise int) int {
		if b == nil {
			return otherwise
		}
		at := *b
		if at < 0 {
			at += n
		}
		return min(max(at, low), high)
	}
	from, to = cut(bounds[0], from), cut(bounds[1], to)
	by = min(max(by, -n-1), n+1) // so that a huge step does not overflow
	if by == 1 {
		to = max(from, to)
	}
	return from, to, by, nil
}
