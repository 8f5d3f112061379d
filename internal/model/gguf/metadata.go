package gguf

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math"
)

// Kind is the type of a value, by the format's number.
type Kind uint32

const (
	Uint8 Kind = iota
	Int8
	Uint16
	Int16
	Uint32
	Int32
	Float32
	Bool
	String
	Array
	Uint64
	Int64
	Float64
)

var kinds = [...]struct {
	name  string
	bytes int // 0: not fixed
}{
	Uint8: {"UINT8", 1}, Int8: {"INT8", 1}, Uint16: {"UINT16", 2}, Int16: {"INT16", 2}, Uint32: {"UINT32", 4}, Int32: {"INT32", 4},
	Float32: {"FLOAT32", 4}, Bool: {"BOOL", 1}, String: {"STRING", 0}, Array: {"ARRAY", 0}, Uint64: {"UINT64", 8}, Int64: {"INT64", 8},
	Float64: {"FLOAT64", 8},
}

// String is the format's name of the type.
func (k Kind) String() string {
	if int64(k) >= int64(len(kinds)) {
		return fmt.Sprintf("Kind(%d)", uint32(k))
	}
	return kinds[k].name
}

// value is where a value lies in the header.
type value struct {
	kind    Kind
	element Kind // of an array
	count   int  // elements of an array
	at, end int  // offsets into Metadata.header: of the number, of a string's text, of an array's elements
}

// Metadata is the key-values of a file. A method returns false where the key is missing or has a value of another kind.
type Metadata struct {
	header []byte
	keys   []string // in the order of the file
	values map[string]value
}

// Keys lists the keys in the order of the file.
func (m *Metadata) Keys() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, k := range m.keys {
			if !yield(k) {
				return
			}
		}
	}
}

// Has says whether the file has the key, with whatever value.
func (m *Metadata) Has(key string) bool {
	_, ok := m.values[key]
	return ok
}

// String is a string. GGUF does not promise UTF-8.
func (m *Metadata) String(key string) (string, bool) {
	v, ok := m.values[key]
	if !ok || v.kind != String {
		return "", false
	}
	return string(m.header[v.at:v.end]), true
}

// Bool is a boolean.
func (m *Metadata) Bool(key string) (val, ok bool) {
	v, ok := m.values[key]
	if !ok || v.kind != Bool {
		return false, false
	}
	return m.header[v.at] == 1, true
}

// Uint is an integer of any type that is not negative.
func (m *Metadata) Uint(key string) (uint64, bool) {
	v, ok := m.values[key]
	if !ok {
		return 0, false
	}
	return v.kind.uint(m.header[v.at:v.end])
}

// Int is an integer of any type that fits.
func (m *Metadata) Int(key string) (int64, bool) {
	v, ok := m.values[key]
	if !ok {
		return 0, false
	}
	n, positive := v.kind.uint(m.header[v.at:v.end])
	return int64(n), positive == (int64(n) >= 0) && v.kind.isInteger()
}

// Float is a number of either floating-point type.
func (m *Metadata) Float(key string) (float64, bool) {
	v, ok := m.values[key]
	switch {
	case ok && v.kind == Float32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(m.header[v.at:]))), true
	case ok && v.kind == Float64:
		return math.Float64frombits(binary.LittleEndian.Uint64(m.header[v.at:])), true
	}
	return 0, false
}

// Strings is an array of strings; they share one allocation.
func (m *Metadata) Strings(key string) ([]string, bool) {
	v, ok := m.array(key, String)
	if !ok {
		return nil, false
	}
	text := string(m.header[v.at:v.end])
	all := make([]string, v.count)
	at := 0
	for i := range all {
		n := int(binary.LittleEndian.Uint64(m.header[v.at+at:]))
		all[i] = text[at+8 : at+8+n]
		at += 8 + n
	}
	return all, true
}

// Ints is an array of INT32, or of UINT32 below 2³¹.
func (m *Metadata) Ints(key string) ([]int32, bool) {
	v, ok := m.array(key, Int32)
	if !ok {
		if v, ok = m.array(key, Uint32); !ok {
			return nil, false
		}
	}
	all := make([]int32, v.count)
	for i := range all {
		all[i] = int32(binary.LittleEndian.Uint32(m.header[v.at+4*i:]))
		if v.element == Uint32 && all[i] < 0 {
			return nil, false
		}
	}
	return all, true
}

// Floats is an array of FLOAT32.
func (m *Metadata) Floats(key string) ([]float32, bool) {
	v, ok := m.array(key, Float32)
	if !ok {
		return nil, false
	}
	all := make([]float32, v.count)
	for i := range all {
		all[i] = math.Float32frombits(binary.LittleEndian.Uint32(m.header[v.at+4*i:]))
	}
	return all, true
}

