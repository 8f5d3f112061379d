package constraint

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

// holds is whether the schema accepts a value that is listed somewhere.
func (w *schemaWriter) holds(n *schemaNode, v strictjson.Value) (bool, error) {
	if ok, err := w.holdsAlone(n, v); !ok || err != nil {
		return false, err
	}
	if n.ref != nil {
		if ok, err := w.holds(n.ref, v); !ok || err != nil {
			return false, err
		}
	}
	for _, part := range n.allOf {
		if ok, err := w.holds(part, v); !ok || err != nil {
			return false, err
		}
	}
	if n.anyOf != nil {
		if count, err := w.countHolding(n.anyOf, v); count == 0 || err != nil {
			return false, err
		}
	}
	if n.oneOf != nil {
		if count, err := w.countHolding(n.oneOf, v); count != 1 || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (w *schemaWriter) countHolding(nodes []*schemaNode, v strictjson.Value) (count int, err error) {
	for _, n := range nodes {
		ok, err := w.holds(n, v)
		if err != nil {
			return 0, err
		}
		if ok {
			count++
		}
	}
	return count, nil
}

// holdsAlone looks at n's own keywords, not at what $ref, allOf, anyOf and oneOf apply to the same value.
func (w *schemaWriter) holdsAlone(n *schemaNode, v strictjson.Value) (bool, error) {
	if err := w.step(n); err != nil {
		return false, err
	}
	if !n.types.has(v.Kind) {
		return false, nil
	}
	if n.hasEnum && !n.enumKeys[canonical(v)] {
		return false, nil
	}
	switch v.Kind {
	case strictjson.Number:
		d, err := parseDecimal(v.Text)
		return err == nil && n.numbers.holds(d), nil
	case strictjson.String:
		return w.holdsText(n, v.Text)
	case strictjson.Array:
		return w.holdsItems(n, v.Items)
	case strictjson.Object:
		return w.holdsMembers(n, v.Members)
	}
	return true, nil
}

func (w *schemaWriter) holdsText(n *schemaNode, s string) (bool, error) {
	if length := utf8.RuneCountInString(s); length < n.minLength || n.maxLength >= 0 && length > n.maxLength {
		return false, nil
	}
	for _, p := range n.patterns {
		if ok, err := w.matches(n, p, s); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// matches counts what it may cost.
func (w *schemaWriter) matches(n *schemaNode, p *textPattern, s string) (bool, error) {
	const perStep = 256 // states of the pattern's machine times characters
	if err := w.work(n, 1+len(s)*p.size/perStep); err != nil {
		return false, err
	}
	re, err := p.regexp()
	if err != nil {
		return false, &SchemaError{p.pointer, strconv.Quote(shortened(p.source)), err.Error()}
	}
	return re.MatchString(s), nil
}

func (w *schemaWriter) holdsItems(n *schemaNode, items []strictjson.Value) (bool, error) {
	if len(items) < n.minItems || n.maxItems >= 0 && len(items) > n.maxItems {
		return false, nil
	}
	for i, item := range items {
		at := n.item(i)
		if at == nil {
			continue
		}
		if ok, err := w.holds(at, item); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// item is what n says about the item at i; nil: nothing.
func (n *schemaNode) item(i int) *schemaNode {
	if i < len(n.prefix) {
		return n.prefix[i]
	}
	return n.items
}

func (w *schemaWriter) holdsMembers(n *schemaNode, members []strictjson.Member) (bool, error) {
	if len(members) < n.minProperties || n.maxProperties >= 0 && len(members) > n.maxProperties {
		return false, nil
	}
	names := make(map[string]bool, len(members))
	for _, m := range members {
		names[m.Key] = true
	}
	for _, name := range n.required {
		if !names[name] {
			return false, nil
		}
	}
	for _, m := range members {
		nodes, err := w.member(n, m.Key)
		if err != nil {
			return false, err
		}
		for _, at := range nodes {
			if ok, err := w.holds(at, m.Value); !ok || err != nil {
				return false, err
			}
		}
		if n.propertyNames != nil {
			if ok, err := w.holds(n.propertyNames, strictjson.Value{Kind: strictjson.String, Text: m.Key}); !ok || err != nil {
				return false, err
			}
		}
	}
	return true, nil
}

// member is what n says about the property of that name.
func (w *schemaWriter) member(n *schemaNode, name string) ([]*schemaNode, error) {
	var nodes []*schemaNode
	if node := n.byName[name]; node != nil {
		nodes = append(nodes, node)
	}
	for _, p := range n.patternProperties {
		ok, err := w.matches(n, p.pattern, name)
		if err != nil {
			return nil, err
		}
		if ok {
			nodes = append(nodes, p.node)
		}
	}
	if nodes == nil && n.additional != nil {
		nodes = append(nodes, n.additional)
	}
	return nodes, nil
}

// canonical is the same for values that JSON Schema calls equal: numbers by value, objects without regard to order.
func canonical(v strictjson.Value) string {
	var b strings.Builder
	writeCanonical(&b, v)
	return b.String()
}

func writeCanonical(b *strings.Builder, v strictjson.Value) {
	switch v.Kind {
	case strictjson.Number:
		d, _ := parseDecimal(v.Text) // what is not read was refused before
		fmt.Fprintf(b, "%t%se%d", d.negative, d.digits, d.exp)
	case strictjson.String:
		b.WriteString(quoted(v.Text))
	case strictjson.Array:
		b.WriteByte('[')
		for _, item := range v.Items {
			writeCanonical(b, item)
			b.WriteByte(',')
		}
		b.WriteByte(']')
	case strictjson.Object:
		members := slices.SortedFunc(slices.Values(v.Members), func(a, b strictjson.Member) int { return strings.Compare(a.Key, b.Key) })
		b.WriteByte('{')
		for _, m := range members {
			b.WriteString(quoted(m.Key))
			b.WriteByte(':')
			writeCanonical(b, m.Value)
			b.WriteByte(',')
		}
		b.WriteByte('}')
	default:
		b.WriteString(v.Text)
	}
}
