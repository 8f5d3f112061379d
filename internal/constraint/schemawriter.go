package constraint

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

// schemaWriter writes the rules of a grammar: one for each set of schemas that a value must satisfy, and for each type that it may have.
type schemaWriter struct {
	rules map[string]Expr
	named map[string]Rule // by what the rule is for
	todo  []func() error  // rules that are named, but not written
	steps int
}

func newSchemaWriter() *schemaWriter {
	return &schemaWriter{rules: jsonRules(), named: map[string]Rule{}}
}

// grammar is that of root's values; nil if there are none.
func (w *schemaWriter) grammar(root *schemaNode) (*Grammar, error) {
	start := w.value([]*schemaNode{root})
	for len(w.todo) > 0 {
		next := w.todo[0]
		w.todo = w.todo[1:]
		if err := next(); err != nil {
			return nil, err
		}
		if len(w.rules) > maxRules {
			return nil, &SchemaError{Pointer: root.pointer, Want: fmt.Sprintf("needs more than %d rules", maxRules)}
		}
	}
	return prune(&Grammar{w.rules, string(start)}), nil
}

// rule is that for the nodes in the role, which write writes.
func (w *schemaWriter) rule(role string, nodes []*schemaNode, write func(name string) (Expr, error)) Rule {
	var key strings.Builder
	key.WriteString(role)
	for _, n := range nodes {
		key.WriteByte(' ')
		key.WriteString(strconv.Itoa(n.id))
	}
	if r, ok := w.named[key.String()]; ok {
		return r
	}
	name := "any " + shortened(role)
	if len(nodes) > 0 {
		name = fmt.Sprintf("%s of #%s", role, nodes[0].pointer)
	}
	if len(nodes) > 1 {
		name += fmt.Sprintf(" and %d more", len(nodes)-1)
	}
	if _, taken := w.rules[name]; taken {
		name += fmt.Sprintf(" (%d)", len(w.named))
	}
	w.rules[name] = never // until it is written
	w.named[key.String()] = Rule(name)
	w.todo = append(w.todo, func() (err error) {
		w.rules[name], err = write(name)
		return err
	})
	return Rule(name)
}

// value is any value that satisfies the nodes.
func (w *schemaWriter) value(nodes []*schemaNode) Rule {
	nodes = withoutDetours(nodes)
	return w.rule("value", nodes, func(string) (Expr, error) { return w.writeValue(nodes) })
}

// withoutDetours has what is referred to in place of what only refers, so that all references to a schema are to one rule.
func withoutDetours(nodes []*schemaNode) []*schemaNode {
	var direct []*schemaNode
	for _, n := range nodes {
		for n.ref != nil && n.touches == 0 && n.types == allTypes && n.allOf == nil && n.anyOf == nil && n.oneOf == nil {
			n = n.ref
		}
		if !slices.Contains(direct, n) {
			direct = append(direct, n)
		}
	}
	return direct
}

func (w *schemaWriter) writeValue(nodes []*schemaNode) (Expr, error) {
	branches, err := w.branches(nodes)
	if err != nil {
		return nil, err
	}
	if err := w.checkTaken(branches); err != nil {
		return nil, err
	}
	forms := Choice{}
	written := map[Rule]bool{} // branches may agree in what they say of a type
	add := func(r Rule) {
		if !written[r] {
			written[r] = true
			forms = append(forms, r)
		}
	}
	for _, b := range branches {
		values, ok, err := w.enum(b)
		if err != nil {
			return nil, err
		}
		if ok {
			for _, v := range values {
				forms = append(forms, jsonLiteral(v))
			}
			continue
		}
		for k := strictjson.Null; k <= strictjson.Object; k++ {
			if b.types.has(k) {
				add(w.typed(k, b.of(k)))
			}
		}
	}
	return forms, nil
}

