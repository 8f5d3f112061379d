package jinja

import "fmt"

// Value is what an expression yields: None, Bool, Int, Float, Text, *List, *Dict, or what only templates make. Values do not change, but
// for namespaces and the state of loops, and so there are no circles but through a namespace.
type Value interface{ typeName() string } // Python's name of the type, for messages

// None is Python's None, and JSON's null.
type None struct{}

// Bool is a truth value.
type Bool bool

// Int is an integer. Unlike Python's it has an end: what does not fit is an error.
type Int int64

// Float is a number that is no integer.
type Float float64

// List is a list, or a tuple, which differs by how it is printed.
type List struct {
	Items []Value
	tuple bool
	group bool // a tuple of groupby, whose elements have names: grouper and list
}

// NewList makes a list.
func NewList(items ...Value) *List { return &List{Items: items} }

// Dict is a dictionary: keys in the order in which they were put.
type Dict struct {
	keys   []Value
	values []Value
	at     map[any]int // hash of a key → index
}

// NewDict makes an empty dictionary.
func NewDict() *Dict { return &Dict{at: map[any]int{}} }

// Set puts a value, behind the others where the key is new. It is for those who make a dictionary; a template cannot.
func (d *Dict) Set(key string, v Value) { d.Put(Trusted(key), v) }

// Put is Set for a key that may be content: it is printed as what it is.
func (d *Dict) Put(key Text, v Value) { _ = d.put(key, v) } // a text can be a key

// Get returns the value of a key.
func (d *Dict) Get(key string) (Value, bool) {
	v, ok, _ := d.find(Text{S: key})
	return v, ok
}

// Len is the number of keys.
func (d *Dict) Len() int { return len(d.keys) }

// All yields keys and values in order.
func (d *Dict) All(yield func(key, value Value) bool) {
	for i, key := range d.keys {
		if !yield(key, d.values[i]) {
			return
		}
	}
}

func (d *Dict) put(key, v Value) error {
	h, err := hash(key)
	if err != nil {
		return err
	}
	if i, ok := d.at[h]; ok {
		d.values[i] = v
		return nil
	}
	d.at[h] = len(d.keys)
	d.keys, d.values = append(d.keys, key), append(d.values, v)
	return nil
}

func (d *Dict) find(key Value) (Value, bool, error) {
	h, err := hash(key)
	if err != nil {
		return nil, false, err
	}
	i, ok := d.at[h]
	if !ok {
		return nil, false, nil
	}
	return d.values[i], true, nil
}

// hash maps keys that are equal to equal Go values: 1, 1.0 and True are one key.
func hash(key Value) (any, error) {
	switch k := key.(type) {
	case Text:
		return k.S, nil
	case Bool:
		return toInt(k), nil
	case Int:
		return k, nil
	case Float:
		if i := Int(k); Float(i) == k {
			return i, nil
		}
		return k, nil
	case None:
		return k, nil
	case *List:
		if k.tuple {
			return tupleHash(k)
		}
	case *undefined:
		return undefined{}, nil
	}
	return nil, fmt.Errorf("unhashable type: '%s'", key.typeName())
}

// tupleHash is for keys such as (1, "a").
func tupleHash(k *List) (any, error) {
	parts := fmt.Sprint(len(k.Items))
	for _, item := range k.Items {
		h, err := hash(item)
		if err != nil {
			return nil, err
		}
		parts += fmt.Sprintf("|%T%q", h, fmt.Sprint(h))
	}
	return [1]string{parts}, nil
}

// undefined stands for what is not there. It is printed as nothing; most else that is done with it is an error.
type undefined struct{ says string }

func (u *undefined) fail() error { return fmt.Errorf("%s", u.says) }

func undefinedName(name string) *undefined {
	return &undefined{says: fmt.Sprintf("'%s' is undefined", name)}
}

// namespace is the one value that a template can change.
type namespace struct{ attributes *Dict }

// function is a macro, a method or a function of ours.
type function struct {
	name string
	call func(r *renderer, a arguments) (Value, error)
}

// arguments of a call.
type arguments struct {
	positional []Value
	keywords   *Dict // nil for none
}

func (None) typeName() string  { return "NoneType" }
func (Bool) typeName() string  { return "bool" }
func (Int) typeName() string   { return "int" }
func (Float) typeName() string { return "float" }
func (Text) typeName() string  { return "str" }
func (*Dict) typeName() string { return "dict" }
func (l *List) typeName() string {
	if l.tuple {
		return "tuple"
	}
	return "list"
}
func (*undefined) typeName() string { return "Undefined" }
func (*namespace) typeName() string { return "Namespace" }
func (*function) typeName() string  { return "function" }
func (*loop) typeName() string      { return "LoopContext" }

// truth is Python's bool().
func truth(v Value) (bool, error) {
	switch v := v.(type) {
	case None:
		return false, nil
	case *undefined:
		return false, nil
	case Bool:
		return bool(v), nil
	case Int:
		return v != 0, nil
	case Float:
		return v != 0, nil
	case Text:
		return v.S != "", nil
	case *List:
		return len(v.Items) > 0, nil
	case *Dict:
		return v.Len() > 0, nil
	}
	return true, nil
}

func toInt(b Bool) Int {
	if b {
		return 1
	}
	return 0
}
