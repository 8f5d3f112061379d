package constraint

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// judge validates texts with an implementation of JSON Schema that has nothing to do with ours: jsonschema/v6, which only tests import. It
// asserts formats, as we do.
type judge struct{ schema *jsonschema.Schema }

func newJudge(t testing.TB, schema string) judge {
	t.Helper()
	j, err := judgeOf(schema)
	if err != nil {
		t.Fatalf("schema %s: %v", schema, err)
	}
	return j
}

func judgeOf(schema string) (judge, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(schema)))
	if err != nil {
		return judge{}, err
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	// Nothing is fetched, whatever $schema names.
	c.UseLoader(jsonschema.SchemeURLLoader{})
	if err := c.AddResource("mem:///schema.json", doc); err != nil {
		return judge{}, err
	}
	compiled, err := c.Compile("mem:///schema.json")
	return judge{compiled}, err
}

// refuses says what is wrong with the text; nil: nothing.
func (j judge) refuses(text string) error {
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

// mustCompile makes a program of a schema.
func mustCompile(t testing.TB, schema string) (*Grammar, *Program) {
	t.Helper()
	g, err := FromSchema(schema)
	if err != nil {
		t.Fatalf("schema %s: %v", schema, err)
	}
	p, err := Compile(g)
	if err != nil {
		t.Fatalf("compile %s: %v", schema, err)
	}
	return g, p
}

// checkWalks holds texts derived at random to the judge, and to the program and a reader of grammars that know nothing of each other.
func checkWalks(t *testing.T, schema string, g *Grammar, p *Program, j judge, texts int) {
	t.Helper()
	w := newWalker(t, g, 7)
	for range texts {
		text := w.text()
		if err := j.refuses(text); err != nil {
			t.Errorf("schema %s\nhas the text %s\nwhich is not valid: %v", schema, text, err)
		}
		if len(text) < 2000 && !readsAs(g, text) {
			t.Errorf("schema %s\ndoes not read its own text %s", schema, text)
		}
		if !p.Match(text) {
			t.Errorf("schema %s\ndoes not match its own text %s", schema, text)
		}
		if t.Failed() {
			return
		}
	}
}

func TestTextsOfASchemaAreValid(t *testing.T) {
	for _, c := range slices.Concat(schemaCases, textCases, shapeCases) {
		t.Run(c.name, func(t *testing.T) {
			g, p := mustCompile(t, c.schema)
			j := newJudge(t, cmp.Or(c.judged, c.schema))
			for _, text := range c.valid {
				if err := j.refuses(text); err != nil {
					t.Errorf("the case is wrong: %s is not valid: %v", text, err)
				}
				if !p.Match(text) {
					t.Errorf("%s does not match", text)
				}
			}
			for _, text := range c.invalid {
				if j.refuses(text) == nil {
					t.Errorf("the case is wrong: %s is valid", text)
				}
				if p.Match(text) {
					t.Errorf("%s matches", text)
				}
			}
			for _, text := range c.unwritten {
				if err := j.refuses(text); err != nil {
					t.Errorf("the case is wrong: %s is not valid: %v", text, err)
				}
				if p.Match(text) {
					t.Errorf("%s matches", text)
				}
			}
			checkWalks(t, c.schema, g, p, j, 60)
		})
	}
}

func TestAnyObject(t *testing.T) {
	g := JSONObject()
	p, err := Compile(g)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{`{}`, `{ }`, `{"a":1}`, "{\n  \"a\": [1, {\"b\": null}],\n  \"c\": \"\\ud83d\\ude00\"\n}", `{"":-0.5e+10}`} {
		if !p.Match(text) {
			t.Errorf("%s does not match", text)
		}
	}
	for _, text := range []string{``, ` {}`, `{} `, `[]`, `"a"`, `1`, `{"a"}`, `{"a":1,}`,
		`{a:1}`, `{"a":01}`, `{"a":"\ud83d"}`, "{\"a\":\"\n\"}", `{"a":+1}`} {
		if p.Match(text) {
			t.Errorf("%s matches", text)
		}
	}
	checkWalks(t, `{"type":"object"}`, g, p, newJudge(t, `{"type":"object"}`), 300)
}
