package constraint

// shapeCases are schemas of objects and arrays, and of several schemas at once.
var shapeCases = []schemaCase{
	{
		name: "properties", schema: `{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"}},"required":["name"]}`,
		valid:     []string{`{"name":"a"}`, `{"name":"a","age":3}`, "{\n\t\"name\": \"a\",\n\t\"age\": 3\n}", `{ "name":"a" }`},
		invalid:   []string{`{}`, `{"age":3}`, `{"name":1}`, `{"name":"a","age":"3"}`, `{"name":"a",}`, `{"name":"a" "age":3}`, `[]`},
		unwritten: []string{`{"age":3,"name":"a"}`, `{"name":"a","other":1}`, `{"n\u0061me":"a"}`, `{"name":"a" ,"age":3}`},
	},
	{
		name: "optional properties", schema: `{"type":"object","properties":{"a":{"const":1},"b":{"const":2},"c":{"const":3},"d":{"const":4}}}`,
		valid:     []string{`{}`, `{"a":1}`, `{"d":4}`, `{"a":1,"d":4}`, `{"b":2,"c":3}`, `{"a":1,"b":2,"c":3,"d":4}`},
		invalid:   []string{`{"a":2}`, `{,"a":1}`, `{"a":1,}`, `{"a":1"b":2}`},
		unwritten: []string{`{"b":2,"a":1}`, `{"a":1,"a":1}`},
	},
	{
		name:      "no properties",
		schema:    `{"type":"object","properties":{}}`,
		valid:     []string{`{}`, `{ }`},
		invalid:   []string{`[]`},
		unwritten: []string{`{"a":1}`},
	},
	{
		name: "additionalProperties",
		schema: `{"type":"object","properties":{"ab":{"type":"integer"},"ac":{"type":"integer"}},"required":["ab"],` +
			`"additionalProperties":{"type":"string"}}`,
		valid:     []string{`{"ab":1}`, `{"ab":1,"x":"y"}`, `{"ab":1,"ac":2,"a":"s","abc":"t","":"u","b":"v"}`},
		invalid:   []string{`{"ab":1,"x":2}`, `{"ab":1,"ac":"s"}`, `{"x":"y"}`},
		unwritten: []string{`{"ab":1,"ab":2}`, `{"x":"y","ab":1}`, `{"ab":1,"\u0061c":2}`},
	},
	{
		name:    "map",
		schema:  `{"type":"object","additionalProperties":{"type":"integer"}}`,
		valid:   []string{`{}`, `{"a":1}`, `{"a":1,"b":2,"\u00e9":3}`},
		invalid: []string{`{"a":"b"}`},
	},
	{
		name:    "any other property",
		schema:  `{"properties":{"a":{"type":"null"}},"additionalProperties":true,"type":"object"}`,
		valid:   []string{`{"a":null,"b":[1]}`, `{"b":1}`},
		invalid: []string{`{"a":1}`},
	},
	{
		name:    "closed",
		schema:  `{"type":"object","properties":{"a":{}},"additionalProperties":false}`,
		valid:   []string{`{}`, `{"a":[]}`},
		invalid: []string{`{"b":1}`},
	},
	{
		name:      "required without properties",
		schema:    `{"type":"object","required":["b","a"]}`,
		valid:     []string{`{"b":1,"a":{}}`, `{"b":1,"a":2,"c":3}`},
		invalid:   []string{`{}`, `{"a":1}`},
		unwritten: []string{`{"a":1,"b":2}`},
	},
	{
		name:    "impossible property",
		schema:  `{"type":"object","properties":{"a":false,"b":{"type":"string","minLength":2,"maxLength":1},"c":{"type":"null"}}}`,
		valid:   []string{`{}`, `{"c":null}`},
		invalid: []string{`{"a":1}`, `{"b":"x"}`},
	},
	{
		name: "at least two of three",
		schema: `{"type":"object","properties":{"a":{"const":1},"b":{"const":2},"c":{"const":3}},"minProperties":2,` +
			`"additionalProperties":false}`,
		valid:   []string{`{"a":1,"b":2}`, `{"a":1,"c":3}`, `{"b":2,"c":3}`, `{"a":1,"b":2,"c":3}`},
		invalid: []string{`{}`, `{"a":1}`, `{"c":3}`},
	},
	{
		name:    "at most one of three",
		schema:  `{"type":"object","properties":{"a":{"const":1},"b":{"const":2},"c":{"const":3}},"maxProperties":1}`,
		valid:   []string{`{}`, `{"a":1}`, `{"c":3}`},
		invalid: []string{`{"a":1,"b":2}`},
	},
	{
		name:    "bounded map",
		schema:  `{"type":"object","additionalProperties":{"type":"null"},"minProperties":1,"maxProperties":2}`,
		valid:   []string{`{"a":null}`, `{"a":null,"b":null}`},
		invalid: []string{`{}`, `{"a":null,"b":null,"c":null}`},
	},
	{
		name:      "one more than named",
		schema:    `{"type":"object","properties":{"a":{"const":1}},"additionalProperties":{"type":"null"},"minProperties":2}`,
		valid:     []string{`{"a":1,"b":null}`, `{"a":1,"b":null,"c":null}`},
		invalid:   []string{`{"a":1}`, `{"b":null}`},
		unwritten: []string{`{"b":null,"c":null}`},
	},
	{name: "no property at all", schema: `{"type":"object","maxProperties":0}`, valid: []string{`{}`}, invalid: []string{`{"a":1}`}},
	{
		name: "patternProperties",
		schema: `{"type":"object","properties":{"id":{"type":"integer"}},"patternProperties":{"^x-":{"type":"string"},` +
			`"^y-":{"type":"null"}},"additionalProperties":false}`,
		valid:   []string{`{}`, `{"id":1,"x-a":"b","y-":null}`, `{"y-1":null,"x-":"s"}`},
		invalid: []string{`{"x-a":1}`, `{"z":1}`, `{"y-":"s"}`},
	},
	{
		name:    "propertyNames by pattern",
		schema:  `{"type":"object","propertyNames":{"pattern":"^[a-z]{1,3}$"},"additionalProperties":{"type":"integer"}}`,
		valid:   []string{`{}`, `{"abc":1,"d":2}`},
		invalid: []string{`{"A":1}`, `{"abcd":1}`, `{"a":"x"}`},
	},
	{
		name:      "propertyNames by enum",
		schema:    `{"type":"object","propertyNames":{"enum":["red","green",7]},"additionalProperties":{"type":"integer"}}`,
		valid:     []string{`{}`, `{"red":1}`, `{"green":2}`, `{"red":1,"green":2}`},
		invalid:   []string{`{"blue":1}`, `{"red":"x"}`},
		unwritten: []string{`{"green":2,"red":1}`},
	},
	{
		name:    "propertyNames and properties",
		schema:  `{"type":"object","properties":{"a":{"type":"null"},"bb":{"type":"null"}},"propertyNames":{"maxLength":1}}`,
		valid:   []string{`{}`, `{"a":null}`},
		invalid: []string{`{"bb":null}`},
	},
	{
		name:    "array",
		schema:  `{"type":"array","items":{"type":"integer"},"minItems":1,"maxItems":3}`,
		valid:   []string{`[1]`, `[1,2]`, `[1, 2,3]`, "[\n  1,\n  2\n]"},
		invalid: []string{`[]`, `[1,2,3,4]`, `["a"]`, `[1,]`, `[,1]`},
	},
	{name: "any array", schema: `{"type":"array"}`, valid: []string{`[]`, `[1,"a",[]]`, `[ ]`}, invalid: []string{`{}`}},
	{
		name:    "two items at least",
		schema:  `{"type":"array","items":{"type":"null"},"minItems":2}`,
		valid:   []string{`[null,null]`, `[null,null,null]`},
		invalid: []string{`[]`, `[null]`},
	},
	{
		name:    "tuple",
		schema:  `{"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":{"type":"null"},"minItems":1}`,
		valid:   []string{`[1]`, `[1,"a"]`, `[1,"a",null,null]`},
		invalid: []string{`[]`, `["a"]`, `[1,2]`, `[1,"a",3]`},
	},
	{
		name:    "closed tuple",
		schema:  `{"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":false}`,
		valid:   []string{`[]`, `[1]`, `[1,"a"]`},
		invalid: []string{`[1,"a",2]`, `["a"]`},
	},
	{
		name:    "short tuple",
		schema:  `{"type":"array","prefixItems":[{"type":"integer"},{"type":"string"},{"type":"null"}],"maxItems":2,"minItems":2}`,
		valid:   []string{`[1,"a"]`},
		invalid: []string{`[1]`, `[1,"a",null]`},
	},
	{
		name:    "tuple with an impossible item",
		schema:  `{"type":"array","prefixItems":[{"type":"integer"},false]}`,
		valid:   []string{`[]`, `[1]`},
		invalid: []string{`[1,2]`},
	},
	{
		name: "tuple of draft 7",
		schema: `{"$schema":"http://json-schema.org/draft-07/schema#","type":"array","items":[{"type":"integer"}],` +
			`"additionalItems":{"type":"string"}}`,
		valid:   []string{`[]`, `[1,"a","b"]`},
		invalid: []string{`["a"]`, `[1,2]`},
	},
	{name: "no items", schema: `{"type":"array","maxItems":0}`, valid: []string{`[]`}, invalid: []string{`[1]`}},
	{
		name:    "keywords of other types",
		schema:  `{"minimum":5,"minLength":2,"minItems":1,"required":["a"]}`,
		valid:   []string{`null`, `5`, `"ab"`, `[0]`, `{"a":1}`},
		invalid: []string{`4`, `"a"`, `[]`, `{}`},
	},
	{
		name:    "anyOf",
		schema:  `{"anyOf":[{"type":"string","maxLength":2},{"type":"integer","minimum":3},{"type":"integer","maximum":-3}]}`,
		valid:   []string{`"ab"`, `3`, `-4`},
		invalid: []string{`"abc"`, `0`, `null`},
	},
	{
		name: "anyOf beside properties",
		schema: `{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"}},"anyOf":[{"required":["a"]},` +
			`{"required":["b"]}]}`,
		valid:   []string{`{"a":1}`, `{"b":1}`, `{"a":1,"b":2}`},
		invalid: []string{`{}`},
	},
	{
		name: "allOf",
		schema: `{"allOf":[{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]},{"properties":{"a":{"minimum":3},` +
			`"b":{"type":"null"}},"required":["b"]}]}`,
		valid:     []string{`{"a":3,"b":null}`},
		invalid:   []string{`{"a":2,"b":null}`, `{"a":3}`, `{"a":"x","b":null}`},
		unwritten: []string{`{"b":null,"a":3}`},
	},
	{
		name: "allOf of anyOf",
		schema: `{"allOf":[{"anyOf":[{"type":"integer"},{"type":"string"}]},{"anyOf":[{"type":"string","minLength":1},{"type":"null"},` +
			`{"type":"number","maximum":5}]}]}`,
		valid:   []string{`5`, `"a"`},
		invalid: []string{`""`, `null`, `6`, `1.5`},
	},
	{
		name: "allOf that closes",
		schema: `{"allOf":[{"type":"object","properties":{"a":{"type":"null"}},"additionalProperties":false},` +
			`{"properties":{"b":{"type":"null"}}}]}`,
		valid:   []string{`{}`, `{"a":null}`},
		invalid: []string{`{"b":null}`},
	},
	{
		name:    "oneOf of types",
		schema:  `{"oneOf":[{"type":"string"},{"type":"integer"},{"type":"array","items":{"type":"null"}}]}`,
		valid:   []string{`"a"`, `1`, `[null]`},
		invalid: []string{`[1]`, `null`},
	},
	{
		name: "oneOf of a discriminator",
		schema: `{"oneOf":[{"type":"object","properties":{"kind":{"const":"circle"},"r":{"type":"number"}},"required":["kind","r"]},` +
			`{"type":"object","properties":{"kind":{"const":"square"},"side":{"type":"number"}},"required":["kind"]}],` +
			`"discriminator":{"propertyName":"kind"}}`,
		valid:   []string{`{"kind":"circle","r":1}`, `{"kind":"square"}`, `{"kind":"square","side":2}`},
		invalid: []string{`{"kind":"circle"}`, `{"kind":"other"}`, `{"r":1}`},
	},
	{
		name: "oneOf of required properties",
		schema: `{"oneOf":[{"type":"object","properties":{"a":{"type":"null"}},"required":["a"]},{"type":"object",` +
			`"properties":{"b":{"type":"null"}},"required":["b"]}]}`,
		valid:   []string{`{"a":null}`, `{"b":null}`},
		invalid: []string{`{}`, `{"a":null,"b":null}`},
	},
	{
		name:    "oneOf of ranges",
		schema:  `{"type":"number","oneOf":[{"maximum":1},{"exclusiveMinimum":1,"maximum":5},{"minimum":7}]}`,
		valid:   []string{`1`, `3`, `7`},
		invalid: []string{`6`},
	},
	{
		name:    "oneOf of values",
		schema:  `{"oneOf":[{"const":"a","title":"A"},{"enum":["b","c"]},{"type":"string","minLength":2}]}`,
		valid:   []string{`"a"`, `"b"`, `"xy"`},
		invalid: []string{`"d"`, `""`},
	},
	{
		name: "oneOf of lengths",
		schema: `{"oneOf":[{"type":"array","maxItems":1},{"type":"array","minItems":2,"prefixItems":[{"const":1}]},{"type":"array",` +
			`"minItems":2,"prefixItems":[{"const":2}]}]}`,
		valid:   []string{`[]`, `[5]`, `[1,0]`, `[2,0]`},
		invalid: []string{`[3,0]`},
	},
	{
		name: "nested oneOf",
		schema: `{"type":"object","properties":{"v":{"oneOf":[{"type":"null"},{"oneOf":[{"type":"string"},{"type":"boolean"}]}]}},` +
			`"required":["v"]}`,
		valid:   []string{`{"v":null}`, `{"v":"a"}`, `{"v":true}`},
		invalid: []string{`{"v":1}`},
	},
	{
		name: "reference",
		schema: `{"type":"object","properties":{"a":{"$ref":"#/$defs/n"},"b":{"$ref":"#/properties/a","maximum":9}},"required":["b"],` +
			`"$defs":{"n":{"type":"integer","minimum":1}}}`,
		valid:   []string{`{"a":20,"b":9}`},
		invalid: []string{`{"b":10}`, `{"b":0}`},
	},
	{
		name:    "reference with escapes",
		schema:  `{"$ref":"#/$defs/a~1b~0c%25d","$defs":{"a/b~c%d":{"type":"null"}}}`,
		valid:   []string{`null`},
		invalid: []string{`1`},
	},
	{
		name:    "reference into an array",
		schema:  `{"anyOf":[{"type":"null"},{"type":"array","items":{"$ref":"#/anyOf/0"}}]}`,
		valid:   []string{`null`, `[null]`},
		invalid: []string{`[1]`},
	},
	{
		name: "recursion",
		schema: `{"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{"v":{"type":"integer"},` +
			`"next":{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]},"kids":{"type":"array","items":{"$ref":"#/$defs/node"}}},` +
			`"required":["v"]}}}`,
		valid:   []string{`{"v":1}`, `{"v":1,"next":{"v":2,"next":null}}`, `{"v":1,"kids":[{"v":2,"kids":[]},{"v":3}]}`},
		invalid: []string{`{"v":1,"next":{}}`, `{"v":1,"kids":[1]}`},
	},
	{
		name:    "recursion through the root",
		schema:  `{"type":"array","items":{"$ref":"#"}}`,
		valid:   []string{`[]`, `[[],[[]]]`},
		invalid: []string{`[1]`, `[[1]]`},
	},
	{
		name: "recursion that must not be taken",
		schema: `{"type":"object","properties":{"a":{"$ref":"#/$defs/endless"},"b":{"type":"null"}},"$defs":{"endless":{"type":"object",` +
			`"properties":{"next":{"$ref":"#/$defs/endless"}},"required":["next"]}}}`,
		valid:   []string{`{}`, `{"b":null}`},
		invalid: []string{`{"a":1}`},
	},
	{
		name: "annotations",
		schema: `{"$id":"https://example.com/x.json","$schema":"https://json-schema.org/draft/2020-12/schema","$comment":"c",` +
			`"title":"t","description":"d","default":7,"examples":["a"],"deprecated":true,"readOnly":true,"x-order":1,` +
			`"unevaluatedItems":true,"type":"string","contentMediaType":"text/plain"}`,
		valid:   []string{`"a"`},
		invalid: []string{`1`},
	},
	{
		name: "names that are escaped",
		schema: `{"type":"object","properties":{"a\"b\\c\n\u0007":{"type":"null"},"":{"type":"null"}},` +
			`"additionalProperties":{"type":"integer"}}`,
		valid:   []string{`{"a\"b\\c\n\u0007":null}`, `{"":null}`, `{"a\"b\\c\n":1}`, `{"a":1}`},
		invalid: []string{`{"a\"b\\c\n\u0007":1}`, `{"":1}`},
	},
}
