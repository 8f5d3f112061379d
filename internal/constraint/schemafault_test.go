package constraint

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestWhatASchemaCannotHoldIsNamed(t *testing.T) {
	for _, c := range []struct{ schema, pointer, message string }{
		{``, "", "not JSON"},
		{`{`, "", "not JSON"},
		{`{"type":"string",}`, "", "not JSON"},
		{`{"type":"string"} x`, "", "text after the value"},
		{`{"type":"string","type":"null"}`, "", `duplicate key "type"`},
		{"{\"title\":\"\xff\"}", "", "invalid UTF-8"},
		{`{"title":"\ud800"}`, "", "not JSON"},
		{strings.Repeat(`{"not":`, 100) + `1` + strings.Repeat(`}`, 100), "", "nested deeper than 64"},
		{`"string"`, "", "want a schema"},
		{`[]`, "", "want a schema"},
		{`null`, "", "want a schema"},
		{`false`, "", "accepts no value"},
		{`{"properties":{"a":3}}`, "/properties/a", "3: want a schema"},
		{`{"properties":[]}`, "/properties", "want an object of schemas"},
		{`{"properties":{"a/b~":{"type":"strin"}}}`, "/properties/a~1b~0/type", `"strin": want null, boolean`},
		{`{"type":7}`, "/type", "7: want null, boolean"},
		{`{"type":[]}`, "/type", "[]: want null, boolean"},
		{`{"type":["string","string"]}`, "/type", "each once"},
		{`{"type":["string",1]}`, "/type", "each once"},
		{`{"enum":[]}`, "/enum", "at least one"},
		{`{"enum":"a"}`, "/enum", "want an array"},
		{`{"enum":[1],"const":1}`, "/const", "not both"},
		{`{"enum":[1e999]}`, "/enum", "want an exponent"},
		{`{"const":{"a":[1e99999999999999999999]}}`, "/const", "want an exponent"},
		{`{"minimum":"1"}`, "/minimum", `"1": want a number`},
		{`{"exclusiveMinimum":true}`, "/exclusiveMinimum", "drafts from 6"},
		{`{"maximum":1e401}`, "/maximum", "want an exponent from −400 to 400"},
		{`{"maximum":0.12345678901234567890123456789012345678901}`, "/maximum", "at most 40 digits"},
		{`{"multipleOf":0}`, "/multipleOf", "want a power of ten"},
		{`{"multipleOf":-10}`, "/multipleOf", "want a power of ten"},
		{`{"multipleOf":3}`, "/multipleOf", "3: want a power of ten"},
		{`{"multipleOf":1e-30}`, "/multipleOf", "want a power of ten"},
		{`{"minLength":-1}`, "/minLength", "-1: want an integer of 0 or more"},
		{`{"minLength":1.5}`, "/minLength", "want an integer of 0 or more"},
		{`{"minLength":"1"}`, "/minLength", "want an integer of 0 or more"},
		{`{"minLength":1000000000}`, "/minLength", "want at most 10000"},
		{`{"maxLength":null}`, "/maxLength", "want an integer of 0 or more"},
		{`{"minItems":1e300}`, "/minItems", "want at most 10000"},
		{`{"minProperties":10001}`, "/minProperties", "want at most 10000"},
		{`{"pattern":3}`, "/pattern", "want a string"},
		{`{"pattern":"("}`, "/pattern", "RE2"},
		{`{"pattern":"a(?=b)"}`, "/pattern", "RE2"},
		{`{"pattern":"(a)\\1"}`, "/pattern", "RE2"},
		{`{"pattern":"a^b"}`, "/pattern", "at the ends"},
		{`{"pattern":"(?:^a)+"}`, "/pattern", "at the ends"},
		{`{"pattern":"\\bword\\b"}`, "/pattern", "at the ends"},
		{`{"pattern":"(?m)^a"}`, "/pattern", "at the ends"},
		{`{"pattern":"a{1000000000}"}`, "/pattern", "RE2"},
		{`{"pattern":"(?:(?:abcdef){1000}x){1000}"}`, "/pattern", "want"},
		{`{"pattern":"(?:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa){1000}"}`, "/pattern", "counting repetitions"},
		{`{"pattern":"` + strings.Repeat("a", 5000) + `"}`, "/pattern", "want at most 4096 bytes"},
		{`{"type":"string","pattern":"^ab$","minLength":3}`, "/pattern", "no matches of 3 or more characters"},
		{`{"type":"string","pattern":"^abc$","maxLength":2}`, "/pattern", "no matches of 0 to 2 characters"},
		{`{"type":"string","pattern":"a","format":"date"}`, "/format", "one pattern or format"},
		{`{"type":"string","allOf":[{"pattern":"a"},{"pattern":"b"}]}`, "/allOf/1/pattern", "one pattern or format"},
		{`{"format":7}`, "/format", "want a string"},
		{`{"format":"regex"}`, "/format", "unknown format"},
		{`{"items":3}`, "/items", "want a schema"},
		{`{"items":[]}`, "/items", "at least one"},
		{`{"items":[{}],"prefixItems":[{}]}`, "/prefixItems", "described once"},
		{`{"items":{},"additionalItems":{}}`, "/additionalItems", "described once"},
		{`{"uniqueItems":true}`, "/uniqueItems", "cannot compare items"},
		{`{"uniqueItems":1}`, "/uniqueItems", "want false"},
		{`{"contains":{}}`, "/contains", "not supported"},
		{`{"required":"a"}`, "/required", "want an array of names"},
		{`{"required":["a","a"]}`, "/required/1", "each once"},
		{`{"required":["a",2]}`, "/required/1", "want a property's name"},
		{`{"additionalProperties":1}`, "/additionalProperties", "want a schema"},
		{`{"patternProperties":{"(":{}}}`, "/patternProperties/(", "RE2"},
		{`{"patternProperties":{"a":{},"b":{}}}`, "/patternProperties/b", "may match a name that"},
		{`{"patternProperties":{"a":{}},"additionalProperties":true}`, "/additionalProperties", "want false beside patternProperties"},
		{`{"properties":{"ab":{}},"patternProperties":{"^a":{"type":"null"}}}`, "/patternProperties/^a", `"ab": is a property by name`},
		{`{"allOf":[{"patternProperties":{"^a":{}}},{"patternProperties":{"^b":{}}}]}`, "/allOf/1/patternProperties", "cannot be held together"},
		{`{"patternProperties":{"^a":{}},"propertyNames":{"maxLength":3}}`, "/propertyNames", "beside patternProperties"},
		{`{"properties":{"a":{}},"propertyNames":{"maxLength":3},"additionalProperties":true}`, "/propertyNames", "cannot be kept apart"},
		{`{"type":"object","minProperties":3}`, "/minProperties", "cannot tell from each other"},
		{`{"type":"object","additionalProperties":false,"minProperties":3}`, "", "accepts no value"},
		{`{"unevaluatedProperties":false}`, "/unevaluatedProperties", "but for true; use additionalProperties"},
		{`{"allOf":{}}`, "/allOf", "want an array of schemas"},
		{`{"anyOf":[]}`, "/anyOf", "at least one"},
		{`{"oneOf":[{"type":"integer"},{"type":"number"}]}`, "/oneOf", "alternatives 0 and 1: may both accept"},
		{`{"oneOf":[{"type":"string"},{"pattern":"a"}]}`, "/oneOf", "alternatives 0 and 1: may both accept"},
		{`{"oneOf":[{"const":1},{"enum":[2,1]}]}`, "/oneOf", "alternatives 0 and 1: may both accept"},
		{`{"oneOf":[{"type":"object"},{"type":"object","properties":{"a":{}}}]}`, "/oneOf", "may both accept"},
		{`{"properties":{"a":{},"b":{}},"type":"object","oneOf":[{"required":["a"]},{"required":["b"]}]}`, "/oneOf", "may both accept"},
		// Alone, the alternatives are apart; beside properties that both may then have they are not.
		{
			`{"allOf":[{"properties":{"a":{},"b":{}}},{"oneOf":[{"type":"object","properties":{"a":{}},"required":["a"]},` +
				`{"type":"object","properties":{"b":{}},"required":["b"]}]}]}`, "/allOf/1/oneOf", "may both accept",
		},
		{`{"not":{"type":"null"}}`, "/not", "cannot be held by a grammar"},
		{`{"if":{},"then":{}}`, "/if", "use anyOf"},
		{`{"dependentRequired":{}}`, "/dependentRequired", "use anyOf"},
		{`{"$ref":3}`, "/$ref", "want a string"},
		{`{"$ref":"https://example.com/schema.json"}`, "/$ref", "nothing else is fetched"},
		{`{"$ref":"other.json#/a"}`, "/$ref", "nothing else is fetched"},
		{`{"$ref":"#name"}`, "/$ref", "anchors are not supported"},
		{`{"$ref":"#/%zz"}`, "/$ref", "anchors are not supported"},
		{`{"$ref":"#/$defs/none"}`, "/$ref", "refers to nothing"},
		{`{"anyOf":[{"$ref":"#/anyOf/01"}]}`, "/anyOf/0/$ref", "refers to nothing"},
		{`{"$ref":"#/$defs/a","$defs":{"a":{"type":"nul"}}}`, "/$defs/a/type", "want null"},
		{`{"$ref":"#"}`, "", "applies to itself without end"},
		{`{"$ref":"#/$defs/a","$defs":{"a":{"allOf":[{"$ref":"#/$defs/b"}]},"b":{"anyOf":[{"$ref":"#/$defs/a"},{}]}}}`,
			"/$defs/b/anyOf/0", "applies to itself"},
		{`{"properties":{"a":{"$id":"x"}}}`, "/properties/a/$id", "at the root alone"},
		{`{"$anchor":"a"}`, "/$anchor", "use $defs"},
		{`{"$dynamicRef":"#a"}`, "/$dynamicRef", "use $ref"},
		{`{"type":"string","nullable":true}`, "/nullable", `"type": ["…", "null"]`},
		{`{"minimun":3}`, "/minimun", "3: unknown keyword"},
		{`{"type":"object","properties":{"a":{"type":"object","required":["b"],"properties":{"b":false}}},"required":["a"]}`,
			"", "accepts no value"},
		{`{"type":"integer","minimum":5,"maximum":4}`, "", "accepts no value"},
		{`{"allOf":[{"type":"string"},{"type":"integer"}]}`, "", "accepts no value"},
		{`{"type":"string","enum":[1,2]}`, "", "accepts no value"},
		{`{"$ref":"#/$defs/e","$defs":{"e":{"type":"object","properties":{"n":{"$ref":"#/$defs/e"}},"required":["n"]}}}`,
			"", "accepts no value that can be written"},
	} {
		g, err := FromSchema(c.schema)
		var fault *SchemaError
		if !errors.As(err, &fault) || g != nil {
			t.Errorf("%.200s: %v, want a *SchemaError", c.schema, err)
			continue
		}
		if fault.Pointer != c.pointer || !strings.Contains(fault.Error(), c.message) || len(fault.Error()) > 700 {
			t.Errorf("%.200s:\n%v\nwant it at %q with %q", c.schema, fault, c.pointer, c.message)
		}
	}
}

