package server

import (
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
)

// inputGroups are the cases of what a request is called, of its model and of its prompt.
func inputGroups() []requestGroup {
	return []requestGroup{
		{"Generate", slices.Concat(requestIDCases(withText), modelCases(), promptCases(), chatCases())},
		{"GenerateStream", slices.Concat(requestIDCases(withIDs), modelCases(), promptCases())},
	}
}

func requestIDCases(request string) []requestCase {
	return slices.Concat(
		fieldValues{
			request: request, field: "request_id",
			good: []string{`""`, `"a"`, `"0"`, `"._:-"`, `"AZaz09"`, `"-"`, `".."`, letters(127), letters(128)},
			bad: []string{
				`" "`, `"a b"`, `"a\tb"`, `"a\nb"`, `"a\r\nb"`, `"a\000b"`, `"a\033[31m"`, `"a/b"`, `"a\\b"`, `"a,b"`, `"a%b"`, `"a{b}"`, `"a'b"`,
				`"a\"b"`, `"a@b"`, `"a+b"`, `"a=b"`, `"a;b"`, `"a|b"`, `"a*b"`, `"\177"`, `"é"`, `"ａ"`, `"日本"`, `"👍"`, `"a\342\200\256b"`,
				`"a\342\200\213b"`,
			},
			limit: "[A-Za-z0-9._:-]",
		}.cases(),
		fieldValues{
			request: request, field: "request_id", bad: []string{letters(129), letters(10 << 10), letters(1 << 20)}, limit: "want at most 128",
		}.cases(),
	)
}

func modelCases() []requestCase {
	const text = `text:"hi" `
	cases := slices.Concat(
		fieldValues{
			request: text, field: "model",
			bad:   []string{`"m\000"`, `"\000"`, `"m\n"`, `"m\r"`, `"m\t"`, `"m\033[0m"`, `"m\177"`, `"m\001"`},
			limit: "control characters",
		}.cases(),
		fieldValues{request: text, field: "model", bad: []string{letters(129), letters(10 << 10), letters(1 << 20)},
			limit: "want at most 128"}.cases(),
		[]requestCase{
			faulty("no model", text, "model", "is empty"),
			faulty("an empty model", text+`model:""`, "model", "is empty"),
			answered("a model that is being loaded", text+`model:"loading"`, codes.Unavailable, "not ready"),
			faulty("no model and no input", "", "model input", "is empty"),
		},
	)
	for _, name := range []string{
		"M", " m", "m ", "m/", "./m", "../m", "../../etc/passwd", "/etc/passwd", "m:latest", "m@sha256", "%6d", "m%00", "${HOME}", "$(id)",
		"`id`", "*", "?",
		"<m>", "'", "м", "ｍ", "m\u0301", "\u202em", "\u200bm", "\ufeffm", "日本", "👍", "None", "null", "0", "-1", strings.Repeat("x", 128),
		strings.Repeat("é", 64),
	} {
		cases = append(cases, answered("unknown model "+name, text+"model:"+quoted(name), codes.NotFound, "unknown model"))
	}
	return cases
}

// quoted writes a text for the text form, in which Go's escapes of runes are known too.
func quoted(text string) string { return strconv.Quote(text) }

