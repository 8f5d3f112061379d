package constraint

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

// schemaParser turns the JSON of a schema into nodes: the root, what it holds, and what is referred to. Definitions that nothing refers to
// are not looked at.
type schemaParser struct {
	root      strictjson.Value
	byPointer map[string]*schemaNode
	nodes     []*schemaNode // in order of parsing
	refs      []schemaRef   // yet to be resolved
}

// schemaRef is a $ref, of which node is to apply what target names.
type schemaRef struct {
	node   *schemaNode
	at     string // pointer to the keyword
	target string
}

func (p *schemaParser) parseAll() (*schemaNode, error) {
	root, err := p.parse("", p.root)
	if err != nil {
		return nil, err
	}
	for len(p.refs) > 0 {
		ref := p.refs[0]
		p.refs = p.refs[1:]
		if err := p.resolve(ref); err != nil {
			return nil, err
		}
	}
	return root, p.checkCycles()
}

// parse reads the schema v, which stands at pointer. Its depth is that of the JSON, which strictjson bounds.
func (p *schemaParser) parse(pointer string, v strictjson.Value) (*schemaNode, error) {
	if node := p.byPointer[pointer]; node != nil {
		return node, nil
	}
	node := newSchemaNode(pointer, len(p.nodes))
	p.byPointer[pointer] = node
	p.nodes = append(p.nodes, node)
	switch v.Kind {
	case strictjson.Bool:
		if v.Text == "false" {
			node.types = 0
		}
		return node, nil
	case strictjson.Object:
	default:
		return nil, &SchemaError{pointer, v.String(), "want a schema: an object, true or false"}
	}
	for _, m := range v.Members {
		k := keyword{p, node, m.Key, below(pointer, m.Key), m.Value}
		if err := k.read(); err != nil {
			return nil, err
		}
	}
	return node, nil
}

// parseList reads an array of schemas, at least one.
func (p *schemaParser) parseList(pointer string, v strictjson.Value) ([]*schemaNode, error) {
	if v.Kind != strictjson.Array || len(v.Items) == 0 {
		return nil, &SchemaError{pointer, v.String(), "want an array of schemas, at least one"}
	}
	if len(v.Items) > MaxSubschemas {
		return nil, &SchemaError{pointer, fmt.Sprintf("%d schemas", len(v.Items)), fmt.Sprintf("want at most %d", MaxSubschemas)}
	}
	nodes := make([]*schemaNode, len(v.Items))
	for i, item := range v.Items {
		var err error
		if nodes[i], err = p.parse(below(pointer, strconv.Itoa(i)), item); err != nil {
			return nil, err
		}
	}
	return nodes, nil
}

// below is the pointer to a member or item of what is at pointer.
func below(pointer, key string) string {
	return pointer + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}

// resolve gives the node of a $ref what it refers to.
func (p *schemaParser) resolve(ref schemaRef) error {
	quotedTarget := strconv.Quote(ref.target)
	fragment, ok := strings.CutPrefix(ref.target, "#")
	if !ok {
		return &SchemaError{ref.at, quotedTarget, "want a reference into this schema, such as \"#/$defs/name\": nothing else is fetched"}
	}
	fragment, err := url.PathUnescape(fragment)
	if err != nil || fragment != "" && fragment[0] != '/' {
		return &SchemaError{ref.at, quotedTarget, "want \"#\" or \"#/\" and a JSON pointer: anchors are not supported"}
	}
	pointer, v := "", p.root
	if fragment != "" {
		for part := range strings.SplitSeq(fragment[1:], "/") {
			key := strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
			if v, ok = child(v, key); !ok {
				return &SchemaError{ref.at, quotedTarget, "refers to nothing in this schema"}
			}
			pointer = below(pointer, key)
		}
	}
	ref.node.ref, err = p.parse(pointer, v)
	return err
}

func child(v strictjson.Value, key string) (strictjson.Value, bool) {
	for _, m := range v.Members {
		if m.Key == key {
			return m.Value, true
		}
	}
	if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(v.Items) && strconv.Itoa(i) == key {
		return v.Items[i], true
	}
	return strictjson.Value{}, false
}

// checkCycles refuses a schema that applies itself to the same value: it says nothing that can be held.
func (p *schemaParser) checkCycles() error {
	const onPath, done = 1, 2
	state := make([]byte, len(p.nodes))
	// A path of its own instead of recursion: a chain of references may be as long as the schema.
	type step struct {
		node *schemaNode
		next []*schemaNode
	}
	for _, start := range p.nodes {
		if state[start.id] == done {
			continue
		}
		state[start.id] = onPath
		path := []step{{start, start.inPlace()}}
		for len(path) > 0 {
			top := &path[len(path)-1]
			if len(top.next) == 0 {
				state[top.node.id] = done
				path = path[:len(path)-1]
				continue
			}
			node := top.next[0]
			top.next = top.next[1:]
			switch state[node.id] {
			case onPath:
				return &SchemaError{top.node.pointer, strconv.Quote(node.pointer), "applies to itself without end, through $ref, allOf, anyOf or oneOf"}
			case done:
			default:
				state[node.id] = onPath
				path = append(path, step{node, node.inPlace()})
			}
		}
	}
	return nil
}
