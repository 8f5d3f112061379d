package constraint

import "math/bits"

// course is where most characters of one byte lead from a state, and perhaps all longer ones.
type course struct {
	to     *state
	bytes  byteSet // that lead there; those of longer characters once `longer` is known, and true
	longer bool    // it is known whether they do
}

// passes says whether each text of a bunch leads from s to some state. It sees that at once where all characters that occur in the bunch lead to
// the same state, in as many steps as the longest text has: in a string, whose state they lead back to, or in a repeat of limited length. false
// means that it is not that simple.
func (m *machine) passes(s *state, b *bunch) bool {
	if !b.whole {
		return false
	}
	for range b.characters {
		way := m.courseOf(s)
		if b.bytes[2]|b.bytes[3] != 0 && !way.longer && b.bytes.within(&byteSet{way.bytes[0], way.bytes[1], ^uint64(0), ^uint64(0)}) {
			m.lookBeyond(s, way)
		}
		switch {
		case way.to == nil || !b.bytes.within(&way.bytes):
			return false
		case way.to == s:
			return true
		}
		s = way.to
	}
	return true
}

func (m *machine) courseOf(s *state) *course {
	if s.course != nil {
		return s.course
	}
	way := &course{}
	ways := map[*state]*byteSet{}
	most := 0
	for class := range m.program.members {
		ascii := m.program.members[class]
		ascii[2], ascii[3] = 0, 0
		if ascii == (byteSet{}) {
			continue
		}
		to := m.next(s, uint8(class))
		if !to.alive {
			continue
		}
		if ways[to] == nil {
			ways[to] = &byteSet{}
		}
		ways[to].join(&ascii)
		if n := bits.OnesCount64(ways[to][0]) + bits.OnesCount64(ways[to][1]); n > most {
			way.to, way.bytes, most = to, *ways[to], n
		}
	}
	if m.steps <= 0 { // perhaps not all of it
		return &course{}
	}
	s.course = way
	m.bytes += 60
	return way
}

// lookBeyond completes a course.
func (m *machine) lookBeyond(s *state, way *course) {
	if m.beyondASCII(s) == way.to && way.to != nil {
		way.bytes[2], way.bytes[3] = ^uint64(0), ^uint64(0)
	}
	way.longer = m.steps > 0
}

// characterRows are the characters of more than one byte (Unicode, table 3-7: well-formed byte sequences): ranges of the first and the second, and
// how many of 80 to BF follow.
var characterRows = [...]struct {
	first, last   byte
	second, until byte
	more          int
}{
	{0xC2, 0xDF, 0x80, 0xBF, 0},
	{0xE0, 0xE0, 0xA0, 0xBF, 1},
	{0xE1, 0xEC, 0x80, 0xBF, 1},
	{0xED, 0xED, 0x80, 0x9F, 1},
	{0xEE, 0xEF, 0x80, 0xBF, 1},
	{0xF0, 0xF0, 0x90, 0xBF, 2},
	{0xF1, 0xF3, 0x80, 0xBF, 2},
	{0xF4, 0xF4, 0x80, 0x8F, 2},
}

// beyondASCII is the state that every character of more than one byte leads to from s; nil: there is no such state, or it takes long to tell.
func (m *machine) beyondASCII(s *state) *state {
	var to *state
	looks := 1000
	for _, row := range characterRows {
		at := m.through(s, row.first, row.last, &looks, func(s *state) *state {
			return m.through(s, row.second, row.until, &looks, func(s *state) *state { return m.continued(s, row.more, &looks) })
		})
		if at == nil || to != nil && at != to {
			return nil
		}
		to = at
	}
	return to
}

func (m *machine) continued(s *state, more int, looks *int) *state {
	if more == 0 {
		return s
	}
	return m.through(s, 0x80, 0xBF, looks, func(s *state) *state { return m.continued(s, more-1, looks) })
}

// through is the one state that any byte of a range and then `rest` lead to; nil: there is none.
func (m *machine) through(s *state, from, until byte, looks *int, rest func(*state) *state) (to *state) {
	var last *state
	for b := int(from); b <= int(until); b++ {
		if b > int(from) && m.program.class[b] == m.program.class[b-1] {
			continue
		}
		next := m.next(s, m.program.class[b])
		if *looks--; !next.alive || *looks < 0 {
			return nil
		}
		if next == last {
			continue
		}
		last = next
		at := rest(next)
		if at == nil || to != nil && at != to {
			return nil
		}
		to = at
	}
	return to
}
