package server

import (
	"slices"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// What a log-probability takes in a message, at most, with its tag and its length: the token's own, and each alternative.
const (
	logprobBytes     = 24
	alternativeBytes = 14
)

// maxLogprobBytes bounds the log-probabilities that are known to come in one message.
const maxLogprobBytes = maxSendBytes / 4 * 3

// logprobSize is what those of so many tokens take at most, in bytes.
func logprobSize(tokens, alternatives int) int {
	return tokens * (logprobBytes + alternatives*alternativeBytes)
}

// logprobRoom refuses what would not fit a message.
func (f *faults) logprobRoom(field string, size int) {
	if size > maxLogprobBytes {
		f.add(field, "asks for log-probabilities that may take %d bytes, want at most %d: fewer alternatives, or fewer tokens", size, maxLogprobBytes)
	}
}

// wholeSize is what the log-probabilities of a request take in one message where each continuation has so many tokens.
func (g *generation) wholeSize(tokens int) (size int) {
	prompt := len(g.request.Prompt)
	if g.prompt {
		size = logprobSize(prompt-g.promptFrom, g.promptTop+len(g.request.Logprobs.IDs))
	}
	if !g.logprobs {
		return size
	}
	if g.echo {
		tokens += prompt
	}
	return size + g.request.N*logprobSize(tokens, g.top+len(g.request.Logprobs.IDs))
}

// checkWhole refuses log-probabilities that would not fit Generate's one answer, where continuations have so many tokens.
func (g *generation) checkWhole(tokens int) error {
	var f faults
	f.logprobRoom("output", g.wholeSize(tokens))
	return f.err()
}

// top checks how many of the likeliest tokens are asked for.
func (f *faults) top(field string, n *uint32) {
	if n != nil && *n > engine.MaxTopLogprobs {
		f.add(field, "is %d, want 0 to %d", *n, engine.MaxTopLogprobs)
	}
}

// logprobIDs checks the tokens whose log-probabilities are asked for everywhere.
func (f *faults) logprobIDs(field string, ids []uint32, model *Model) {
	if n := len(ids); n > engine.MaxLogprobIDs {
		f.add(field, "has %d ids, want at most %d", n, engine.MaxLogprobIDs)
		return
	}
	f.ids(field, ids, model.Info.VocabularySize)
	for i, id := range ids {
		if slices.Contains(ids[:i], id) {
			f.add(field, "has %d twice, want different ids", id)
			return
		}
	}
}

// logprobs checks what is asked for beside tokens, as far as that can be done without the prompt.
func (f *faults) logprobs(o *infernov1.OutputOptions) {
	f.top("output.logprobs", o.Logprobs)
	f.top("output.prompt_logprobs", o.PromptLogprobs)
	if len(o.GetLogprobTokenIds()) > 0 && o.Logprobs == nil && o.PromptLogprobs == nil {
		f.add("output.logprob_token_ids", "is set, want it only with logprobs or prompt_logprobs")
	}
	if o.PromptLogprobsStart != nil && o.PromptLogprobs == nil {
		f.add("output.prompt_logprobs_start", "is %d, want it only with prompt_logprobs", o.GetPromptLogprobsStart())
	}
}

// promptLogprobs checks them against the prompt, once that is known: 0 tokens where it has a fault.
func (f *faults) promptLogprobs(req *infernov1.GenerateRequest, prompt int) {
	o := req.GetOutput()
	if o == nil || prompt == 0 {
		return
	}
	size := 0 // of the first message
	if from := o.GetPromptLogprobsStart(); o.PromptLogprobs != nil && uint64(from) >= uint64(prompt) {
		f.add("output.prompt_logprobs_start", "is %d, want 0 to %d, the prompt's last position", from, prompt-1)
	} else if o.PromptLogprobs != nil {
		size = logprobSize(prompt-int(from), int(o.GetPromptLogprobs())+len(o.GetLogprobTokenIds()))
	}
	if o.Logprobs != nil && o.GetEcho() {
		size += continuationsOf(req.GetSampling()) * logprobSize(prompt, int(o.GetLogprobs())+len(o.GetLogprobTokenIds()))
	}
	f.logprobRoom("output", size)
}

// askFor fills in what is told beside the tokens. An echo with log-probabilities needs those of the whole prompt.
func (g *generation) askFor(o *infernov1.OutputOptions) {
	g.echo = o.GetEcho()
	g.logprobs, g.top = o.Logprobs != nil, int(o.GetLogprobs())
	g.prompt, g.promptTop, g.promptFrom = o.PromptLogprobs != nil, int(o.GetPromptLogprobs()), int(o.GetPromptLogprobsStart())
	l := engine.Logprobs{Output: g.logprobs, Prompt: g.prompt, Start: g.promptFrom, IDs: toInt32(o.GetLogprobTokenIds())}
	if g.logprobs {
		l.Top = g.top
	}
	if g.prompt {
		l.Top = max(l.Top, g.promptTop)
	}
	if g.echo && g.logprobs {
		l.Prompt, l.Start = true, 0
	}
	g.request.Logprobs = l
}

// tell turns log-probabilities into messages, each with `top` of the likeliest tokens and all that were asked for by id.
func (g *generation) tell(all []engine.TokenLogprob, top int) []*infernov1.TokenLogprob {
	out := make([]*infernov1.TokenLogprob, len(all))
	for i, l := range all {
		out[i] = tokenLogprob(l, top, len(g.request.Logprobs.IDs))
	}
	return out
}

// tokenLogprob has at most `top` of the likeliest tokens, and the last `ids` alternatives, which were asked for by id.
func tokenLogprob(l engine.TokenLogprob, top, ids int) *infernov1.TokenLogprob {
	out := &infernov1.TokenLogprob{TokenId: uint32(l.ID), Rank: uint32(l.Rank)}
	if l.Rank > 0 {
		out.Logprob = new(l.Logprob)
	}
	for i, a := range l.Alternatives {
		if i < top || i >= len(l.Alternatives)-ids {
			out.Alternatives = append(out.Alternatives, &infernov1.AlternativeLogprob{TokenId: uint32(a.ID), Logprob: a.Logprob})
		}
	}
	return out
}
