package constraint

// schemaCase is a schema, texts that it accepts and its grammar has, texts that it refuses, and texts that it accepts but that no model is
// to write.
type schemaCase struct {
	name, schema              string
	valid, invalid, unwritten []string
	judged                    string // the schema as the judge understands it, where that differs
}

var schemaCases = []schemaCase{
	{
		name: "anything", schema: `{}`,
		valid:     []string{`null`, `true`, `-12.5e3`, `"a\u00e9\n"`, `[]`, `[1,[2],{}]`, `{"a":{"b":[null]}}`, `"\ud83d\ude00"`, `"é"`, `0`},
		invalid:   []string{``, `nul`, `01`, `1.`, `.5`, `+1`, `"`, "\"\n\"", `"\x"`, `[1,]`, `{"a":}`, `'a'`, `1 2`, `[1 2]`, `NaN`},
		unwritten: []string{` null`, "null\n", `[1  ,2]`, `12345678901234567890123`, `[1 ,2]`, `1e400`, "{\"a\"\n:1}", "[\n\n1]"},
	},
	{name: "true", schema: `true`, valid: []string{`1`, `{}`}, invalid: []string{`x`}},
	{
		name: "types", schema: `{"type":["string","null","boolean"]}`,
		valid: []string{`"x"`, `null`, `true`, `false`}, invalid: []string{`1`, `[]`, `{}`},
	},
	{
		name: "integer", schema: `{"type":"integer"}`,
		valid: []string{`0`, `-1`, `999999999999999999`}, invalid: []string{`1.5`, `"1"`, `01`}, unwritten: []string{`1.0`, `1e2`, `-0`},
	},
	{name: "number or integer", schema: `{"type":["integer","number"]}`, valid: []string{`0`, `1.5`, `1E-7`}, invalid: []string{`"1"`}},
	{
		name: "integers between", schema: `{"type":"integer","minimum":-17,"maximum":1204}`,
		valid:     []string{`-17`, `-9`, `0`, `9`, `10`, `999`, `1000`, `1199`, `1204`},
		invalid:   []string{`-18`, `1205`, `1210`, `2000`, `9999`, `-20`, `-100`},
		unwritten: []string{`-0`, `5.0`},
	},
	{
		name:    "integers above",
		schema:  `{"type":"integer","exclusiveMinimum":99}`,
		valid:   []string{`100`, `101`, `1000000`},
		invalid: []string{`99`, `1`, `-1`, `0`},
	},
	{
		name:    "integers below",
		schema:  `{"type":"integer","exclusiveMaximum":-99}`,
		valid:   []string{`-100`, `-12345`},
		invalid: []string{`-99`, `-1`, `0`, `100`},
	},
	{
		name: "integers between fractions", schema: `{"type":"integer","minimum":0.5,"exclusiveMaximum":3.5}`,
		valid: []string{`1`, `3`}, invalid: []string{`0`, `4`},
	},
	{name: "one integer", schema: `{"type":"integer","minimum":7,"maximum":7}`, valid: []string{`7`}, invalid: []string{`6`, `8`, `70`}},
	{
		name:    "integers from far",
		schema:  `{"type":"integer","minimum":1e20}`,
		valid:   []string{`100000000000000000000`},
		invalid: []string{`99999999999999999999`},
	},
	{
		name:    "both bounds of a side",
		schema:  `{"type":"integer","minimum":3,"exclusiveMinimum":3,"maximum":5}`,
		valid:   []string{`4`, `5`},
		invalid: []string{`3`, `6`},
	},
	{
		name: "numbers between", schema: `{"type":"number","minimum":-1.5,"exclusiveMaximum":2.25}`,
		valid:   []string{`-1.5`, `-1.50`, `-1.49`, `-0.5`, `0`, `0.0`, `1`, `2`, `2.0`, `2.2`, `2.24999`, `2.1`},
		invalid: []string{`-1.51`, `-2`, `2.25`, `2.250`, `2.3`, `3`, `10`}, unwritten: []string{`1e0`, `-0`},
	},
	{
		name:    "numbers within a unit",
		schema:  `{"type":"number","minimum":5.25,"maximum":5.75}`,
		valid:   []string{`5.25`, `5.3`, `5.75`, `5.750`},
		invalid: []string{`5`, `5.2`, `5.76`, `5.751`, `6`},
	},
	{
		name:    "probability",
		schema:  `{"type":"number","minimum":0,"maximum":1}`,
		valid:   []string{`0`, `1`, `0.5`, `1.0`},
		invalid: []string{`1.1`, `-0.1`, `2`, `1.0001`},
	},
	{
		name: "positive", schema: `{"type":"number","exclusiveMinimum":0}`,
		valid: []string{`0.1`, `0.0001`, `1`, `1000`}, invalid: []string{`0`, `0.0`, `-1`, `-0.5`},
	},
	{
		name:    "negative",
		schema:  `{"type":"number","exclusiveMaximum":0}`,
		valid:   []string{`-0.1`, `-1`, `-0.001`},
		invalid: []string{`0`, `-0`, `-0.0`, `1`},
	},
	{
		name:    "all of float64",
		schema:  `{"type":"number","minimum":-1.7976931348623157e308,"maximum":1.7976931348623157e308}`,
		valid:   []string{`0`, `-5.5`},
		invalid: []string{`"x"`},
	},
	{
		name:    "more than the least float64",
		schema:  `{"type":"number","minimum":5e-324}`,
		valid:   []string{`0.1`, `3`},
		invalid: []string{`0`, `-1`},
	},
	{
		name:    "at most nearly nothing",
		schema:  `{"type":"number","minimum":0,"maximum":5e-324}`,
		valid:   []string{`0`, `0.0`},
		invalid: []string{`0.1`},
	},
	{
		name:      "hundredths",
		schema:    `{"type":"number","multipleOf":0.01,"minimum":0}`,
		valid:     []string{`0`, `1.5`, `12.99`, `1.50`},
		invalid:   []string{`1.005`, `-1`},
		unwritten: []string{`1.500`},
	},
	{
		name:    "hundreds",
		schema:  `{"type":"integer","multipleOf":100,"minimum":-250,"maximum":1000}`,
		valid:   []string{`0`, `-200`, `100`, `1000`},
		invalid: []string{`-300`, `50`, `1100`, `10`},
	},
	{
		name:    "multiples of two steps",
		schema:  `{"type":"number","multipleOf":0.1,"allOf":[{"multipleOf":10}]}`,
		valid:   []string{`0`, `20`, `-10`},
		invalid: []string{`0.1`, `15`},
	},
	{name: "integers by multipleOf", schema: `{"type":"number","multipleOf":1}`, valid: []string{`0`, `-12`}, invalid: []string{`1.5`}},
	{
		name:      "formats of integers",
		schema:    `{"type":"integer","format":"int32"}`,
		valid:     []string{`2147483647`, `-2147483648`},
		unwritten: []string{`2147483648`},
	},
	{
		name:      "enum",
		schema:    `{"enum":["a",1,null,true,[1,{"b":2}],{"k":"v"},"\"\u0001é"]}`,
		valid:     []string{`"a"`, `1`, `null`, `true`, `[1, {"b":2}]`, `{ "k": "v" }`, `"\"\u0001é"`},
		invalid:   []string{`"b"`, `2`, `false`, `[1]`, `{}`},
		unwritten: []string{`1.0`, `"\u0061"`},
	},
	{
		name:    "enum beside others",
		schema:  `{"type":["string","integer"],"enum":["a","abc",1,1.5,200,null],"minLength":2,"maximum":100}`,
		valid:   []string{`"abc"`, `1`},
		invalid: []string{`"a"`, `1.5`, `200`, `null`},
	},
	{
		name:      "const",
		schema:    `{"const":{"a":[1,"x"],"b":{}}}`,
		valid:     []string{`{"a":[1,"x"],"b":{}}`, "{\n  \"a\": [1, \"x\"],\n  \"b\": {}\n}"},
		invalid:   []string{`{"a":[1,"x"]}`},
		unwritten: []string{`{"b":{},"a":[1,"x"]}`},
	},
	{
		name:    "equal values",
		schema:  `{"allOf":[{"enum":[1,{"a":1,"b":2}]},{"enum":[1.0,{"b":2.0,"a":1}]}]}`,
		valid:   []string{`1`, `{"a":1,"b":2}`},
		invalid: []string{`2`},
	},
}
