package server

import "slices"

// outputGroups are the cases of what is returned.
func outputGroups() []requestGroup {
	return []requestGroup{
		{"Generate", slices.Concat(outputCases(withIDs), []requestCase{
			faulty("text out of a model without a tokenizer", `model:"ids" token_ids{ids:1} output{text:true}`, "output.text", "has no tokenizer"),
			taken("no text out of a model without a tokenizer", `model:"ids" token_ids{ids:1} output{text:false}`),
			taken("nothing at all", withIDs+`output{text:false token_ids:false}`),
			faulty("progress of an answer in one piece", withIDs+`output{prompt_progress:true}`, "output.prompt_progress", "want false, or GenerateStream"),
			taken("progress of a dry run", withIDs+`output{prompt_progress:true} dry_run:true`),
			taken("no progress", withIDs+`output{prompt_progress:false}`),
			faulty("text in and out of a model without a tokenizer", `model:"ids" text:"hi" output{text:true}`, "output.text text?",
				"has no tokenizer"),
		})},
		{"GenerateStream", slices.Concat(outputCases(withText),
			fieldValues{request: withText, field: "output.prompt_progress", good: []string{"false", "true"}}.cases())},
	}
}

func outputCases(request string) []requestCase {
	flags := []string{"false", "true"}
	return slices.Concat(
		fieldValues{request: request, field: "output.text", good: flags}.cases(),
		fieldValues{request: request, field: "output.token_ids", good: flags}.cases(),
		fieldValues{request: request, field: "output.skip_special_tokens", good: flags}.cases(),
		fieldValues{request: request, field: "output.logprobs", also: "output?", bad: []string{"21", "128", "2147483648", "4294967295"}}.cases(),
		fieldValues{request: request, field: "output.prompt_logprobs", also: "output?",
			bad: []string{"21", "129", "2147483648", "4294967295"}}.cases(),
		fieldValues{
			request: request, field: "output.logprob_token_ids", beside: "logprobs:0",
			bad: []string{"[260]", "[1,4294967295]", times(129, "1"), times(100_000, "1")},
		}.cases(),
		fieldValues{
			request: request, field: "output.prompt_logprobs_start", beside: "prompt_logprobs:0", bad: []string{"32", "2147483648", "4294967295"},
		}.cases(),
		fieldValues{request: request, field: "output.flush_tokens", good: []string{"1"}, bad: []string{"0"}}.cases(),
		fieldValues{request: request, field: "output.flush_interval", good: []string{"{seconds:1}"}, bad: []string{"{seconds:-1}"}}.cases(),
	)
}
