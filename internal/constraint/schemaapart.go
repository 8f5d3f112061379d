package constraint

import (
	"fmt"
	"slices"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

// oneOf wants a value that exactly one schema accepts. A grammar cannot subtract, so the alternatives must be apart of themselves: no value
// that is written by one of them may be accepted by another. What is written is less than what is accepted: an object, for one, has no
// properties that its schema does not name or allow by additionalProperties.

// maxApartDepth is how deep into values the difference between alternatives is looked for.
const maxApartDepth = 4

// checkTaken refuses branches whose values an alternative might accept that was not taken.
func (w *schemaWriter) checkTaken(branches []branch) error {
	for _, b := range branches {
		for _, taken := range b.taken {
			for i, other := range taken.node.oneOf {
				if i == taken.index {
					continue
				}
				apart, err := w.apartFrom(b, []*schemaNode{other}, maxApartDepth)
				if err != nil {
					return err
				}
				if !apart {
					return &SchemaError{below(taken.node.pointer, "oneOf"), fmt.Sprintf("alternatives %d and %d", taken.index, i),
						"may both accept a value, which a grammar cannot rule out: " +
							"let them differ in a required property's const or in type, or use anyOf"}
				}
			}
		}
	}
	return nil
}

// apartFrom is whether no value that b writes is accepted by all nodes. False where that is not seen.
func (w *schemaWriter) apartFrom(b branch, nodes []*schemaNode, depth int) (bool, error) {
	others, err := w.branches(nodes)
	if err != nil {
		return false, err
	}
	for _, other := range others {
		if apart, err := w.branchesApart(b, other, depth); !apart || err != nil {
			return false, err
		}
	}
	return true, nil
}

// setsApart is apartFrom for every value that nodes write.
func (w *schemaWriter) setsApart(nodes, others []*schemaNode, depth int) (bool, error) {
	if depth == 0 || len(others) == 0 {
		return false, nil
	}
	branches, err := w.branches(nodes)
	if err != nil {
		return false, err
	}
	for _, b := range branches {
		if apart, err := w.apartFrom(b, others, depth); !apart || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (w *schemaWriter) branchesApart(b, other branch, depth int) (bool, error) {
	if err := w.work(w.anyNode(b, other), 1+len(b.nodes)+len(other.nodes)); err != nil {
		return false, err
	}
	common := b.types & other.types
	// Where one of them lists its values, the other is asked about each.
	for _, pair := range [][2]branch{{b, other}, {other, b}} {
		values, ok, err := w.enum(pair[0])
		if err != nil {
			return false, err
		}
		if ok {
			return w.noneHolds(pair[1], values)
		}
	}
	for k := strictjson.Null; k <= strictjson.Object; k++ {
		if !common.has(k) {
			continue
		}
		if apart, err := w.typesApart(k, b.of(k), other.of(k), depth); !apart || err != nil {
			return false, err
		}
	}
	return true, nil
}

// anyNode is one to name in an error.
func (w *schemaWriter) anyNode(of ...branch) *schemaNode {
	for _, b := range of {
		if len(b.nodes) > 0 {
			return b.nodes[0]
		}
	}
	return newSchemaNode("", 0)
}

func (w *schemaWriter) noneHolds(b branch, values []strictjson.Value) (bool, error) {
	for _, v := range values {
		holds := b.types.has(v.Kind)
		for _, n := range b.nodes {
			if !holds {
				break
			}
			var err error
			if holds, err = w.holdsAlone(n, v); err != nil {
				return false, err
			}
		}
		if holds {
			return false, nil
		}
	}
	return true, nil
}

func (w *schemaWriter) typesApart(k strictjson.Kind, nodes, others []*schemaNode, depth int) (bool, error) {
	switch k {
	case strictjson.Number:
		return joinedNumbers(nodes).apart(joinedNumbers(others)), nil
	case strictjson.String:
		return countsApart(nodes, others, textLengths), nil
	case strictjson.Array:
		if countsApart(nodes, others, itemCounts) {
			return true, nil
		}
		return w.itemsApart(nodes, others, depth)
	case strictjson.Object:
		return w.propertiesApart(nodes, others, depth)
	}
	return false, nil
}

func countsApart(nodes, others []*schemaNode, of func(*schemaNode) (int, int)) bool {
	least, most := joinedCounts(nodes, of)
	otherLeast, otherMost := joinedCounts(others, of)
	return most >= 0 && most < otherLeast || otherMost >= 0 && otherMost < least
}

// itemsApart looks for an item that is there in any case and cannot be of both.
func (w *schemaWriter) itemsApart(nodes, others []*schemaNode, depth int) (bool, error) {
	const maxLooked = 16
	least, _ := joinedCounts(nodes, itemCounts)
	otherLeast, _ := joinedCounts(others, itemCounts)
	for i := range min(max(least, otherLeast), maxLooked) {
		if apart, err := w.setsApart(itemsAt(nodes, i), itemsAt(others, i), depth-1); apart || err != nil {
			return apart, err
		}
	}
	return false, nil
}

// itemsAt is what the nodes say about the item at i.
func itemsAt(nodes []*schemaNode, i int) []*schemaNode {
	var at []*schemaNode
	for _, n := range nodes {
		if node := n.item(i); node != nil && !slices.Contains(at, node) {
			at = append(at, node)
		}
	}
	return at
}

// propertiesApart looks for a property that one of them requires and that the other cannot have, or not with such a value.
func (w *schemaWriter) propertiesApart(nodes, others []*schemaNode, depth int) (bool, error) {
	for _, n := range others {
		for _, name := range n.required {
			if !mayWrite(nodes, name) {
				return true, nil
			}
		}
	}
	// Values that are listed are quick to compare, and what alternatives are meant to differ in; others may hold alternatives themselves.
	for _, listed := range []bool{true, false} {
		for _, n := range append(slices.Clone(nodes), others...) {
			for _, name := range n.required {
				here, err := w.propertyNodes(nodes, name)
				if err != nil {
					return false, err
				}
				there, err := w.propertyNodes(others, name)
				if err != nil {
					return false, err
				}
				if slices.ContainsFunc(here, listsValues) != listed {
					continue
				}
				if apart, err := w.setsApart(here, there, depth-1); apart || err != nil {
					return apart, err
				}
			}
		}
	}
	return false, nil
}

func listsValues(n *schemaNode) bool { return n.hasEnum }

// mayWrite is whether an object of the nodes may have a property of that name.
func mayWrite(nodes []*schemaNode, name string) bool {
	closed := false
	for _, n := range nodes {
		if n.byName[name] != nil || slices.Contains(n.required, name) || n.patternProperties != nil ||
			n.additional != nil && n.additional.types != 0 {
			return true
		}
		closed = closed || n.hasProperties || n.additional != nil
	}
	return !closed
}

// propertyNodes is what the nodes say about the property of that name.
func (w *schemaWriter) propertyNodes(nodes []*schemaNode, name string) ([]*schemaNode, error) {
	var at []*schemaNode
	for _, n := range nodes {
		here, err := w.member(n, name)
		if err != nil {
			return nil, err
		}
		for _, node := range here {
			if !slices.Contains(at, node) {
				at = append(at, node)
			}
		}
	}
	return at, nil
}
