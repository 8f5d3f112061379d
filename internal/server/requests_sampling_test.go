package server

import (
	"fmt"
	"slices"
	"strings"
)

// samplingGroups are the cases of how tokens are chosen.
func samplingGroups() []requestGroup {
	return []requestGroup{
		{"Generate", slices.Concat(samplingCases(withText), samplingContradictions())},
		{"GenerateStream", samplingCases(withIDs)},
	}
}

// notFinite are the floats that no field takes.
var notFinite = []string{"nan", "inf", "-inf"}

func samplingCases(request string) []requestCase {
	return slices.Concat(
		fieldValues{
			request: request, field: "sampling.temperature",
			good: []string{"0", "-0.0", "0.0", "1e-6", "0.000001", "0.1", "0.7", "1", "1.5", "2", "99.99999", "100"},
			bad: append([]string{
				"-1", "-1e-6", "-1e-45", "1e-45", "1e-40", "1e-38", "1e-7", "9.9e-7", "100.00001", "101", "1000", "3.4e38", "-3.4e38", "1e39",
			}, notFinite...),
			limit: "want 0, or 1e-06 to 100",
		}.cases(),
		fieldValues{
			request: request, field: "sampling.top_k",
			good: []string{"0", "1", "40", "259", "260", "261", "1000000", "2147483647"},
			bad:  []string{"2147483648", "4294967294", "4294967295"}, limit: "want 0 to 2147483647",
		}.cases(),
		fieldValues{
			request: request, field: "sampling.top_p",
			good: []string{"1", "0.999999", "0.5", "1e-6", "1e-38", "1e-45"},
			bad:  append([]string{"0", "-0.0", "-1e-45", "-0.5", "-1", "1.0000002", "1.01", "2", "100", "3.4e38"}, notFinite...), limit: "want above 0, up to 1",
		}.cases(),
		fieldValues{
			request: request, field: "sampling.min_p",
			good: []string{"0", "-0.0", "1", "0.05", "1e-45"},
			bad:  append([]string{"-1e-45", "-0.1", "-1", "1.0000002", "1.5", "2", "3.4e38"}, notFinite...), limit: "want 0 to 1",
		}.cases(),
		fieldValues{
			request: request, field: "sampling.typical_p",
			good: []string{"1", "0.5", "0.01"}, bad: append([]string{"0", "-0.0", "-0.5", "1.01", "2"}, notFinite...),
		}.cases(),
		fieldValues{
			request: request, field: "sampling.repetition_penalty",
			good: []string{"1", "0.5", "1.1", "10"}, bad: append([]string{"0", "-0.0", "-1", "10.1", "3.4e38"}, notFinite...),
		}.cases(),
		fieldValues{
			request: request, field: "sampling.presence_penalty",
			good: []string{"0", "-0.0", "1", "-10", "10"}, bad: append([]string{"-10.1", "10.1", "3.4e38"}, notFinite...),
		}.cases(),
		fieldValues{
			request: request, field: "sampling.frequency_penalty",
			good: []string{"0", "-0.0", "1", "-10", "10"}, bad: append([]string{"-10.1", "10.1", "-3.4e38"}, notFinite...),
		}.cases(),
		fieldValues{request: request, field: "sampling.penalty_window", good: []string{"0", "1", "64", "4294967295"}}.cases(),
		fieldValues{
			request: request, field: "sampling.logit_bias",
			good: []string{"{key:1 value:1}", "{key:0 value:-100}", "{key:259 value:100}", "{key:1 value:-0.0}"},
			bad: []string{
				"{key:1 value:nan}", "{key:1 value:inf}", "{key:1 value:-inf}", "{key:1 value:100.1}", "{key:1 value:-100.1}", "{key:260 value:1}",
				"{key:2147483648 value:1}", "{key:4294967295 value:1}", "[" + strings.TrimSuffix(biases(1025), ",") + "]",
			},
		}.cases(),
		fieldValues{
			request: request, field: "sampling.allowed_token_ids",
			good: []string{"[1]", "[0,259]", times(1024, "1")}, bad: []string{"[260]", "[1,4294967295]", times(1025, "1"), times(100_000, "1")},
		}.cases(),
		fieldValues{
			request: request, field: "sampling.banned_token_ids",
			good: []string{"[1]", "[0,259]", times(1024, "1")}, bad: []string{"[260]", "[1,2147483648]", times(1025, "1"), times(100_000, "1")},
		}.cases(),
		fieldValues{
			request: request, field: "sampling.banned_strings",
			good: []string{`["x"]`, `["x","y"]`, `["日本"]`}, bad: []string{`[""]`, `["x",""]`, letters(257), times(129, `"x"`)},
		}.cases(),
		fieldValues{
			request: request, field: "sampling.seed",
			good: []string{"0", "1", "4294967296", "9223372036854775807", "9223372036854775808", "18446744073709551615"},
		}.cases(),
		fieldValues{
			request: request, field: "sampling.n",
			good: []string{"1"}, bad: []string{"0", "17", "129", "65536", "2147483647", "2147483648", "4294967295"},
		}.cases(),
	)
}

// biases are n entries of logit_bias.
func biases(n int) string {
	var b strings.Builder
	for key := range n {
		fmt.Fprintf(&b, "{key:%d value:1},", key)
	}
	return b.String()
}

// samplingContradictions are of several fields.
func samplingContradictions() []requestCase {
	return []requestCase{
		taken("greedy with all filters", withText+`sampling{temperature:0 top_k:1 top_p:0.1 min_p:1 seed:7}`),
		taken("filters that leave one token", withText+`sampling{temperature:1 top_k:1 top_p:1e-45 min_p:1}`),
		faulty("all that is finite is wrong", withText+`sampling{temperature:-1 top_k:4294967295 top_p:0 min_p:2}`,
			"sampling.temperature sampling.top_k sampling.top_p sampling.min_p", ""),
		faulty("NaN everywhere", withText+`sampling{temperature:nan top_p:nan min_p:nan}`, "sampling.temperature sampling.top_p sampling.min_p",
			"is NaN"),
		faulty("faults in sampling, stopping, name and prompt", `request_id:"/" model:"m" text:"" sampling{top_p:2} stopping{max_tokens:0}`,
			"request_id text sampling.top_p stopping.max_tokens", ""),
		faulty("wrong values of a model that is unknown", `model:"n" text:"hi" sampling{top_p:2}`, "sampling.top_p", "is 2"),
		{
			name: "temperature twice: the last counts", request: withText + `sampling{temperature:-1}`, wire: message(7, float(1, 0.5)),
		},
		{
			name: "sampling in two parts is one", request: withText + `sampling{temperature:1}`, wire: message(7, float(3, 2)),
			code: 3, at: "sampling.top_p", says: "is 2",
		},
		{
			name: "a signalling NaN", request: withText, wire: message(7, fixed32(1, 0x7f800001)),
			code: 3, at: "sampling.temperature", says: "is NaN",
		},
		{
			name: "a negative NaN with a payload", request: withText, wire: message(7, fixed32(3, 0xffc12345)),
			code: 3, at: "sampling.top_p", says: "is NaN",
		},
		{
			name: "top_k of −2", request: withText, wire: message(7, varint(2, 1<<64-2)),
			code: 3, at: "sampling.top_k", says: "is 4294967294",
		},
	}
}
