package server

import (
	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// speculation checks what a request says of guesses; nil: it wants none.
func (f *faults) speculation(o *infernov1.NgramSpeculation) {
	if o == nil {
		return
	}
	for _, field := range []struct {
		name  string
		value *uint32
		most  uint32
	}{
		{"max_draft_tokens", o.MaxDraftTokens, engine.MaxDraftTokens},
		{"min_match", o.MinMatch, engine.MaxMinMatch},
	} {
		if v := field.value; v != nil && (*v < 1 || *v > field.most) {
			f.add("speculation.ngram."+field.name, "is %d, want 1 to %d", *v, field.most)
		}
	}
}

func speculationOf(o *infernov1.NgramSpeculation) engine.Speculation {
	if o == nil {
		return engine.Speculation{}
	}
	return engine.Speculation{
		MaxTokens: int(orElse(o.MaxDraftTokens, engine.DefaultDraftTokens)), MinMatch: int(orElse(o.MinMatch, engine.DefaultMinMatch)),
	}
}
