package constraint

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestTextsOfRandomSchemasAreValid makes schemas of everything that is supported, in any combination. Many are refused, or accept nothing;
// whatever is not has only texts that the judge accepts.
func TestTextsOfRandomSchemasAreValid(t *testing.T) {
	held, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		schema := drawSchema(t, 3)
		defs := fmt.Sprintf(`"$defs":{"x":%s,"y":%s}`, drawSchema(t, 2), drawSchema(t, 1))
		if schema == "true" || schema == "false" || schema == "{}" {
			schema = "{" + defs + "}"
		} else {
			schema = schema[:len(schema)-1] + "," + defs + "}"
		}
		ok, err := checkSchema(schema, rapid.Uint64().Draw(t, "seed"))
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			held++
		} else {
			refused++
		}
	})
	t.Logf("%d schemas held, %d refused", held, refused)
	if held == 0 {
		t.Error("no schema was held")
	}
}

// checkSchema says whether the schema is held, and what is wrong if its texts are not valid.
func checkSchema(schema string, seed uint64) (held bool, err error) {
	g, err := FromSchema(schema)
	if err != nil {
		var fault *SchemaError
		if !errors.As(err, &fault) || fault.Want == "" || len(fault.Error()) > 2000+len(fault.Pointer) {
			return false, fmt.Errorf("schema %s: %T %w, want a short *SchemaError", schema, err, err)
		}
		return false, nil
	}
	p, err := Compile(g)
	if err != nil {
		return false, nil // too large, and says so
	}
	j, err := judgeOf(schema)
	if err != nil {
		return false, nil // the judge knows no schema of that kind
	}
	w, err := walkerOf(g, seed)
	if err != nil {
		return false, fmt.Errorf("schema %s: %w", schema, err)
	}
	for range 8 {
		text := w.text()
		if err := j.refuses(text); err != nil {
			return true, fmt.Errorf("schema %s\nhas the text %s\nwhich is not valid: %w", schema, text, err)
		}
		if len(text) < 20_000 && !p.Match(text) {
			return true, fmt.Errorf("schema %s\ndoes not match its own text %s", schema, text)
		}
	}
	return true, nil
}

func drawSchema(t *rapid.T, depth int) string {
	if depth == 0 {
		leaves := []string{`true`, `{}`, `{"type":"integer"}`, `{"type":"string"}`, `{"const":"k"}`, `{"type":"null"}`, `false`}
		return rapid.SampledFrom(leaves).Draw(t, "leaf")
	}
	members := map[string]string{}
	var order []string
	set := func(key, value string) {
		if _, ok := members[key]; !ok {
			order = append(order, key)
			members[key] = value
		}
	}
	sub := func() string { return drawSchema(t, depth-1) }
	list := func(least, most int, item func() string) string {
		n := rapid.IntRange(least, most).Draw(t, "n")
		items := make([]string, n)
		for i := range items {
			items[i] = item()
		}
		return "[" + strings.Join(items, ",") + "]"
	}
	names := []string{"a", "b", "ab", "x-1", "é", `q\"`}
	small := func() string { return fmt.Sprint(rapid.IntRange(0, 4).Draw(t, "count")) }
	number := func() string {
		return rapid.SampledFrom([]string{"0", "-1", "5", "7.25", "-3.5", "99", "1e2", "0.001", "-120", "1000"}).Draw(t, "number")
	}
	patterns := []string{`^a+$`, `b`, `^x-`, `^(?:ab|c)*d?$`, `[0-9]{2,3}$`, `^\\S.$`, `^[^\"]{3}$`, `^\\w+@`}
	if rapid.IntRange(0, 3).Draw(t, "typed") > 0 {
		set("type", rapid.SampledFrom([]string{
			`"string"`, `"integer"`, `"number"`, `"object"`, `"array"`, `"object"`, `["string","null"]`, `["integer","array"]`, `"boolean"`,
		}).Draw(t, "type"))
	}
	for range rapid.IntRange(0, 4).Draw(t, "keywords") {
		switch rapid.IntRange(0, 20).Draw(t, "keyword") {
		case 0:
			set("minimum", number())
		case 1:
			set("exclusiveMaximum", number())
		case 2:
			set("maximum", number())
		case 3:
			set("multipleOf", rapid.SampledFrom([]string{"0.1", "1", "10", "0.001"}).Draw(t, "step"))
		case 4:
			set("minLength", small())
		case 5:
			set("maxLength", small())
		case 6:
			set("pattern", `"`+rapid.SampledFrom(patterns).Draw(t, "pattern")+`"`)
		case 7:
			set("format", rapid.SampledFrom([]string{`"date"`, `"uuid"`, `"email"`, `"uri"`, `"ipv6"`, `"duration"`, `"time"`}).Draw(t, "format"))
		case 8:
			set("enum", list(1, 4, func() string {
				return rapid.SampledFrom([]string{`1`, `"a"`, `"ab"`, `null`, `[1]`, `{"a":1}`, `true`, `7.25`, `-3`, `"éé"`}).Draw(t, "value")
			}))
		case 9:
			set("minItems", small())
		case 10:
			set("maxItems", small())
		case 11:
			set("items", sub())
		case 12:
			set("prefixItems", list(1, 3, sub))
		case 13, 14:
			var properties []string
			for _, name := range names[:rapid.IntRange(0, len(names)).Draw(t, "properties")] {
				properties = append(properties, `"`+name+`":`+sub())
			}
			set("properties", "{"+strings.Join(properties, ",")+"}")
		case 15:
			set("required", rapid.SampledFrom([]string{`["a"]`, `["b","a"]`, `["ab"]`, `[]`, `["x-1"]`, `["other"]`}).Draw(t, "required"))
		case 16:
			set("additionalProperties", sub())
		case 17:
			set("minProperties", small())
			set("maxProperties", small())
		case 18:
			if rapid.Bool().Draw(t, "names") {
				set("propertyNames", sub())
			} else {
				set("patternProperties", `{"`+rapid.SampledFrom(patterns).Draw(t, "pattern")+`":`+sub()+`}`)
			}
		case 19:
			set(rapid.SampledFrom([]string{"anyOf", "oneOf", "allOf"}).Draw(t, "of"), list(1, 3, sub))
		case 20:
			set("$ref", rapid.SampledFrom([]string{`"#/$defs/x"`, `"#/$defs/y"`, `"#"`}).Draw(t, "ref"))
		}
	}
	parts := make([]string, len(order))
	for i, key := range order {
		parts[i] = fmt.Sprintf("%q:%s", key, members[key])
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// FuzzSchema: whatever a schema says, it is refused with a *SchemaError or held, and then by texts that are JSON and valid.
func FuzzSchema(f *testing.F) {
	for i, c := range slices.Concat(schemaCases, textCases, shapeCases) {
		if i%4 == 0 {
			f.Add(c.schema, uint64(i))
		}
	}
	f.Fuzz(func(t *testing.T, schema string, seed uint64) {
		if len(schema) > 4096 {
			return
		}
		if _, err := checkSchema(schema, seed); err != nil {
			t.Fatal(err)
		}
	})
}