// Describe is a value for messages: `UINT32 7`, `ARRAY of 3 STRING`; "" for a key that is missing.
func (m *Metadata) Describe(key string) string {
	v, ok := m.values[key]
	if !ok {
		return ""
	}
	switch v.kind {
	case String:
		return fmt.Sprintf("%.100q", m.header[v.at:v.end])
	case Array:
		return fmt.Sprintf("ARRAY of %d %v", v.count, v.element)
	case Bool:
		return fmt.Sprint(m.header[v.at] == 1)
	case Float32, Float64:
		f, _ := m.Float(key)
		return fmt.Sprintf("%v %g", v.kind, f)
	default:
		if n, ok := v.kind.uint(m.header[v.at:v.end]); ok {
			return fmt.Sprintf("%v %d", v.kind, n)
		}
		return fmt.Sprintf("%v below 0", v.kind)
	}
}

func (m *Metadata) array(key string, element Kind) (value, bool) {
	v, ok := m.values[key]
	return v, ok && v.kind == Array && v.element == element
}

// uint decodes an integer of kind k; false for other kinds and for what is negative.
func (k Kind) isInteger() bool {
	switch k {
	case Uint8, Int8, Uint16, Int16, Uint32, Int32, Uint64, Int64:
		return true
	default:
		return false
	}
}

func (k Kind) uint(b []byte) (uint64, bool) {
	var n int64
	switch k {
	case Uint8:
		return uint64(b[0]), true
	case Uint16:
		return uint64(binary.LittleEndian.Uint16(b)), true
	case Uint32:
		return uint64(binary.LittleEndian.Uint32(b)), true
	case Uint64:
		return binary.LittleEndian.Uint64(b), true
	case Int8:
		n = int64(int8(b[0]))
	case Int16:
		n = int64(int16(binary.LittleEndian.Uint16(b)))
	case Int32:
		n = int64(int32(binary.LittleEndian.Uint32(b)))
	case Int64:
		n = int64(binary.LittleEndian.Uint64(b))
	default:
		return 0, false
	}
	return uint64(n), n >= 0
}

// read checks count key-values and notes where they lie.
func (m *Metadata) read(c *cursor, count int) error {
	m.values = make(map[string]value, count)
	for i := range count {
		name, err := c.string(MaxKeyBytes)
		if err != nil {
			return fmt.Errorf("key %d of %d: %w", i+1, count, err)
		}
		if !plain(name) {
			return fmt.Errorf("key %d of %d is %.100q, want 1 to %d printable ASCII characters", i+1, count, name, MaxKeyBytes)
		}
		key := string(name)
		if m.Has(key) {
			return fmt.Errorf("key %.100q occurs twice", key)
		}
		v, err := readValue(c)
		if err != nil {
			return fmt.Errorf("key %.100q: %w", key, err)
		}
		m.keys = append(m.keys, key)
		m.values[key] = v
	}
	m.header = c.data[:c.pos:c.pos]
	return nil
}

func readValue(c *cursor) (v value, err error) {
	number, err := c.uint32()
	if err != nil {
		return value{}, fmt.Errorf("type: %w", err)
	}
	v.kind = Kind(number)
	if int64(v.kind) >= int64(len(kinds)) {
		return value{}, fmt.Errorf("unknown type %d", number)
	}
	if v.kind == Array {
		if err := v.readElements(c); err != nil {
			return value{}, err
		}
		return v, nil
	}
	v.at, v.end, err = readScalar(c, v.kind)
	return v, err
}

func (v *value) readElements(c *cursor) error {
	number, err := c.uint32()
	if err != nil {
		return fmt.Errorf("type of the elements: %w", err)
	}
	v.element = Kind(number)
	if v.element == Array {
		return fmt.Errorf("an array of arrays")
	}
	if int64(v.element) >= int64(len(kinds)) {
		return fmt.Errorf("elements of unknown type %d", number)
	}
	size := kinds[v.element].bytes
	each := size
	if v.element == String {
		each = 8 // its length
	}
	if v.count, err = c.count("elements", MaxArrayElements, uint64(each)); err != nil {
		return err
	}
	v.at = c.pos
	if size > 0 && v.element != Bool {
		_, err = c.bytes(v.count * size)
	} else {
		for i := range v.count {
			if _, _, err = readScalar(c, v.element); err != nil {
				return fmt.Errorf("element %d: %w", i, err)
			}
		}
	}
	v.end = c.pos
	return err
}

// readScalar reads a value that is no array and says where it lies.
func readScalar(c *cursor, k Kind) (at, end int, err error) {
	if k == String {
		s, err := c.string(MaxStringBytes)
		return c.pos - len(s), c.pos, err
	}
	b, err := c.bytes(kinds[k].bytes)
	if err != nil {
		return 0, 0, err
	}
	if k == Bool && b[0] > 1 {
		return 0, 0, fmt.Errorf("a BOOL of %d, want 0 or 1", b[0])
	}
	return c.pos - len(b), c.pos, nil
}
