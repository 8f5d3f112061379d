package constraint

import (
	"fmt"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

// Limits of a schema. What is beyond them is refused before any work that grows with it.
const (
	MaxSchemaBytes = 256 << 10
	MaxProperties  = 1_000 // of one object, by name
	MaxEnumValues  = 5_000 // of one enum
	MaxSubschemas  = 1_000 // of one anyOf, oneOf, allOf or prefixItems
	MaxJoined      = 64    // schemas that apply to one value at once, by $ref, allOf, anyOf and oneOf
	MaxBranches    = 1_000 // kinds of value that one place may hold
	// MaxCount bounds lengths and numbers of items and properties: a lower bound beyond it is refused, an upper one is held as this.
	MaxCount = 10_000

	maxSchemaSteps = 1 << 20 // of work, whatever the schema says
)

// SchemaError says what of a schema cannot be held.
type SchemaError struct {
	Pointer string // JSON pointer to the keyword or schema; empty: the whole
	Value   string // what stands there, shortened; empty where it is the text itself that is at fault
	Want    string // what is wanted instead, or why it cannot be held
}

func (e *SchemaError) Error() string {
	if e.Value == "" {
		return fmt.Sprintf("schema at %q: %s", e.Pointer, e.Want)
	}
	return fmt.Sprintf("schema at %q: %s: %s", e.Pointer, e.Value, e.Want)
}

// FromSchema makes a grammar of a JSON schema (draft 2020-12, and of earlier drafts what reads the same). Every text of the grammar is JSON
// that the schema accepts; not every JSON that it accepts is a text of the grammar, since a model is to write one spelling, not all:
// properties come in the schema's order, numbers and white space are of bounded length. What cannot be held is refused with a *SchemaError
// that names it, never ignored: annotations are, and nothing else.
func FromSchema(schema string) (*Grammar, error) {
	if len(schema) > MaxSchemaBytes {
		return nil, &SchemaError{Value: fmt.Sprintf("%d bytes", len(schema)), Want: fmt.Sprintf("want at most %d", MaxSchemaBytes)}
	}
	root, err := strictjson.Parse([]byte(schema))
	if err != nil {
		return nil, &SchemaError{Want: "not JSON: " + err.Error()}
	}
	p := schemaParser{root: root, byPointer: map[string]*schemaNode{}}
	node, err := p.parseAll()
	if err != nil {
		return nil, err
	}
	w := newSchemaWriter()
	g, err := w.grammar(node)
	if err != nil {
		return nil, err
	}
	if g == nil {
		return nil, &SchemaError{Value: root.String(), Want: "accepts no value that can be written to its end"}
	}
	return g, nil
}

// JSONObject is any JSON object.
func JSONObject() *Grammar {
	g, err := newSchemaWriter().grammar(&schemaNode{types: types(strictjson.Object)})
	if err != nil || g == nil {
		panic(fmt.Sprintf("constraint: the grammar of any object: %v", err))
	}
	return g
}