func promptCases() []requestCase {
	const model = `model:"m" `
	return slices.Concat(
		fieldValues{
			request: model, field: "text",
			good: []string{
				`"a"`, `" "`, `"\n"`, `"   "`, `"\000"`, `"\000\001\002\003"`, `"\177"`, `"\033[2J"`, `"</s>"`, `"<s>"`, `"<s></s><s>"`, `"<"`,
				`"%s%n"`, `"{{7*7}}"`,
				`"\357\273\277a"`, `"\357\277\275"`, `"\357\277\277"`, `"日本語"`, `"👍🏽"`, `"👨\342\200\215👩"`, `"e\314\201\314\201"`, `"\342\200\256abc"`,
				`"\364\217\277\277"`, letters(30),
			},
		}.cases(),
		fieldValues{request: model, field: "text", bad: []string{`""`}, limit: "is empty"}.cases(),
		fieldValues{request: model, field: "text", bad: []string{letters(31), letters(32), letters(1900)}, limit: "want at most 31"}.cases(),
		fieldValues{
			request: model, field: "text", bad: []string{letters(2 << 10), letters(64 << 10), letters(1 << 20), letters(3 << 20), `"` + strings.Repeat(" ", 1<<20) + `"`},
			limit: "want at most 31 (the context of 32, less one to generate)",
		}.cases(),
		fieldValues{
			request: model, field: "token_ids.ids",
			good: []string{"0", "[0]", "[259]", "[256,257,258,259]", times(30, "1"), times(31, "1")},
			bad:  []string{"260", "[1,260]", "[4294967295]", "[2147483648]", "[2147483647]", "[65536]", "[0,1,2,1000000]"}, limit: "want 0 to 259",
		}.cases(),
		fieldValues{
			request: model, field: "token_ids.ids", bad: []string{times(32, "1"), times(33, "1"), times(5000, "1"), times(500_000, "1")}, limit: "want at most 31",
		}.cases(),
		[]requestCase{
			faulty("no input", model, "input", "none is set, want exactly one of text, token_ids and chat"),
			faulty("no ids", model+`token_ids{}`, "token_ids.ids", "is empty"),
			faulty("text of a model without a tokenizer", `model:"ids" text:"hi"`, "text", "has no tokenizer"),
			faulty("long text of a model without a tokenizer", `model:"ids" text:`+letters(1<<20), "text", "has no tokenizer"),
			taken("ids of a model without a tokenizer", `model:"ids" token_ids{ids:1}`),
			taken("no BOS", model+`text:`+letters(31)+`prompt_options{add_special_tokens:false}`),
			taken("BOS said", model+`text:`+letters(30)+`prompt_options{add_special_tokens:true}`),
			faulty("no room for BOS", model+`text:`+letters(31)+`prompt_options{add_special_tokens:true}`, "text", "want at most 31"),
			taken("special tokens as text", model+`text:"<s></s>" prompt_options{parse_special:false}`),
			taken("special tokens parsed", model+`text:"`+strings.Repeat("<s>", 30)+`" prompt_options{parse_special:true}`),
			faulty("special tokens as too long a text", model+`text:"`+strings.Repeat("<s>", 11)+`" prompt_options{parse_special:false}`, "text",
				"want at most 31"),
			taken("options of a prompt of ids", model+`token_ids{ids:1} prompt_options{add_special_tokens:false parse_special:false}`),
			taken("empty messages", model+`text:"hi" prompt_options{} sampling{} stopping{} output{}`),
			{name: "text and then ids: the last counts", request: withText, wire: message(4, varint(1, 7))},
			{name: "ids and then an empty text: the last counts", request: withIDs, wire: text(3, ""), code: codes.InvalidArgument, at: "text",
				says: "is empty"},
			{name: "the model twice: the last counts", request: withText, wire: text(2, "n"), code: codes.NotFound, says: `"n"`},
			{name: "ids in two parts", request: withIDs, wire: message(4, text(1, "\x03\x84\x02")), code: codes.InvalidArgument,
				at: "token_ids.ids[3]", says: "is 260"},
			{name: "ids not packed", request: `model:"m"`, wire: message(4, varint(1, 1), varint(1, 260)), code: codes.InvalidArgument,
				at: "token_ids.ids[1]"},
			{name: "an id of more than 32 bits is cut", request: `model:"m"`, wire: message(4, varint(1, 1<<32|260)), code: codes.InvalidArgument,
				at: "token_ids.ids[0]"},
			{name: "a negative id", request: `model:"m"`, wire: message(4, varint(1, 1<<64-1)), code: codes.InvalidArgument, at: "token_ids.ids[0]",
				says: "is 4294967295"},
		},
		fieldValues{request: withText, field: "prompt_options.truncate_to", good: []string{"1", "31", "4294967295"}, bad: []string{"0"}}.cases(),
		fieldValues{
			request: withText, field: "prompt_options.truncation_side", good: []string{"TRUNCATION_SIDE_UNSPECIFIED", "TRUNCATION_SIDE_LEFT", "TRUNCATION_SIDE_RIGHT"},
		}.cases(),
		fieldValues{request: withText, field: "priority", good: []string{"-100", "0", "100"},
			bad: []string{"-101", "101", "2147483647", "-2147483648"}}.cases(),
		fieldValues{request: withText, field: "cache.salt", good: []string{`""`, letters(128)},
			bad: []string{letters(129), letters(10 << 10)}}.cases(),
		fieldValues{request: withText, field: "cache.bypass", good: []string{"false", "true"}}.cases(),
		fieldValues{request: withText, field: "speculation.ngram.max_draft_tokens", good: []string{"1", "15"},
			bad: []string{"0", "16", "4294967295"}, limit: "want 1 to 15"}.cases(),
		fieldValues{request: withText, field: "speculation.ngram.min_match", good: []string{"1", "32"},
			bad: []string{"0", "33", "4294967295"}, limit: "want 1 to 32"}.cases(),
		[]requestCase{
			taken("speculation without a kind", withText+`speculation{}`),
			taken("speculation with penalties", withText+`speculation{ngram{}} sampling{repetition_penalty:1.2}`),
		},
		fieldValues{request: withText, field: "dry_run", good: []string{"false", "true"}}.cases(),
	)
}

// chatCases are of a model with a chat template, and of one without a tokenizer.
func chatCases() []requestCase {
	const model = `model:"m" `
	return []requestCase{
		taken("chat", model+`chat{messages{role:"user" content:"hi"}}`),
		faulty("chat without messages", model+`chat{}`, "chat", ""),
		faulty("chat of many messages", model+`chat{`+strings.Repeat(`messages{role:"user"} `, 20_000)+`}`, "chat", ""),
		faulty("chat of an unknown role", model+`chat{messages{role:"</s>" content:"hi"}}`, "chat", ""),
		faulty("chat of no role", model+`chat{messages{content:"hi"}}`, "chat", ""),
		faulty("chat both closed and open", model+`chat{messages{role:"user"} add_generation_prompt:true continue_final_message:true}`, "chat",
			""),
		faulty("chat of a model without a tokenizer", `model:"ids" chat{messages{role:"user" content:"hi"}}`, "chat", ""),
	}
}
