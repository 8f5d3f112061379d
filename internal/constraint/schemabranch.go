package constraint

import (
	"fmt"
	"slices"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

// A value must satisfy a set of schemas at once: one, and all that $ref and allOf add to it. Where anyOf leaves a choice, it falls into
// branches, in each of which the set is fixed. Sets are finite, as schemas are, so that recursive schemas become recursive rules.

// branch is one way to satisfy a set of schemas.
type branch struct {
	types typeSet
	nodes []*schemaNode // all that apply, by keywords of their own alone
	taken []alternative // of each oneOf among them
}

// alternative is one of a node's oneOf.
type alternative struct {
	node  *schemaNode
	index int
}

// of are the nodes that say something about values of that type, in order.
func (b branch) of(k strictjson.Kind) []*schemaNode {
	var nodes []*schemaNode
	for _, n := range b.nodes {
		if n.touches.has(k) {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// enum is the values of the first node that lists some, less those that others refuse.
func (w *schemaWriter) enum(b branch) (values []strictjson.Value, ok bool, err error) {
	at := slices.IndexFunc(b.nodes, func(n *schemaNode) bool { return n.hasEnum })
	if at < 0 {
		return nil, false, nil
	}
	for _, v := range b.nodes[at].enum {
		holds := b.types.has(v.Kind)
		for _, n := range b.nodes {
			if !holds {
				break
			}
			if holds, err = w.holdsAlone(n, v); err != nil {
				return nil, true, err
			}
		}
		if holds {
			values = append(values, v)
		}
	}
	return values, true, nil
}

// branches are all ways to satisfy the nodes at once.
func (w *schemaWriter) branches(nodes []*schemaNode) ([]branch, error) {
	all := []branch{{types: allTypes}}
	for _, n := range nodes {
		var err error
		if all, err = w.join(all, n); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// join adds a schema to each branch.
func (w *schemaWriter) join(to []branch, n *schemaNode) ([]branch, error) {
	var joined []branch
	for _, b := range to {
		if err := w.step(n); err != nil {
			return nil, err
		}
		if slices.Contains(b.nodes, n) {
			joined = append(joined, b)
			continue
		}
		if len(b.nodes) == MaxJoined {
			return nil, &SchemaError{Pointer: n.pointer, Want: fmt.Sprintf("more than %d schemas apply to one value", MaxJoined)}
		}
		with := branch{b.types & n.types, append(slices.Clone(b.nodes), n), b.taken}
		if with.types == 0 {
			continue
		}
		ways, err := w.joinParts([]branch{with}, n)
		if err != nil {
			return nil, err
		}
		if joined = append(joined, ways...); len(joined) > MaxBranches {
			return nil, &SchemaError{Pointer: n.pointer, Want: fmt.Sprintf("more than %d combinations of alternatives", MaxBranches)}
		}
	}
	return joined, nil
}

// joinParts adds what n applies besides its own keywords.
func (w *schemaWriter) joinParts(to []branch, n *schemaNode) (_ []branch, err error) {
	if n.ref != nil {
		if to, err = w.join(to, n.ref); err != nil {
			return nil, err
		}
	}
	for _, part := range n.allOf {
		if to, err = w.join(to, part); err != nil {
			return nil, err
		}
	}
	if n.anyOf != nil {
		if to, err = w.joinEither(to, n.anyOf, func(b branch, _ int) branch { return b }); err != nil {
			return nil, err
		}
	}
	if n.oneOf != nil {
		to, err = w.joinEither(to, n.oneOf, func(b branch, i int) branch {
			b.taken = append(slices.Clone(b.taken), alternative{n, i})
			return b
		})
	}
	return to, err
}

func (w *schemaWriter) joinEither(to []branch, nodes []*schemaNode, take func(b branch, i int) branch) ([]branch, error) {
	var joined []branch
	for i, n := range nodes {
		ways, err := w.join(to, n)
		if err != nil {
			return nil, err
		}
		for _, way := range ways {
			joined = append(joined, take(way, i))
		}
		if len(joined) > MaxBranches {
			return nil, &SchemaError{Pointer: n.pointer, Want: fmt.Sprintf("more than %d combinations of alternatives", MaxBranches)}
		}
	}
	return joined, nil
}

// step counts work, which hostile schemas could ask for without end.
func (w *schemaWriter) step(n *schemaNode) error { return w.work(n, 1) }

func (w *schemaWriter) work(n *schemaNode, steps int) error {
	if w.steps += steps; w.steps > maxSchemaSteps {
		return &SchemaError{Pointer: n.pointer, Want: "the schema's combinations are too many to work out"}
	}
	return nil
}
