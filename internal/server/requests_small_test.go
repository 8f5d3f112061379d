package server

import (
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
)

// smallGroups are the cases of all other calls.
func smallGroups() []requestGroup {
	return []requestGroup{
		{"Tokenize", tokenizeCases()},
		{"Detokenize", detokenizeCases()},
		{"Abort", abortCases()},
		{"HealthService/Check", componentCases()},
		{"HealthService/Watch", componentCases()},
		{"ListModels", []requestCase{taken("nothing", "")}},
		{"GetModel", getModelCases()},
		{"ListInstances", instanceCases()},
		{"WatchInstances", instanceCases()},
		{"LoadModel", loadModelCases()},
		{"UnloadModel", unloadModelCases()},
	}
}

func tokenizeCases() []requestCase {
	const model = `model:"m" `
	return slices.Concat(
		fieldValues{
			request: model, field: "text",
			good: []string{`""`, `"a"`, `" "`, `"\000"`, `"</s>"`, `"日本👍"`, `"\357\277\275"`, letters(31), letters(100), letters(1 << 20),
				letters(4_000_000)},
		}.cases(),
		[]requestCase{
			faulty("no input", model, "input", "none is set"),
			faulty("no model", `text:"hi"`, "model", "is empty"),
			faulty("nothing", "", "model input", ""),
			answered("an unknown model", `model:"n" text:"hi"`, codes.NotFound, `"n"`),
			answered("a model that is being loaded", `model:"loading" text:"hi"`, codes.Unavailable, "not ready"),
			faulty("a long model", `text:"hi" model:`+letters(129), "model", "want at most 128"),
			faulty("a model with a line end", `text:"hi" model:"m\n"`, "model", "control characters"),
			faulty("a model without a tokenizer", `model:"ids" text:"hi"`, "text", "has no tokenizer"),
			taken("chat", model+`chat{messages{role:"user" content:"hi"}}`),
			faulty("chat without messages", model+`chat{}`, "chat", ""),
			taken("pieces", model+`text:"hi" pieces:true`),
			taken("pieces of nothing", model+`text:"" pieces:true`),
			taken("pieces of as many tokens as may be", model+`pieces:true prompt_options{add_special_tokens:false} text:`+letters(maxPieces)),
			faulty("pieces of one token more", model+`pieces:true text:`+letters(maxPieces), "text", "want at most 262144"),
			taken("pieces of much text", model+`pieces:true text:"`+strings.Repeat(longToken, 60_000)+`"`),
			taken("no special tokens", model+`text:"<s>" prompt_options{add_special_tokens:false parse_special:false}`),
			{name: "invalid UTF-8", request: `model:"m"`, wire: text(2, "a\xff"), code: codes.Internal, says: "invalid UTF-8"},
			{name: "a lone surrogate", request: `model:"m"`, wire: text(2, "\xed\xa0\x80"), code: codes.Internal, says: "invalid UTF-8"},
		},
	)
}

func detokenizeCases() []requestCase {
	const model = `model:"m" `
	return slices.Concat(
		fieldValues{
			request: model, field: "token_ids",
			good: []string{"[]", "[0]", "[104,105]", "[255]", "[255,254]", "[256,257]", "[259]", times(1000, "120"), times(1_000_000, "120")},
			bad:  []string{"[260]", "[1,2,260]", "[2147483647]", "[2147483648]", "[4294967295]"}, limit: "want 0 to 259",
		}.cases(),
		[]requestCase{
			taken("no ids", model),
			faulty("no model", `token_ids:1`, "model", "is empty"),
			faulty("a model without a tokenizer", `model:"ids" token_ids:1`, "model", "has no tokenizer"),
			faulty("a model without a tokenizer, and an unknown id", `model:"ids" token_ids:999`, "model token_ids", ""),
			answered("an unknown model", `model:"n" token_ids:1`, codes.NotFound, `"n"`),
			answered("a model that is being loaded", `model:"loading" token_ids:1`, codes.Unavailable, "not ready"),
			taken("special tokens kept", model+`token_ids:[256,104] skip_special_tokens:false`),
			faulty("more text than a message holds", model+`skip_special_tokens:false token_ids:`+times(300_000, "258"), "token_ids",
				"want fewer ids"),
			{name: "an id of −1", request: model, wire: varint(2, 1<<64-1), code: codes.InvalidArgument, at: "token_ids[0]", says: "is 4294967295"},
			{name: "ids packed and not", request: model + `token_ids:1`, wire: varint(2, 260), code: codes.InvalidArgument, at: "token_ids[1]"},
		},
	)
}

func abortCases() []requestCase {
	return slices.Concat(
		fieldValues{
			field: "request_ids",
			good:  []string{"[]", `["x"]`, `[""]`, `["a b"]`, `["\000"]`, `["x","x"]`, letters(10 << 10), letters(1 << 20), times(1024, `"x"`)},
			bad:   []string{times(1025, `"x"`), times(200_000, `"x"`)}, limit: "want at most 1024",
		}.cases(),
		[]requestCase{
			taken("nothing", ""),
			taken("all", "all:true"),
			taken("all and no ids", "all:true request_ids:[]"),
			faulty("all and an id", `all:true request_ids:"x"`, "request_ids", "want none where all is true"),
			faulty("all and too many ids", `all:true request_ids:`+times(1025, `"x"`), "request_ids", ""),
		},
	)
}

func componentCases() []requestCase {
	cases := []requestCase{
		taken("nothing", ""),
		taken("one", `components:"engine/m"`),
		taken("one twice", `components:["engine/m","engine/m"]`),
		answered("one that is unknown beside one that is known", `components:["engine/m","engine/n"]`, codes.NotFound, `"engine/n"`),
		faulty("too many", "components:"+times(maxComponents+1, `"engine/m"`), "components", "want at most 128"),
		faulty("far too many", "components:"+times(200_000, `""`), "components", "want at most 128"),
		taken("as many as may be", "components:"+times(maxComponents, `"engine/m"`)),
	}
	for _, name := range []string{"", "engine", "engine/", "ENGINE/M", "engine/m ", "../engine/m", "\x00", "м", strings.Repeat("x", 100_000)} {
		cases = append(cases, answered("unknown "+brief(name), "components:"+quoted(name), codes.NotFound, "is not a component"))
	}
	return cases
}

func getModelCases() []requestCase {
	cases := []requestCase{
		taken("one that is ready", `name:"m"`),
		taken("one that is being loaded", `name:"loading"`),
		faulty("no name", "", "name", "is empty"),
		faulty("a long name", "name:"+letters(129), "name", "want at most 128"),
		faulty("a name with a line end", `name:"m\n"`, "name", "control characters"),
	}
	for _, name := range []string{"n", "M", "../m", "/etc/passwd", "м"} {
		cases = append(cases, answered("unknown model "+name, "name:"+quoted(name), codes.NotFound, "unknown model"))
	}
	return cases
}

// instanceCases are of names that no instance holds, which is no error.
func instanceCases() []requestCase {
	return slices.Concat(
		fieldValues{field: "model", good: []string{`""`, `"m"`, `"n"`, `"../m"`, `"м"`, letters(128)}}.cases(),
		fieldValues{field: "model", bad: []string{letters(129), letters(1 << 20)}, limit: "want at most 128"}.cases(),
		fieldValues{field: "model", bad: []string{`"m\000"`, `"m\n"`}, limit: "control characters"}.cases(),
	)
}
