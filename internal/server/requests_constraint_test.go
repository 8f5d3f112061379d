package server

import (
	"slices"
	"strings"
)

// constraintGroups are the cases of what an output must look like.
func constraintGroups() []requestGroup {
	return []requestGroup{
		{"Generate", slices.Concat(constraintForms(withIDs), constraintLimits(), constraintCompany())},
		{"GenerateStream", constraintForms(withText)},
	}
}

// constraintForms are of each form, well and badly written.
func constraintForms(request string) []requestCase {
	const regex, schema, grammar, choices = "constraint.regex", "constraint.json_schema", "constraint.grammar", "constraint.choice.texts"
	return slices.Concat(
		fieldValues{
			request: request, field: regex,
			good: []string{`"a"`, `"[a-z]{3,5}"`, `"(yes|no)"`, `"^a$"`, `"(?i)abc"`, `"\\d{4}-\\d{2}"`, `"\\p{Greek}+"`, `"日本?"`, `"(a*)*b"`},
			bad: []string{`"("`, `"[z-a]"`, `"a{2,1}"`, `"\\"`, `"*"`, `"(?<x"`, `"a\\bc"`, `"a^b"`, `"(?=a)"`, `"\\1"`, `"[[:nothing:]]"`,
				`"a{1001}"`, `"[^\\x00-\\x{10FFFF}]"`, `"^$"`, `""`},
		}.cases(),
		fieldValues{
			request: request, field: grammar,
			good: []string{`"root ::= \"a\""`, `"root ::= [0-9]+ (\".\" [0-9]+)?"`, `"# list\nroot ::= \"[\" x (\",\" x)* \"]\"\nx ::= root | \"1\""`},
			bad: []string{`"a ::= \"b\""`, `"root ::= x"`, `"root ::= \"a"`, `"root ::= root \"a\""`, `"root ::= \"a\" )"`, `"root = \"a\""`, `"root ::= [z-a]"`,
				`"root ::= \"\""`, `"root ::= root"`, `"root ::= \"a\"\nroot ::= \"b\""`, `"root ::= \"a\"{3,2}"`, `"\x00"`},
		}.cases(),
		fieldValues{
			request: request, field: schema,
			good: []string{`"{}"`, `"true"`, `"{\"type\":\"object\"}"`, `"{\"enum\":[1,\"a\",null]}"`, `"{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"maxItems\":3}"`,
				`"{\"$defs\":{\"n\":{\"type\":\"object\",\"properties\":{\"next\":{\"$ref\":\"#/$defs/n\"}}}},\"$ref\":\"#/$defs/n\"}"`},
			bad: []string{`"{"`, `"false"`, `"[]"`, `"1"`, `"{\"type\":\"text\"}"`, `"{\"typ\":\"string\"}"`, `"{\"$ref\":\"#/none\"}"`, `"{\"$ref\":\"http://a/b\"}"`,
				`"{\"type\":\"string\",\"type\":\"null\"}"`, `"{\"minLength\":-1}"`, `"{\"pattern\":\"(\"}"`, `"{\"not\":{}}"`, `"{\"enum\":[]}"`},
		}.cases(),
		fieldValues{
			request: request, field: choices,
			good: []string{`["a"]`, `["a","ab","b"]`, `["a","a"]`, `["日本","\n"]`, `["\""]`, times(1024, `"a"`), letters(4096)},
			bad:  []string{`[""]`, `["a",""]`, letters(4097), times(1025, `"a"`), times(100_000, `"a"`)},
		}.cases(),
		[]requestCase{
			taken("any object", request+`constraint{json_object:true}`),
			faulty("no object", request+`constraint{json_object:false}`, "constraint.json_object", "want true, or another form"),
			faulty("no form", request+`constraint{}`, "constraint", "has no form, want exactly one of"),
			faulty("no choice", request+`constraint{choice{}}`, "constraint.choice.texts", "want at least 1 text"),
		},
	)
}

