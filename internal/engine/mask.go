package engine

import (
	"fmt"
	"math/bits"
	"runtime/debug"
	"slices"
)

// Masker says which tokens may come next in one continuation. It belongs to the engine's loop, which asks it between steps: such a sequence
// is never planned ahead of its tokens, and its calls must be quick, unless it is a Former.
type Masker interface {
	// Mask holds a bit for each token that may come next, in words of 32, up to the vocabulary; nil: all. Valid until the next Accept.
	Mask() []uint32
	// Accept takes in the token that was chosen.
	Accept(id int32)
}

// Former is a Masker that keeps an output to a form: where it leaves no token the output may end only if it is complete, and is an error otherwise.
// It is asked on any goroutine, one at a time, and may take its time (latemask.go).
type Former interface {
	Masker
	// Complete says whether the output so far has the form.
	Complete() bool
	// Err says why the form can be followed no further; nil: by what it leaves, it can.
	Err() error
}

// guarded is a Masker whose panic stays with its own sequence, which the loop then ends: the others' tokens do not depend on that code.
type guarded struct {
	masker Masker
	former Former // the same; nil: it is none
	fault  error  // nil until it panicked; from then on it is not asked any more

	late  bool          // somebody makes its mask beside the loop, which must not ask for anything else here meanwhile
	taken bool          // who does has the latest token already
	ready chan struct{} // one slot: the mask is there
}

func (g *guarded) Mask() (mask []uint32) {
	if g.fault != nil {
		return nil
	}
	defer g.caught()
	return g.masker.Mask()
}

func (g *guarded) Accept(id int32) {
	if g.taken {
		g.taken = false
		return
	}
	g.take(id)
}

func (g *guarded) take(id int32) {
	if g.fault != nil {
		return
	}
	defer g.caught()
	g.masker.Accept(id)
}

func (g *guarded) caught() {
	if r := recover(); r != nil {
		g.fault = fmt.Errorf("panic in the mask of a request: %v\n%s", r, debug.Stack())
	}
}

// incomplete says why an output that has no token to go on with may not end like this; nil: it may.
func (g *guarded) incomplete() (err error) {
	if g.former == nil || g.fault != nil {
		return nil
	}
	defer g.caught()
	switch {
	case g.former.Complete():
		return nil
	case g.former.Err() != nil:
		return fmt.Errorf("%w: %w", ErrForm, g.former.Err())
	}
	return fmt.Errorf("%w: no token is left that goes on with it", ErrForm)
}

// maskWords is the length of a mask.
func maskWords(vocabulary int) int { return (vocabulary + 31) / 32 }

// newMask allows just the tokens in `allowed`, or all where there are none, less those in `banned`. nil: that is all.
func newMask(allowed, banned []int32, vocabulary int) []uint32 {
	if len(allowed) == 0 && len(banned) == 0 {
		return nil
	}
	mask := make([]uint32, maskWords(vocabulary))
	if len(allowed) == 0 {
		for i := range mask {
			mask[i] = ^uint32(0)
		}
		if rest := vocabulary % 32; rest > 0 {
			mask[len(mask)-1] = 1<<rest - 1
		}
	}
	for _, id := range allowed {
		mask[id/32] |= 1 << (id % 32)
	}
	clearBits(mask, banned)
	return mask
}

func clearBits(mask []uint32, ids []int32) {
	for _, id := range ids {
		mask[id/32] &^= 1 << (id % 32)
	}
}

// setMask gives a new sequence its masks.
func (s *sequence) setMask(mask []uint32, newMasker func() Masker) {
	s.mask = mask
	if newMasker != nil {
		s.masker = &guarded{masker: newMasker()}
		s.masker.former, _ = s.masker.masker.(Former)
	}
	s.hostBound = s.masker != nil
	s.watched = s.watched || s.masker != nil
	s.adjusted = s.adjusted || s.mask != nil || s.masker != nil
}

// masked says whether s has a mask at all.
func (s *sequence) masked() bool { return s.mask != nil || s.masker != nil && s.masker.Mask() != nil }

// writeMask puts what the next token of s, which is masked, may be into dst.
func (s *sequence) writeMask(dst []uint32) {
	var changing []uint32
	if s.masker != nil {
		changing = s.masker.Mask()
	}
	switch {
	case changing == nil && s.mask == nil: // the masker has just failed
		for i := range dst {
			dst[i] = ^uint32(0)
		}
	case changing == nil:
		copy(dst, s.mask)
	case s.mask == nil:
		copy(dst, changing)
	default:
		for i := range dst {
			dst[i] = changing[i] & s.mask[i]
		}
	}
}

// deadEnd says whether s, which is masked, has no token to go on with.
func (s *sequence) deadEnd() bool {
	mask, other := s.mask, s.mask
	if s.masker != nil && s.masker.Mask() != nil {
		mask = s.masker.Mask()
	}
	for i, word := range mask {
		if other != nil {
			word &= other[i]
		}
		for ; word != 0; word &= word - 1 {
			id := int32(32*i + bits.TrailingZeros32(word))
			if s.generated() >= s.minNew || !slices.Contains(s.stops, id) && !slices.Contains(s.ends, id) {
				return false
			}
		}
	}
	return true
}
