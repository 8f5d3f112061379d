package constraint

import (
	"regexp"
	"regexp/syntax"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

// typeSet is a set of JSON's types, a bit each.
type typeSet uint8

const allTypes = typeSet(1<<(strictjson.Object+1) - 1<<strictjson.Null)

func types(kinds ...strictjson.Kind) (s typeSet) {
	for _, k := range kinds {
		s |= 1 << k
	}
	return s
}

func (s typeSet) has(k strictjson.Kind) bool { return s&(1<<k) != 0 }

// schemaNode is one schema, its keywords checked. What is absent has its zero value, or −1 where that means something.
type schemaNode struct {
	pointer string
	id      int // order of parsing

	types   typeSet // that it accepts, by type; none for false
	touches typeSet // of whose values it says more than that

	ref                 *schemaNode
	allOf, anyOf, oneOf []*schemaNode

	enum     []strictjson.Value // of enum or const, each once
	enumKeys map[string]bool    // their canonical texts
	hasEnum  bool

	numbers numbers

	minLength, maxLength int
	patterns             []*textPattern // of pattern and format

	prefix             []*schemaNode
	items              *schemaNode
	minItems, maxItems int

	hasProperties                bool
	properties                   []schemaProperty
	byName                       map[string]*schemaNode
	patternProperties            []patternProperty
	additional, propertyNames    *schemaNode
	required                     []string
	minProperties, maxProperties int
}

// newSchemaNode is the schema that accepts everything.
func newSchemaNode(pointer string, id int) *schemaNode {
	return &schemaNode{
		pointer: pointer, id: id, types: allTypes, maxLength: -1, maxItems: -1, maxProperties: -1, byName: map[string]*schemaNode{},
	}
}

type schemaProperty struct {
	name string
	node *schemaNode
}

type patternProperty struct {
	pattern *textPattern
	node    *schemaNode
}

// textPattern is what a string must be: a pattern or a format.
type textPattern struct {
	pointer string // to the keyword
	source  string // as it stands there
	whole   *syntax.Regexp
	size    int                            // of its machine
	regexp  func() (*regexp.Regexp, error) // whole, compiled when it is first needed
}

// inPlace are the schemas that apply to the same value as n does, besides it.
func (n *schemaNode) inPlace() []*schemaNode {
	var nodes []*schemaNode
	if n.ref != nil {
		nodes = append(nodes, n.ref)
	}
	nodes = append(nodes, n.allOf...)
	nodes = append(nodes, n.anyOf...)
	return append(nodes, n.oneOf...)
}
