package constraint

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// judge validates texts with an implementation of JSON Schema that has nothing to do with ours: jsonschema/v6, which these tests alone
// import. It asserts formats, as we do.
type judge struct{ schema *jsonschema.Schema }

func newJudge(t testing.TB, schema string) judge {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(schema)))
	if err != nil {
		t.Fatalf("schema %s: %v", schema, err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("mem:///schema.json", doc); err != nil {
		t.Fatalf("schema %s: %v", schema, err)
	}
	compiled, err := c.Compile("mem:///schema.json")
	if err != nil {
		t.Fatalf("schema %s: %v", schema, err)
	}
	return judge{compiled}
}

func (j judge) accepts(text string) error {
	if !json.Valid([]byte(text)) {
		var v any
		return json.Unmarshal([]byte(text), &v)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(text)))
	if err != nil {
		return err
	}
	return j.schema.Validate(v)
}

func TestScratch(t *testing.T) {
	for _, schema := range []string{
		`{}`, `{"type":"object","properties":{"a":{"type":"integer","minimum":3,"maximum":120},"b":{"type":"number","minimum":-1.5,"exclusiveMaximum":2.25}},"required":["b"]}`,
		`{"type":"string","pattern":"^a+b|c$","minLength":2,"maxLength":9}`,
	} {
		g, err := FromSchema(schema)
		if err != nil {
			t.Fatal(err)
		}
		w := newWalker(t, g, 1)
		j := newJudge(t, schema)
		for i := range 20 {
			text := w.text()
			if i < 4 {
				t.Logf("%s", text)
			}
			if err := j.accepts(text); err != nil {
				t.Errorf("%s: %v", text, err)
			}
			if !readsAs(g, text) {
				t.Errorf("not read: %s", text)
			}
		}
	}
}