// TestSchemasThatAskForMuchEnd has those that grow without bound wherever work is not counted. That they end at all is the test.
func TestSchemasThatAskForMuchEnd(t *testing.T) {
	list := func(n int, item func(i int) string) string {
		items := make([]string, n)
		for i := range items {
			items[i] = item(i)
		}
		return strings.Join(items, ",")
	}
	two := func(i int) string {
		return fmt.Sprintf(`"d%d":{"anyOf":[{"$ref":"#/$defs/d%d"},{"$ref":"#/$defs/d%d"}]}`, i, i+1, i+1)
	}
	for _, c := range []struct{ name, schema, message string }{
		{"bytes", `{"title":"` + strings.Repeat("a", MaxSchemaBytes) + `"}`, "262156 bytes: want at most 262144"},
		{"chain of references", `{"$ref":"#/$defs/d0","$defs":{` +
			list(4000, func(i int) string { return fmt.Sprintf(`"d%d":{"title":"","allOf":[{"$ref":"#/$defs/d%d"}]}`, i, i+1) }) + `,"d4000":{}}}`, "more than 64 schemas"},
		{"doubling anyOf", `{"$ref":"#/$defs/d0","$defs":{` + list(50, two) + `,"d50":{"type":"null"}}}`, "more than 64 schemas"},
		{"product of anyOf", `{"allOf":[` + list(30, func(i int) string {
			return fmt.Sprintf(`{"anyOf":[{"minimum":%d},{"maximum":%d}]}`, i, i+100)
		}) + `]}`, "combinations"},
		{"doubling validation", `{"enum":[[1]],"items":{"$ref":"#/$defs/d0"},"$defs":{` +
			list(50, two) + `,"d50":{"type":"null"}}}`, "too many to work out"},
		{"enum", `{"enum":[` + list(MaxEnumValues+1, func(i int) string { return fmt.Sprint(i) }) + `]}`, "5001 values: want at most 5000"},
		{"properties", `{"properties":{` +
			list(MaxProperties+1, func(i int) string { return fmt.Sprintf(`"p%d":{}`, i) }) + `}}`,
			"1001 schemas: want at most 1000"},
		{"properties of two", `{"type":"object","properties":{` +
			list(600, func(i int) string { return fmt.Sprintf(`"p%d":{}`, i) }) + `},"required":[` +
			list(600, func(i int) string { return fmt.Sprintf(`"q%d"`, i) }) + `]}`, "1200 properties: want at most 1000"},
		{"anyOf", `{"anyOf":[` + list(MaxSubschemas+1, func(int) string { return `{}` }) + `]}`, "1001 schemas: want at most 1000"},
		{"counted properties", `{"type":"object","maxProperties":900,"properties":{` +
			list(1000, func(i int) string { return fmt.Sprintf(`"p%d":{}`, i) }) + `}}`, "1000 properties: so many cannot be counted"},
		{"oneOf of a recursion", `{"$ref":"#/$defs/a","$defs":{"a":{"oneOf":[` +
			`{"type":"object","properties":{"x":{"$ref":"#/$defs/a"}},"required":["x"]},` +
			`{"type":"object","properties":{"x":{"$ref":"#/$defs/a"}},"required":["x"]}]}}}`, "may both accept"},
		{"patterns times values", `{"patternProperties":{"^(?:a|b)*[ab]{900}[ab]{900}$":{}},"properties":{` +
			list(1000, func(i int) string { return fmt.Sprintf(`"%s%d":{}`, strings.Repeat("a", 200), i) }) + `}}`, "too many to work out"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, err := FromSchema(c.schema)
			if err == nil {
				_, err = Compile(g)
			}
			if err == nil || !strings.Contains(err.Error(), c.message) || len(err.Error()) > 700 {
				t.Errorf("%v, want %q", err, c.message)
			}
		})
	}
}

