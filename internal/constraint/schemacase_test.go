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
		valid: []string{`-17`, `-9`, `0`, `9`, `10`, `999`, `1000`, `1199`, `1204`}, invalid: []string{`-18`, `1205`, `1210`, `2000`, `9999`, `-20`, `-100`},
		unwritten: []string{`-0`, `5.0`},
	},
	{name: "integers above", schema: `{"type":"integer","exclusiveMinimum":99}`, valid: []string{`100`, `101`, `1000000`}, invalid: []string{`99`, `1`, `-1`, `0`}},
	{name: "integers below", schema: `{"type":"integer","exclusiveMaximum":-99}`, valid: []string{`-100`, `-12345`}, invalid: []string{`-99`, `-1`, `0`, `100`}},
	{
		name: "integers between fractions", schema: `{"type":"integer","minimum":0.5,"exclusiveMaximum":3.5}`,
		valid: []string{`1`, `3`}, invalid: []string{`0`, `4`},
	},
	{name: "one integer", schema: `{"type":"integer","minimum":7,"maximum":7}`, valid: []string{`7`}, invalid: []string{`6`, `8`, `70`}},
	{name: "integers from far", schema: `{"type":"integer","minimum":1e20}`, valid: []string{`100000000000000000000`}, invalid: []string{`99999999999999999999`}},
	{name: "both bounds of a side", schema: `{"type":"integer","minimum":3,"exclusiveMinimum":3,"maximum":5}`, valid: []string{`4`, `5`}, invalid: []string{`3`, `6`}},
	{
		name: "numbers between", schema: `{"type":"number","minimum":-1.5,"exclusiveMaximum":2.25}`,
		valid:   []string{`-1.5`, `-1.50`, `-1.49`, `-0.5`, `0`, `0.0`, `1`, `2`, `2.0`, `2.2`, `2.24999`, `2.1`},
		invalid: []string{`-1.51`, `-2`, `2.25`, `2.250`, `2.3`, `3`, `10`}, unwritten: []string{`1e0`, `-0`},
	},
	{name: "numbers within a unit", schema: `{"type":"number","minimum":5.25,"maximum":5.75}`, valid: []string{`5.25`, `5.3`, `5.75`, `5.750`}, invalid: []string{`5`, `5.2`, `5.76`, `5.751`, `6`}},
	{name: "probability", schema: `{"type":"number","minimum":0,"maximum":1}`, valid: []string{`0`, `1`, `0.5`, `1.0`}, invalid: []string{`1.1`, `-0.1`, `2`, `1.0001`}},
	{
		name: "positive", schema: `{"type":"number","exclusiveMinimum":0}`,
		valid: []string{`0.1`, `0.0001`, `1`, `1000`}, invalid: []string{`0`, `0.0`, `-1`, `-0.5`},
	},
	{name: "negative", schema: `{"type":"number","exclusiveMaximum":0}`, valid: []string{`-0.1`, `-1`, `-0.001`}, invalid: []string{`0`, `-0`, `-0.0`, `1`}},
	{name: "all of float64", schema: `{"type":"number","minimum":-1.7976931348623157e308,"maximum":1.7976931348623157e308}`, valid: []string{`0`, `-5.5`}, invalid: []string{`"x"`}},
	{name: "more than the least float64", schema: `{"type":"number","minimum":5e-324}`, valid: []string{`0.1`, `3`}, invalid: []string{`0`, `-1`}},
	{name: "at most nearly nothing", schema: `{"type":"number","minimum":0,"maximum":5e-324}`, valid: []string{`0`, `0.0`}, invalid: []string{`0.1`}},
	{name: "hundredths", schema: `{"type":"number","multipleOf":0.01,"minimum":0}`, valid: []string{`0`, `1.5`, `12.99`, `1.50`}, invalid: []string{`1.005`, `-1`}, unwritten: []string{`1.500`}},
	{name: "hundreds", schema: `{"type":"integer","multipleOf":100,"minimum":-250,"maximum":1000}`, valid: []string{`0`, `-200`, `100`, `1000`}, invalid: []string{`-300`, `50`, `1100`, `10`}},
	{name: "integers by multipleOf", schema: `{"type":"number","multipleOf":1}`, valid: []string{`0`, `-12`}, invalid: []string{`1.5`}},
	{name: "formats of integers", schema: `{"type":"integer","format":"int32"}`, valid: []string{`2147483647`, `-2147483648`}, unwritten: []string{`2147483648`}},
	{
		name: "string lengths", schema: `{"type":"string","minLength":2,"maxLength":3}`,
		valid: []string{`"ab"`, `"éé"`, `"\n\t"`, `"😀\ud83d\ude00"`, `"abc"`}, invalid: []string{`""`, `"a"`, `"abcd"`, `"\n"`, `"\ud83d\ude00"`, `2`},
	},
	{name: "empty string", schema: `{"type":"string","maxLength":0}`, valid: []string{`""`}, invalid: []string{`"a"`}},
	{name: "long string", schema: `{"type":"string","maxLength":1000000}`, valid: []string{`"a"`}, invalid: []string{`1`}},
	{name: "pattern anchored", schema: `{"type":"string","pattern":"^[A-Z]{2}-\\d+$"}`, valid: []string{`"AB-1"`, `"ZZ-000"`}, invalid: []string{`"AB-"`, `"xAB-1"`, `"AB-1x"`}},
	{name: "pattern searched", schema: `{"type":"string","pattern":"b+"}`, valid: []string{`"b"`, `"abba"`, `"\n\"b\\"`}, invalid: []string{`""`, `"a"`}},
	{name: "pattern anchored at the start", schema: `{"type":"string","pattern":"^a"}`, valid: []string{`"a"`, `"ab\u00e9"`}, invalid: []string{`"ba"`, `""`}},
	{name: "pattern anchored at the end", schema: `{"type":"string","pattern":"a$"}`, valid: []string{`"a"`, `"ba"`}, invalid: []string{`"ab"`, `"a\n"`}},
	{name: "pattern of alternatives", schema: `{"type":"string","pattern":"^a$|b|^c"}`, valid: []string{`"a"`, `"xbx"`, `"cx"`}, invalid: []string{`"ax"`, `"xc"`, `""`}},
	{name: "pattern of an anchored group", schema: `{"type":"string","pattern":"^(?:foo|fo)$"}`, valid: []string{`"foo"`, `"fo"`}, invalid: []string{`"f"`, `"foox"`}},
	{name: "pattern of an optional start", schema: `{"type":"string","pattern":"(^|,)x(,|$)"}`, valid: []string{`"x"`, `"a,x,b"`, `"x,"`}, invalid: []string{`"ax"`, `"xa"`, `",xa"`}},
	{name: "pattern that is nothing", schema: `{"type":"string","pattern":""}`, valid: []string{`""`, `"a"`}, invalid: []string{`1`}},
	{name: "pattern of what is escaped", schema: `{"type":"string","pattern":"^[\\\\\"\\n\\x01/]+$"}`, valid: []string{`"\\\"\n\u0001/"`}, invalid: []string{`""`, `"a"`}, unwritten: []string{`"\u005c"`, `"\/"`}},
	{name: "pattern of JavaScript's escapes", schema: `{"type":"string","pattern":"^\\u00e9\\uD83D\\uDE00\\/$"}`, valid: []string{`"é😀/"`}, invalid: []string{`"e"`}, judged: `{"type":"string","pattern":"^\\x{E9}\\x{1F600}/$"}`},
	{name: "pattern without white space", schema: `{"type":"string","pattern":"^\\S+[\\S]$"}`, valid: []string{`"ab"`}, invalid: []string{`"a b"`, `"a"`}, unwritten: []string{"\"a\u00a0\""}},
	{name: "pattern in either case", schema: `{"type":"string","pattern":"^(?i)yes$"}`, valid: []string{`"YeS"`, `"yes"`}, invalid: []string{`"no"`}},
	{name: "pattern of letters", schema: `{"type":"string","pattern":"^\\p{L}{1,50}$"}`, valid: []string{`"aé日"`}, invalid: []string{`"1"`, `""`}},
	{name: "pattern and length", schema: `{"type":"string","pattern":"^[a-z][a-z0-9_]*$","minLength":3,"maxLength":5}`, valid: []string{`"abc"`, `"a_1_2"`}, invalid: []string{`"ab"`, `"abcdef"`, `"1bc"`}},
	{name: "pattern that has the length", schema: `{"type":"string","pattern":"^[A-Z]{3}$","minLength":3,"maxLength":3}`, valid: []string{`"ABC"`}, invalid: []string{`"AB"`}},
	{name: "pattern of shorter alternatives", schema: `{"type":"string","pattern":"^(?:abcdef|a|bc)+$","maxLength":4}`, valid: []string{`"a"`, `"abc"`, `"bc"`}, invalid: []string{`"abcdef"`, `""`}},
	{name: "pattern searched within a length", schema: `{"type":"string","pattern":"@","minLength":3,"maxLength":9}`, valid: []string{`"ab@"`, `"ab@c"`}, unwritten: []string{`"@ab"`}, invalid: []string{`"@"`, `"@123456789"`, `"abc"`}},
	{name: "date", schema: `{"type":"string","format":"date"}`, valid: []string{`"2024-02-29"`, `"2000-02-29"`, `"1999-12-31"`}, invalid: []string{`"2023-02-29"`, `"1900-02-29"`, `"2024-04-31"`, `"2024-13-01"`, `"2024-1-1"`, `"2024-00-10"`}},
	{name: "time", schema: `{"type":"string","format":"time"}`, valid: []string{`"23:59:59Z"`, `"00:00:00.123+01:00"`}, invalid: []string{`"24:00:00Z"`, `"12:00:00"`, `"12:60:00Z"`}},
	{name: "date-time", schema: `{"type":"string","format":"date-time"}`, valid: []string{`"2024-02-29T12:00:00Z"`}, invalid: []string{`"2024-02-29 12:00:00Z"`, `"2024-02-30T12:00:00Z"`}},
	{name: "duration", schema: `{"type":"string","format":"duration"}`, valid: []string{`"P1Y2M3DT4H5M6S"`, `"PT36H"`, `"P4W"`, `"P2D"`}, invalid: []string{`"P"`, `"PT"`, `"P1"`, `"1Y"`, `"P1W2D"`}},
	{name: "uuid", schema: `{"type":"string","format":"uuid"}`, valid: []string{`"2eb8aa08-aa98-11ea-b4aa-73b441d16380"`}, invalid: []string{`"2eb8aa08aa9811eab4aa73b441d16380"`, `"2eb8aa08-aa98-11ea-b4aa-73b441d1638"`}},
	{name: "ipv4", schema: `{"type":"string","format":"ipv4"}`, valid: []string{`"0.0.0.0"`, `"255.255.255.255"`}, invalid: []string{`"256.0.0.1"`, `"1.2.3"`, `"01.2.3.4"`}},
	{name: "ipv6", schema: `{"type":"string","format":"ipv6"}`, valid: []string{`"::"`, `"::1"`, `"1::"`, `"1:2:3:4:5:6:7:8"`, `"::ffff:1.2.3.4"`, `"1:2:3::8"`}, invalid: []string{`"1"`, `"1:2:3:4:5:6:7"`, `"1::2::3"`, `"1:2:3:4:5:6:7:8:9"`, `"12345::"`}},
	{name: "hostname", schema: `{"type":"string","format":"hostname"}`, valid: []string{`"a"`, `"www.example.com"`, `"a-b.c"`}, invalid: []string{`"-a"`, `"a..b"`, `"a-"`, `""`}},
	{name: "email", schema: `{"type":"string","format":"email","maxLength":254}`, valid: []string{`"joe.bloggs@example.com"`, `"a+b@x.org"`}, invalid: []string{`"a"`, `"a b@b.c"`, `"a.@b.c"`}},
	{name: "uri", schema: `{"type":"string","format":"uri","minLength":1,"maxLength":2083}`, valid: []string{`"https://example.com/a/b?c=d%20e"`, `"http://x:8080"`}, invalid: []string{`"//example.com"`, `"x"`, `"http://a b"`}},
	{name: "json-pointer", schema: `{"type":"string","format":"json-pointer"}`, valid: []string{`""`, `"/a/b~0~1"`}, invalid: []string{`"a"`, `"/~"`}},
	{name: "enum", schema: `{"enum":["a",1,null,true,[1,{"b":2}],{"k":"v"},"\"\u0001é"]}`, valid: []string{`"a"`, `1`, `null`, `true`, `[1, {"b":2}]`, `{ "k": "v" }`, `"\"\u0001é"`}, invalid: []string{`"b"`, `2`, `false`, `[1]`, `{}`}, unwritten: []string{`1.0`, `"\u0061"`}},
	{name: "enum beside others", schema: `{"type":["string","integer"],"enum":["a","abc",1,1.5,200,null],"minLength":2,"maximum":100}`, valid: []string{`"abc"`, `1`}, invalid: []string{`"a"`, `1.5`, `200`, `null`}},
	{name: "const", schema: `{"const":{"a":[1,"x"],"b":{}}}`, valid: []string{`{"a":[1,"x"],"b":{}}`, "{\n  \"a\": [1, \"x\"],\n  \"b\": {}\n}"}, invalid: []string{`{"a":[1,"x"]}`}, unwritten: []string{`{"b":{},"a":[1,"x"]}`}},
	{name: "equal values", schema: `{"allOf":[{"enum":[1,{"a":1,"b":2}]},{"enum":[1.0,{"b":2.0,"a":1}]}]}`, valid: []string{`1`, `{"a":1,"b":2}`}, invalid: []string{`2`}},
}