// constraintLimits tell where the fault is, and how much is too much.
func constraintLimits() []requestCase {
	long := letters(maxFormBytes + 1)
	return []requestCase{
		faulty("a long expression", withIDs+`constraint{regex:`+long+`}`, "constraint.regex", "has 262145 bytes, want at most 65536"),
		faulty("a long schema", withIDs+`constraint{json_schema:`+long+`}`, "constraint.json_schema", "has 262145 bytes, want at most 262144"),
		faulty("a long grammar", withIDs+`constraint{grammar:`+long+`}`, "constraint.grammar", "has 262145 bytes, want at most 262144"),
		faulty("long choices", withIDs+`constraint{choice{texts:`+times(65, letters(4096))+`}}`, "constraint.choice.texts", "has 266240 bytes in all"),
		faulty("the fourth choice", withIDs+`constraint{choice{texts:["a","b","c",""]}}`, "constraint.choice.texts[3]", "has 0 bytes, want 1 to 4096"),
		faulty("the place in a schema", withIDs+`constraint{json_schema:"{\"type\":\"object\",\"properties\":{\"x\":{\"type\":\"text\"}}}"}`,
			"constraint.json_schema", "/properties/x/type"),
		faulty("the line of a grammar", withIDs+`constraint{grammar:"root ::= a\na ::= \"b\" |\n  )"}`, "constraint.grammar", "line 3"),
		faulty("an expression that repeats for ever", withIDs+`constraint{regex:"((a{1000}){1000}){1000}"}`, "constraint.regex", ""),
		faulty("a million letters", withIDs+`constraint{regex:"(a{1000}){1000}"}`, "constraint.regex", ""),
		faulty("a schema of brackets", withIDs+`constraint{json_schema:"`+strings.Repeat("[", 30_000)+`"}`, "constraint.json_schema", ""),
		faulty("a grammar in a grammar in a grammar", withIDs+`constraint{grammar:"root ::= `+strings.Repeat("(", 30_000)+`"}`, "constraint.grammar", ""),
		faulty("a schema that needs itself", withIDs+`constraint{json_schema:"{\"$ref\":\"#\"}"}`, "constraint.json_schema", ""),
		faulty("an endless object", withIDs+`constraint{json_schema:"{\"type\":\"object\",\"required\":[\"a\"],\"properties\":{\"a\":{\"$ref\":\"#\"}}}"}`,
			"constraint.json_schema", ""),
		faulty("only the empty text", withIDs+`constraint{regex:"(a{0})*"}`, "constraint.regex", "no text but the empty one"),
		faulty("two faults at once", withIDs+`constraint{choice{texts:[""]}} sampling{temperature:-1}`,
			"constraint.choice.texts[0] sampling.temperature", "want 1 to 4096"),
		faulty("a fault elsewhere: nothing is compiled", withIDs+`constraint{regex:"("} sampling{temperature:-1}`, "sampling.temperature", ""),
	}
}

// constraintCompany is a constraint beside other fields.
func constraintCompany() []requestCase {
	const form = `constraint{regex:"[a-z]+"} `
	return []requestCase{
		faulty("without a tokenizer", `model:"ids" token_ids{ids:1} `+form, "constraint", "has no tokenizer"),
		taken("of a chat", `model:"m" chat{messages{role:"user" content:"hi"}} `+form),
		taken("of several continuations", withIDs+form+`sampling{n:16}`),
		taken("with least tokens", withIDs+form+`stopping{min_tokens:3 max_tokens:9}`),
		taken("without end tokens", withIDs+form+`stopping{ignore_eos:true}`),
		taken("with stop strings", withIDs+form+`stopping{stop_strings:["x"]}`),
		taken("with stop tokens", withIDs+form+`stopping{stop_token_ids:[98]}`),
		taken("with a detector of loops", withIDs+form+`stopping{loop_detection{}}`),
		taken("with banned strings", withIDs+form+`sampling{banned_strings:["x"]}`),
		taken("with banned tokens", withIDs+form+`sampling{banned_token_ids:[98]}`),
		taken("with allowed tokens", withIDs+form+`sampling{allowed_token_ids:[98]}`),
		taken("with penalties and log-probabilities", withIDs+form+`sampling{presence_penalty:1} output{logprobs:2}`),
		taken("with speculation", withIDs+form+`speculation{ngram{}}`),
		taken("with an echo of special tokens", withIDs+form+`output{echo:true skip_special_tokens:false}`),
		taken("without text", withIDs+form+`output{text:false}`),
		faulty("with what stopped it", withIDs+form+`stopping{include_stop:true}`, "stopping.include_stop", "want false beside a constraint"),
		taken("in a dry run", withIDs+form+`dry_run:true`),
		faulty("in a dry run, badly written", withIDs+`constraint{regex:"("} dry_run:true`, "constraint.regex", ""),
	}
}
