package server

import (
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
)

// stoppingGroups are the cases of when to stop.
func stoppingGroups() []requestGroup {
	return []requestGroup{
		{"Generate", slices.Concat(stoppingCases(), stoppingContradictions())},
		{"GenerateStream", stoppingCases()},
	}
}

// stoppingCases are of a prompt of two tokens in a context of 32.
func stoppingCases() []requestCase {
	return slices.Concat(
		fieldValues{
			request: withIDs, field: "stopping.max_tokens",
			good: []string{"1", "2", "29", "30"}, bad: []string{"31", "32", "33", "2147483647", "2147483648", "4294967295"}, limit: "want at most 30",
		}.cases(),
		fieldValues{request: withIDs, field: "stopping.max_tokens", bad: []string{"0"}, limit: "want at least 1"}.cases(),
		fieldValues{
			request: withIDs, field: "stopping.min_tokens",
			good: []string{"0", "1", "30"}, bad: []string{"31", "32", "2147483648", "4294967295"}, limit: "want at most 30",
		}.cases(),
		fieldValues{
			request: withIDs, field: "stopping.stop_token_ids",
			good: []string{"[0]", "[259]", "[1,1,1]", times(16, "3")}, bad: []string{times(17, "3"), times(1024, "3"), times(500_000, "3")}, limit: "want at most 16",
		}.cases(),
		fieldValues{
			request: withIDs, field: "stopping.stop_token_ids", bad: []string{"[260]", "[1,260]", "[2147483648]", "[4294967295]"}, limit: "want 0 to 259",
		}.cases(),
		fieldValues{
			request: withIDs, field: "stopping.stop_strings",
			good: []string{`["x"]`, `["\n\n"]`, `["日本"]`, letters(1024), times(16, `"x"`)},
			bad:  []string{`[""]`, `["x",""]`, letters(1025), letters(10 << 10), times(17, `"x"`), times(10_000, `"x"`)},
		}.cases(),
		fieldValues{request: withIDs, field: "stopping.include_stop", good: []string{"false", "true"}}.cases(),
		fieldValues{request: withIDs, field: "stopping.ignore_eos", good: []string{"false", "true"}}.cases(),
		fieldValues{
			request: withIDs, field: "stopping.time_limit",
			good: []string{"{seconds:1}", "{seconds:3600}"},
			bad: []string{"{seconds:-1}", "{nanos:-1}", "{seconds:1 nanos:-1}", "{seconds:1 nanos:1000000000}", "{seconds:315576000001}",
				"{seconds:9223372036854775807}"},
		}.cases(),
		fieldValues{request: withIDs, field: "stopping.loop_detection.max_period", good: []string{"1", "256"},
			bad: []string{"0", "257", "4294967295"}}.cases(),
		fieldValues{request: withIDs, field: "stopping.loop_detection.min_repeats", good: []string{"3", "8"},
			bad: []string{"0", "1", "2"}}.cases(),
	)
}

func stoppingContradictions() []requestCase {
	return []requestCase{
		taken("min_tokens of max_tokens", withIDs+`stopping{max_tokens:5 min_tokens:5}`),
		faulty("min_tokens above max_tokens", withIDs+`stopping{max_tokens:5 min_tokens:6}`, "stopping.min_tokens",
			"want at most max_tokens, which is 5"),
		faulty("min_tokens 2^32-1 above max_tokens", withIDs+`stopping{max_tokens:1 min_tokens:4294967295}`, "stopping.min_tokens",
			"want at most max_tokens"),
		faulty("both beyond the room", withIDs+`stopping{max_tokens:31 min_tokens:31}`, "stopping.max_tokens", "want at most 30"),
		faulty("max_tokens beyond the room of the longest prompt", `model:"m" token_ids{ids:`+times(31, "1")+`} stopping{max_tokens:2}`,
			"stopping.max_tokens", "want at most 1"),
		taken("max_tokens of the room of the longest prompt", `model:"m" token_ids{ids:`+times(31, "1")+`} stopping{max_tokens:1}`),
		taken("max_tokens of the room of the shortest prompt", `model:"m" token_ids{ids:1} stopping{max_tokens:31}`),
		faulty("a prompt and max_tokens that overflow together", `model:"m" token_ids{ids:`+times(31, "1")+`} stopping{max_tokens:4294967295}`,
			"stopping.max_tokens", "want at most 1"),
		faulty("max_tokens of a text", `model:"m" text:"hi" stopping{max_tokens:30}`, "stopping.max_tokens", "want at most 29"),
		taken("max_tokens of a text that fit", `model:"m" text:"hi" stopping{max_tokens:29}`),
		taken("stop tokens that are end tokens and ignored", withIDs+`stopping{stop_token_ids:[257] ignore_eos:true}`),
		taken("min_tokens and stop tokens", withIDs+`stopping{min_tokens:30 stop_token_ids:[1]}`),
		faulty("too many stop tokens, of which one is unknown", withIDs+`stopping{stop_token_ids:[`+strings.Repeat("1,", 16)+`999]}`,
			"stopping.stop_token_ids", "want at most 16"),
		{name: "max_tokens of −1", request: withIDs, wire: message(8, varint(1, 1<<64-1)), code: codes.InvalidArgument, at: "stopping.max_tokens",
			says: "is 4294967295"},
		{name: "max_tokens twice: the last counts", request: withIDs + `stopping{max_tokens:0}`, wire: message(8, varint(1, 3))},
		{name: "ignore_eos of 2 is true", request: withIDs, wire: message(8, varint(6, 2))},
	}
}