// typed is the values of one type that satisfy the nodes.
func (w *schemaWriter) typed(k strictjson.Kind, nodes []*schemaNode) Rule {
	switch k {
	case strictjson.Number:
		return w.rule("number", nodes, func(string) (Expr, error) { return joinedNumbers(nodes).expr(), nil })
	case strictjson.String:
		if len(nodes) == 0 {
			return Rule(ruleString)
		}
		return w.rule("string", nodes, func(string) (Expr, error) { return w.writeString(nodes) })
	case strictjson.Array:
		return w.rule("array", nodes, func(name string) (Expr, error) { return w.writeArray(name, nodes) })
	case strictjson.Object:
		return w.rule("object", nodes, func(name string) (Expr, error) { return w.writeObject(name, nodes) })
	case strictjson.Bool:
		return w.rule("boolean", nil, func(string) (Expr, error) { return Choice{Text("true"), Text("false")}, nil })
	}
	return w.rule("null", nil, func(string) (Expr, error) { return Text("null"), nil })
}

// joinedNumbers are those that all nodes accept.
func joinedNumbers(nodes []*schemaNode) *numbers {
	all := &numbers{}
	for _, n := range nodes {
		if n.numbers.low != nil {
			all.above(*n.numbers.low, n.numbers.lowOpen)
		}
		if n.numbers.high != nil {
			all.below(*n.numbers.high, n.numbers.highOpen)
		}
		all.integer = all.integer || n.numbers.integer
		if s := n.numbers.step; s != nil && (all.step == nil || *s > *all.step) {
			all.step = s // of powers of ten, the greater is a multiple of the other
		}
	}
	return all
}

// joinedCounts are the bounds that all nodes accept; a greatest below 0: none.
func joinedCounts(nodes []*schemaNode, of func(n *schemaNode) (least, most int)) (least, most int) {
	most = -1
	for _, n := range nodes {
		l, m := of(n)
		least = max(least, l)
		if m >= 0 && (most < 0 || m < most) {
			most = m
		}
	}
	return least, most
}

func textLengths(n *schemaNode) (least, most int)    { return n.minLength, n.maxLength }
func itemCounts(n *schemaNode) (least, most int)     { return n.minItems, n.maxItems }
func propertyCounts(n *schemaNode) (least, most int) { return n.minProperties, n.maxProperties }

// writeArray writes an array item by item as far as prefixItems goes, and the others, which are all alike, as a repetition.
func (w *schemaWriter) writeArray(name string, nodes []*schemaNode) (Expr, error) {
	least, most := joinedCounts(nodes, itemCounts)
	if most >= 0 && least > most {
		return never, nil
	}
	listed := 0
	for _, n := range nodes {
		listed = max(listed, len(n.prefix))
	}
	item := func(i int) Rule { return w.value(itemsAt(nodes, i)) }
	if most == 0 {
		return Text("[]"), nil
	}
	after := func(i int) Rule { return Rule(fmt.Sprintf("%s after %d", name, i)) }
	for i := 1; i <= listed; i++ {
		var rest Expr
		more := Sequence{Text(","), Rule(ruleSpace), item(i)}
		switch {
		case i == most:
			rest = Sequence{}
		case i == listed:
			rest = Repeat{more, max(0, least-i), left(most, i)}
		case i >= least:
			rest = optional(Sequence{more, after(i + 1)})
		default:
			rest = Sequence{more, after(i + 1)}
		}
		w.rules[string(after(i))] = rest
		if i == most {
			break
		}
	}
	items := Sequence{item(0)}
	if listed == 0 {
		items = append(items, Repeat{Sequence{Text(","), Rule(ruleSpace), item(1)}, max(0, least-1), left(most, 1)})
	} else {
		items = append(items, after(1))
	}
	return bracketed("[", items, "]", least == 0), nil
}

// left is how many more there may be after n of at most most; −1: any number.
func left(most, n int) int {
	if most < 0 {
		return -1
	}
	return most - n
}

// bracketed is what stands between brackets, or nothing there if it may be empty.
func bracketed(opening string, what Expr, closing string, mayBeEmpty bool) Expr {
	full := Sequence{what, Rule(ruleSpace), Text(closing)}
	if mayBeEmpty {
		return Sequence{Text(opening), Rule(ruleSpace), Choice{Text(closing), full}}
	}
	return Sequence{Text(opening), Rule(ruleSpace), full}
}