// TestLargeSchemasAreHeld has what is large and fair: it must compile.
func TestLargeSchemasAreHeld(t *testing.T) {
	var properties, names, values strings.Builder
	for i := range MaxProperties {
		fmt.Fprintf(&properties, `,"property number %d":{"type":"string","maxLength":200}`, i)
		fmt.Fprintf(&names, `,"property number %d"`, i)
	}
	for i := range MaxEnumValues {
		fmt.Fprintf(&values, `,"value number %d"`, i)
	}
	for name, schema := range map[string]string{
		"optional properties": `{"type":"object","properties":{` + properties.String()[1:] + `}}`,
		"required properties": `{"type":"object","properties":{` + properties.String()[1:] + `},"required":[` + names.String()[1:] + `]}`,
		"open beside many":    `{"type":"object","properties":{` + properties.String()[1:] + `},"additionalProperties":{"type":"null"}}`,
		"enum":                `{"enum":[` + values.String()[1:] + `]}`,
		"long string":         `{"type":"string","minLength":10000,"maxLength":10000}`,
		"long pattern":        `{"type":"string","pattern":"^[a-z]+(?:-[a-z]+)*$","minLength":5000,"maxLength":10000}`,
		"many items":          `{"type":"array","minItems":10000,"items":{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}}`,
		"bounded properties":  `{"type":"object","additionalProperties":{"type":"null"},"maxProperties":10000}`,
	} {
		t.Run(name, func(t *testing.T) {
			g, p := mustCompile(t, schema)
			w := newWalker(t, g, 3)
			if text := w.text(); !p.Match(text) {
				t.Errorf("%.300s does not match", text)
			}
		})
	}
}
