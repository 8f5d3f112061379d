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
		mask = slices.Clone(mask)
		cut = b.follow(reach.exits, below, mask) || cut
		mask = m.shared(mask)
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
	w := walk{bound: b, allowed: make([]uint32, b.vocabulary.maskWords())}
	w.subtree(s, 0, int32(len(b.vocabulary.bytes)), 0)
	r := &reach{b.machine.shared(w.allowed), slices.Clip(w.exits), w.cut}
	if b.machine.steps > 0 {
		s.reach = r
		b.machine.bytes += 60 + 4*len(r.exits)
	}
	return r
}

// shared is a mask, or one that is the same and was there before: all places of a long repeat have few different ones.
func (m *machine) shared(mask []uint32) []uint32 {
	hash := uint64(len(mask))
	for _, word := range mask {
		hash = (hash ^ uint64(word)) * 0x9E3779B97F4A7C15 // odd, and without a pattern in its bits
		hash ^= hash >> 32
	}
	if same := m.masks[hash]; slices.Equal(same, mask) {
		return same
	}
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
			w.subtree(s, exit+1, b.vocabulary.behind[exit], b.vocabulary.depth[exit])
		}
		slices.Sort(w.exits)
		exits = slices.Compact(w.exits)
	}
	return w.cut
}

const looksInStep = 8 // nodes of the vocabulary that a walk passes in the time of one of the machine's steps

// walk goes over tokens and collects those that a state allows.
type walk struct {
	bound   *Bound
	allowed []uint32
	exits   []int32
	cut     bool
}

// subtree goes over the nodes from one to another, which begin with a start of some length that led to s.
func (w *walk) subtree(s *state, from, to, length int32) {
	v, m := w.bound.vocabulary, w.bound.machine
	path := w.bound.path // [length] the state there
	path[length] = s
	looks := 0
	for node := from; node < to; looks++ {
		depth := v.depth[node]
		class := m.program.class[v.bytes[node]]
		at := path[depth-1].next[class]
		if at == nil {
			at = m.next(path[depth-1], class)
		}
		if !at.alive {
			w.cut = w.cut || at == m.limited
			node = v.behind[node]
			continue
		}
		if i := v.bunch[node]; i >= 0 && m.passes(at, &v.bunches[i]) {
			w.allow(v.ids[v.first[node]:v.first[v.behind[node]]])
			node = v.behind[node]
			continue
		}
		w.allow(v.ids[v.first[node]:v.first[node+1]])
		if v.behind[node] > node+1 {
			path[depth] = at
			if at.ended {
				w.exits = append(w.exits, node)
			}
		}
		node++
	}
	m.steps -= 1 + looks/looksInStep
}

func (w *walk) allow(ids []int32) {
	for _, id := range ids {
		w.allowed[id>>5] |= 1 << (id & 31)
	}
}
