package constraint

import "math/bits"

// Program is a compiled Grammar: a pushdown automaton over bytes, read-only, for any number of requests at a time.
//
// Its nodes are places in the grammar. Between two bytes, an output is at a set of configurations, each a node and a stack of nodes to return to:
// one for each way in which the grammar may have come so far.
type Program struct {
	nodes []node
	start uint32 // the node where texts start

	afterClass map[uint32]bool // nodes where calls of large classes of characters return to

	// Bytes that no node tells apart are one class.
	class   [256]uint8
	members []byteSet // of each class
}

// node is one of three: bytes lead on from it; or it stands for other places; or it calls a rule.
type node struct {
	arcs   []arc    // in order, apart
	places []uint32 // any of these
	rule   uint32   // the first node of the rule called; noRule
	next   uint32   // where the call returns to
}

// arc is one byte of a range and what follows it.
type arc struct {
	lo, hi byte
	next   uint32
}

const (
	ruleEnd = 0          // the node where every rule ends
	noRule  = ^uint32(0) // node.rule of one that calls none
)

// byteSet is a set of bytes.
type byteSet [4]uint64

func (s *byteSet) add(b byte) { s[b>>6] |= 1 << (b & 63) }

func (s *byteSet) first() byte {
	for i, word := range s {
		if word != 0 {
			return byte(64*i + bits.TrailingZeros64(word))
		}
	}
	return 0
}

func (s *byteSet) join(o *byteSet) {
	for i := range s {
		s[i] |= o[i]
	}
}

// within says whether s has no byte that o has not.
func (s *byteSet) within(o *byteSet) bool {
	return s[0]&^o[0]|s[1]&^o[1]|s[2]&^o[2]|s[3]&^o[3] == 0
}

// classify finds the classes of bytes.
func (p *Program) classify() {
	var begins [257]bool
	for i := range p.nodes {
		for _, a := range p.nodes[i].arcs {
			begins[a.lo], begins[int(a.hi)+1] = true, true
		}
	}
	p.members = []byteSet{{}}
	for b := range 256 {
		if b > 0 && begins[b] {
			p.members = append(p.members, byteSet{})
		}
		p.class[b] = uint8(len(p.members) - 1)
		p.members[len(p.members)-1].add(byte(b))
	}
}

// Match says whether a whole text has the form. A text in which the form gets more ambiguous than a Matcher allows has not.
func (p *Program) Match(text string) bool {
	m := newMachine(p)
	s := m.begin()
	for i := 0; i < len(text) && s.alive; i++ {
		if m.bytes > maxCacheBytes {
			m.forget()
			s = m.adopt(s)
		}
		m.steps = maxSteps
		s = m.next(s, p.class[text[i]])
	}
	return s.ended
}
