package constraint

import (
	"fmt"
	"slices"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

// object is what an object may hold: the properties that are named, in the schema's order, and behind them others whose names are open.
type object struct {
	name        string // of its rule
	pointer     string // to the first of its schemas
	members     []objectMember
	others      []Expr // each a key, a colon and a value; none: there are no others
	least, most int    // properties in all; most −1: any number
}

type objectMember struct {
	expr     Expr // key, colon, value
	required bool
}

func (w *schemaWriter) writeObject(name string, nodes []*schemaNode) (Expr, error) {
	o := object{name: name}
	if len(nodes) > 0 {
		o.pointer = nodes[0].pointer
	}
	o.least, o.most = joinedCounts(nodes, propertyCounts)
	if o.most >= 0 && o.least > o.most {
		return never, nil
	}
	names, err := w.propertyNames(nodes)
	if err != nil {
		return nil, err
	}
	known := knownNames(nodes)
	for _, listed := range names.values {
		if !slices.Contains(known, listed) {
			known = append(known, listed)
		}
	}
	if len(known) > MaxProperties {
		return nil, &SchemaError{nodes[0].pointer, fmt.Sprintf("%d properties", len(known)), fmt.Sprintf("want at most %d", MaxProperties)}
	}
	required := map[string]bool{}
	for _, n := range nodes {
		for _, r := range n.required {
			required[r] = true
		}
	}
	open, err := w.openness(nodes)
	if err != nil {
		return nil, err
	}
	for _, key := range known {
		if !required[key] && names.listed && !mayWrite(nodes, key) {
			continue // it is a possible name, but no property may have it
		}
		allowed, err := names.allow(w, key)
		if err != nil {
			return nil, err
		}
		at, err := w.propertyNodes(nodes, key)
		if err != nil {
			return nil, err
		}
		m := objectMember{expr: never, required: required[key]}
		if allowed {
			m.expr = Sequence{Text(quoted(key)), colon, w.value(at)}
		}
		o.members = append(o.members, m)
	}
	if !names.listed {
		if o.others, err = w.otherMembers(name, nodes, open, names.nodes, known); err != nil {
			return nil, err
		}
	}
	if o.least > len(known)+1 && len(o.others) > 0 {
		at := slices.IndexFunc(nodes, func(n *schemaNode) bool { return n.minProperties == o.least })
		return nil, &SchemaError{below(nodes[at].pointer, "minProperties"), fmt.Sprint(o.least),
			"counts properties that are not named, which a grammar cannot tell from each other: want at most one more than are named"}
	}
	return w.writeMembers(o)
}

// knownNames are the properties that nodes name, in the order in which they do.
func knownNames(nodes []*schemaNode) []string {
	var names []string
	seen := map[string]bool{}
	add := func(name string) {
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	for _, n := range nodes {
		for _, p := range n.properties {
			add(p.name)
		}
	}
	for _, n := range nodes {
		for _, name := range n.required {
			add(name)
		}
	}
	return names
}

// possibleNames are the names that propertyNames allows.
type possibleNames struct {
	nodes  []*schemaNode // none: all names
	listed bool
	values []string // those, if listed
}

func (w *schemaWriter) propertyNames(nodes []*schemaNode) (p possibleNames, err error) {
	for _, n := range nodes {
		if n.propertyNames != nil {
			p.nodes = append(p.nodes, n.propertyNames)
		}
	}
	if p.nodes == nil {
		return p, nil
	}
	branches, err := w.branches(p.nodes)
	if err != nil {
		return p, err
	}
	p.listed = true
	for _, b := range branches {
		values, ok, err := w.enum(b)
		if err != nil {
			return p, err
		}
		p.listed = p.listed && (ok || !b.types.has(strictjson.String))
		for _, v := range values {
			if v.Kind == strictjson.String && !slices.Contains(p.values, v.Text) {
				p.values = append(p.values, v.Text)
			}
		}
	}
	return p, nil
}

func (p possibleNames) allow(w *schemaWriter, name string) (bool, error) {
	for _, n := range p.nodes {
		if ok, err := w.holds(n, strictjson.Value{Kind: strictjson.String, Text: name}); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// openness is which names beyond those that are named an object of the nodes may have.
type openness struct {
	patterns []patternProperty // names that match, if there are any
	others   bool              // any other name
}

// openness leaves out what the schema does not speak of where it names properties: it would be accepted, but nobody asks a model for it.
func (w *schemaWriter) openness(nodes []*schemaNode) (o openness, err error) {
	speaks, asks, refuses := false, false, false
	var source *schemaNode
	for _, n := range nodes {
		speaks = speaks || n.hasProperties || n.patternProperties != nil
		if n.patternProperties != nil {
			if source != nil {
				return o, &SchemaError{below(n.pointer, "patternProperties"), "", fmt.Sprintf(
					"cannot be held together with that of %q: want one for one object", source.pointer)}
			}
			source, o.patterns = n, n.patternProperties
		}
	}
	for _, n := range nodes {
		switch {
		case n.additional == nil:
		case n.additional.types == 0:
			refuses = true
			if source != nil && n != source {
				o.patterns = nil
			}
		case source != nil:
			return o, &SchemaError{below(n.pointer, "additionalProperties"), "",
				"want false beside patternProperties: a grammar cannot tell the names that match none of them"}
		default:
			asks = true
		}
	}
	o.others = source == nil && !refuses && (asks || !speaks)
	return o, nil
}
