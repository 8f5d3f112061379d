package server

import (
	"slices"

	"github.com/inferno-serve/inferno/internal/constraint"
	"github.com/inferno-serve/inferno/internal/engine"
)

// formMask keeps a continuation to a form, on the engine's loop. Once it is complete and nothing may follow there is no token to go on with, which
// ends it: an end token would say nothing more.
type formMask struct {
	*constraint.Matcher
	ends    []uint32 // a mask of the tokens that may end the output; shared
	nothing []uint32 // shared
	mask    []uint32 // nil: not known since the last token
}

// newFormMask returns what makes one for each continuation. Tokens that end the output are allowed where it is complete, and only there.
func newFormMask(g *generation, b *constraint.Bound) func() engine.Masker {
	stop := &g.request.Stop
	ids := slices.Clone(stop.StopTokens)
	if !stop.IgnoreEOS {
		ids = append(ids, stop.EndTokens...)
	}
	words := (g.model.Info.VocabularySize + 31) / 32
	ends, nothing := make([]uint32, words), make([]uint32, words)
	for _, id := range ids {
		ends[id/32] |= 1 << (id % 32)
	}
	return func() engine.Masker { return &formMask{Matcher: b.NewMatcher(ids), ends: ends, nothing: nothing} }
}

// Mask implements engine.Masker.
func (m *formMask) Mask() []uint32 {
	if m.mask == nil {
		m.mask = m.Matcher.Mask()
		if !goesOn(m.mask, m.ends) {
			m.mask = m.nothing
		}
	}
	return m.mask
}

// goesOn says whether a mask has a token that does not end the output.
func goesOn(mask, ends []uint32) bool {
	for i, word := range mask {
		if word&^ends[i] != 0 {
			return true
		}
	}
	return false
}

// Accept implements engine.Masker.
func (m *formMask) Accept(id int32) {
	m.mask = nil
	m.Matcher.Accept(id)
}

// bothMasks allows what a form and the banned strings do.
type bothMasks struct {
	*formMask
	banned engine.Masker
	both   []uint32
	known  bool
}

// Mask implements engine.Masker.
func (m *bothMasks) Mask() []uint32 {
	if !m.known {
		banned := m.banned.Mask()
		m.both = append(m.both[:0], m.formMask.Mask()...)
		for i := range m.both {
			m.both[i] &= banned[i]
		}
		m.known = true
	}
	return m.both
}

// Accept implements engine.Masker.
func (m *bothMasks) Accept(id int32) {
	m.known = false
	m.formMask.Accept(id)
	m.banned.Accept(id)
}

// masks is what makes the mask of each continuation; nil: none has one.
func (g *generation) masks(b *constraint.Bound, bannedStrings []string) func() engine.Masker {
	switch {
	case b == nil && len(bannedStrings) == 0:
		return nil
	case b == nil:
		return newBannedText(g, bannedStrings)
	case len(bannedStrings) == 0:
		return newFormMask(g, b)
	}
	form, banned := newFormMask(g, b), newBannedText(g, bannedStrings)
	return func() engine.Masker { return &bothMasks{formMask: form().(*formMask), banned: banned()} }
}
