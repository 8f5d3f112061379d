package constraint

import "slices"

// reach is what a state allows whose stacks go on in a way that is not known.
type reach struct {
	allowed []uint32 // tokens that are allowed whatever is below
	exits   []int32  // starts of longer tokens, in order, by which the bottom may have been passed: what is below says which of these are allowed
	cut     bool     // the limits left out some
}

// maskOf is the tokens that may follow at s, whose stacks are whole; not known: the machine's steps did not last. cut: the limits left out some.
//
// Nearly all of them depend on the upper part of the stacks alone, which comes again and again (in any string of any object, say), and is looked
// at once; the few that leave that part are followed into what is below it.
func (b *Bound) maskOf(s *state) (mask []uint32, cut, known bool) {
	m := b.machine
	switch {
	case s.mask != nil:
		return s.mask, s.cut, true
	case len(s.configurations) == 0:
		return make([]uint32, b.vocabulary.maskWords()), false, true
	}
	top, below := m.upper(s)
	reach := b.reachOf(top)
	mask, cut = reach.allowed, reach.cut
	if below != nil && len(reach.exits) > 0 {
		copy(b.scratch, mask)
		cut = b.follow(reach.exits, below, b.scratch) || cut
		mask = m.shared(b.scratch)
	}
	if m.steps <= 0 {
		return mask, cut, false
	}
	s.mask, s.cut = mask, cut
	return mask, cut, true
}

// reachOf looks at all tokens.
func (b *Bound) reachOf(s *state) *reach {
	if s.reach != nil {
		return s.reach
	}
	clear(b.scratch)
	w := walk{bound: b, allowed: b.scratch}
	w.subtree(s, 0, int32(len(b.vocabulary.starts)-1), 0)
	r := &reach{b.machine.shared(w.allowed), slices.Clip(w.exits), w.cut}
	if b.machine.steps > 0 {
		s.reach = r
		b.machine.bytes += 60 + 4*len(r.exits)
	}
	return r
}

// shared is a copy of a mask, or one that is the same and was there before: all places of a long repeat have few different ones.
func (m *machine) shared(mask []uint32) []uint32 {
	hash := uint64(len(mask))
	for _, word := range mask {
		hash = (hash ^ uint64(word)) * 0x9E3779B97F4A7C15 // odd, and without a pattern in its bits
		hash ^= hash >> 32
	}
	if same := m.masks[hash]; slices.Equal(same, mask) {
		return same
	}
	mask = slices.Clone(mask)
	m.masks[hash] = mask
	m.bytes += 50 + 4*len(mask)
	return mask
}

// follow adds the tokens that go on from exits into what is below.
func (b *Bound) follow(exits []int32, below *frame, allowed []uint32) (cut bool) {
	w := walk{bound: b, allowed: allowed}
	for ; below != nil && len(exits) > 0 && b.machine.steps > 0; below = below.parent {
		s := b.machine.at(below.node)
		if s == b.machine.limited {
			return true
		}
		w.exits = nil
		if s.ended {
			w.exits = append(w.exits, exits...)
		}
		for _, exit := range exits {
			start := &b.vocabulary.starts[exit]
			w.subtree(s, exit+1, start.behind, int(start.length))
		}
		slices.Sort(w.exits)
		exits = slices.Compact(w.exits)
	}
	return w.cut
}

const looksInStep = 8 // starts of texts that a walk passes in the time of one of the machine's steps

// walk goes over tokens and collects those that a state allows.
type walk struct {
	bound   *Bound
	allowed []uint32
	exits   []int32
	cut     bool
}

// subtree goes over the starts from one to another, which begin with one of some length that led to s.
func (w *walk) subtree(s *state, from, to int32, length int) {
	v, m := w.bound.vocabulary, w.bound.machine
	path := w.bound.path // [length] the state there
	path[length] = s
	looks := 0
	for i := from; i < to; looks++ {
		start := &v.starts[i]
		class := m.program.class[start.last]
		at := path[start.length-1].next[class]
		if at == nil {
			at = m.next(path[start.length-1], class)
		}
		if !at.alive {
			w.cut = w.cut || at == m.limited
			i = start.behind
			continue
		}
		if start.bunch >= 0 && m.passes(at, &v.bunches[start.bunch]) {
			w.allow(v.tokens(i))
			i = start.behind
			continue
		}
		w.allow(v.same(i))
		if start.behind > i+1 {
			path[start.length] = at
			if at.ended {
				w.exits = append(w.exits, i)
			}
		}
		i++
	}
	m.steps -= 1 + looks/looksInStep
}

func (w *walk) allow(ids []int32) {
	for _, id := range ids {
		w.allowed[id>>5] |= 1 << (id & 31)
	}
}
