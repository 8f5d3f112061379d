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

// maxLogprobBytes bounds the log-probabilities of one message.
const maxLogprobBytes = maxSendBytes / 4 * 3

// logprobRoom refuses what would not fit a message.
func (f *faults) logprobRoom(field string, tokens, alternatives int) {
	if most := maxLogprobBytes / (logprobBytes + alternatives*alternativeBytes); tokens > most {
		f.add(field, "asks for log-probabilities of %d tokens with %d alternatives each, want at most %d in one answer", tokens, alternatives, most)
	}
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
