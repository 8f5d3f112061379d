package constraint

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// Limits of a machine. What goes beyond the first two is not allowed, as if the grammar did not have it.
const (
	maxConfigurations = 4096     // at one place in a text: ways in which the grammar may have come so far
	maxStack          = 1 << 16  // calls in each other
	maxCacheBytes     = 32 << 20 // of a machine's memory; it begins anew from there on
	maxSteps          = 1 << 19  // configurations looked at for one mask, about 15 ms
)

// machine is a Program's automaton made deterministic as far as it is used: states are sets of configurations, and each is made once. Whoever
// asks for a step guards it from others.
type machine struct {
	program  *Program
	frames   map[frameKey]*frame
	states   map[string]*state
	closures []*closure // of each node; nil until needed
	bytes    int        // about what they take
	age      int        // how often all was forgotten
	steps    int        // left of maxSteps; none: next answers `limited` until there are more

	dead    *state // no way leads on
	limited *state // there may be ways, which the limits rule out

	found scratch
	key   []byte
}

// frame is the top of a stack of nodes to return to; nil is the empty stack. Equal stacks of one machine are the same frame.
type frame struct {
	node   uint32
	id     uint32
	depth  int32
	parent *frame
}

type frameKey struct {
	node   uint32
	parent *frame
}

// configuration is a node with arcs, and where to go on once its rule has ended.
type configuration struct {
	node  uint32
	stack *frame
}

// state is a set of configurations. Their stacks may be whole, or the upper part of stacks whose rest is not known.
type state struct {
	configurations []configuration // in order
	ended          bool            // the bottom of the stack may have been passed: the text is whole, or what is below goes on
	alive          bool            // there are configurations, or it has ended
	next           []*state        // [class] where a byte leads; nil: not known yet
	main           *main           // where most bytes lead; nil: not known yet

	reach *reach   // of a state whose stacks are the upper parts
	mask  []uint32 // of one whose stacks are whole: the tokens that may come next
	cut   bool     // the limits left out some of mask
}

// closure is where a node stands without another byte.
type closure struct {
	configurations []configuration
	ended          bool
	over           bool   // the limits left something out
	state          *state // the same as a state; nil: not known yet
}

// scratch is a state in the making.
type scratch struct {
	configurations []configuration
	ended          bool
	over           bool // the limits left something out

	// Where enter has been: over stacks, and the round in which it was at a node over none.
	entered map[configuration]bool
	bare    []uint32 // [node]
	taken   []uint32 // [node] the same of configurations
	round   uint32
}

func newMachine(p *Program) *machine {
	m := &machine{program: p, dead: &state{}, limited: &state{}, age: -1}
	m.found = scratch{entered: map[configuration]bool{}, bare: make([]uint32, len(p.nodes)), taken: make([]uint32, len(p.nodes))}
	m.forget()
	return m
}

// forget gives all memory back. States made before are no longer of this machine: see adopt.
func (m *machine) forget() {
	m.frames, m.states, m.closures = map[frameKey]*frame{}, map[string]*state{}, make([]*closure, len(m.program.nodes))
	m.bytes = 0
	m.age++
}

// adopt is a state of before as one of now.
func (m *machine) adopt(s *state) *state {
	if !s.alive {
		return s
	}
	m.find()
	m.found.ended = s.ended
	for _, c := range s.configurations {
		var whole *frame
		for _, f := range slices.Backward(c.stack.upTo(nil)) {
			whole = m.push(f.node, whole)
		}
		m.found.configurations = append(m.found.configurations, configuration{c.node, whole})
	}
	return m.intern()
}

// find begins the next state in the making.
func (m *machine) find() {
	f := &m.found
	f.configurations, f.ended, f.over = f.configurations[:0], false, false
	clear(f.entered)
	f.round++
	if f.round == 0 { // after so many, the numbers come again
		clear(f.bare)
		clear(f.taken)
		f.round = 1
	}
}

// enterOnce says whether a node over a stack is new in this round.
func (f *scratch) enterOnce(node uint32, stack *frame) bool {
	if stack == nil {
		old := f.bare[node] == f.round
		f.bare[node] = f.round
		return !old
	}
	key := configuration{node, stack}
	if f.entered[key] {
		return false
	}
	f.entered[key] = true
	return true
}

// add adds a configuration. Those with stacks may come twice.
func (f *scratch) add(node uint32, stack *frame) {
	if stack == nil {
		if f.taken[node] == f.round {
			return
		}
		f.taken[node] = f.round
	}
	f.configurations = append(f.configurations, configuration{node, stack})
}

// upTo is the frames of a stack above one of it, from the top.
func (f *frame) upTo(end *frame) (frames []*frame) {
	for ; f != end; f = f.parent {
		frames = append(frames, f)
	}
	return frames
}

func (f *frame) size() int32 {
	if f == nil {
		return 0
	}
	return f.depth
}

func (m *machine) push(node uint32, parent *frame) *frame {
	key := frameKey{node, parent}
	f := m.frames[key]
	if f == nil {
		f = &frame{node: node, parent: parent, depth: parent.size() + 1, id: uint32(len(m.frames)) + 1}
		m.frames[key] = f
		m.bytes += 100
	}
	return f
}

// onto puts a stack on another.
func (m *machine) onto(top, below *frame) *frame {
	if top == nil {
		return below
	}
	if below == nil {
		return top
	}
	return m.push(top.node, m.onto(top.parent, below))
}

// begin is the state at the start of a text.
func (m *machine) begin() *state {
	m.steps = maxSteps
	return m.at(m.program.start)
}

// at is the state at a node, over a stack that is not known.
func (m *machine) at(node uint32) *state {
	c := m.closureOf(node)
	if c.state == nil {
		m.find()
		m.found.configurations = append(m.found.configurations, c.configurations...)
		m.found.ended, m.found.over = c.ended, c.over
		s := m.intern()
		if m.steps <= 0 {
			return m.limited
		}
		c.state = s
	}
	return c.state
}

// next is where a byte of some class leads from s.
func (m *machine) next(s *state, class uint8) *state {
	if !s.alive {
		return s
	}
	if t := s.next[class]; t != nil {
		return t
	}
	if m.steps <= 0 {
		return m.limited
	}
	m.find()
	b := m.program.members[class].first()
	for _, c := range s.configurations {
		m.steps--
		for _, a := range m.program.nodes[c.node].arcs {
			if a.lo <= b && b <= a.hi {
				m.enter(a.next, c.stack)
			}
		}
	}
	if m.steps <= 0 {
		return m.limited
	}
	t := m.intern()
	s.next[class] = t
	return t
}

// enter adds where a node stands, over a stack, to the state in the making.
func (m *machine) enter(node uint32, stack *frame) {
	for m.found.enterOnce(node, stack) {
		c := m.closureOf(node)
		m.found.over = m.found.over || c.over
		m.steps -= len(c.configurations) + 1
		for _, in := range c.configurations {
			if stack.size()+in.stack.size() > maxStack || len(m.found.configurations) > 4*maxConfigurations {
				m.found.over = true
				break
			}
			m.found.add(in.node, m.onto(in.stack, stack))
		}
		switch {
		case !c.ended:
			return
		case stack == nil:
			m.found.ended = true
			return
		}
		node, stack = stack.node, stack.parent
	}
}

// closureOf follows a node to all those with arcs. A rule that begins with itself would go on for ever: check refuses it.
func (m *machine) closureOf(node uint32) *closure {
	if c := m.closures[node]; c != nil {
		return c
	}
	c := &closure{}
	if m.steps <= 0 {
		return c
	}
	seen := map[uint32]bool{}
	for open := []uint32{node}; len(open) > 0 && !c.over && m.steps > 0; {
		at := open[len(open)-1]
		open = open[:len(open)-1]
		if seen[at] {
			continue
		}
		seen[at] = true
		m.steps--
		switch n := &m.program.nodes[at]; {
		case at == ruleEnd:
			c.ended = true
		case n.rule != noRule:
			called := m.closureOf(n.rule)
			back := m.push(n.next, nil)
			m.steps -= len(called.configurations)
			for _, in := range called.configurations {
				c.configurations = append(c.configurations, configuration{in.node, m.onto(in.stack, back)})
			}
			if called.ended {
				open = append(open, n.next)
			}
			c.over = c.over || called.over
		case len(n.arcs) > 0:
			c.configurations = append(c.configurations, configuration{node: at})
		default:
			open = append(open, n.places...)
		}
		c.over = c.over || len(c.configurations) > maxConfigurations
	}
	if m.steps > 0 {
		m.bytes += 64 + 16*len(c.configurations)
		m.closures[node] = c
	}
	return c
}

// intern is the state made.
func (m *machine) intern() *state {
	f := &m.found
	m.steps -= 2 * len(f.configurations)
	slices.SortFunc(f.configurations, func(a, b configuration) int {
		if a.node != b.node {
			return int(a.node) - int(b.node)
		}
		return cmp.Compare(a.stack.number(), b.stack.number())
	})
	f.configurations = slices.Compact(f.configurations)
	switch {
	case f.over || len(f.configurations) > maxConfigurations:
		return m.limited
	case len(f.configurations) == 0 && !f.ended:
		return m.dead
	}
	m.key = m.key[:0]
	for _, c := range f.configurations {
		m.key = binary.LittleEndian.AppendUint32(m.key, c.node)
		m.key = binary.LittleEndian.AppendUint32(m.key, c.stack.number())
	}
	if f.ended {
		m.key = append(m.key, 1)
	}
	s := m.states[string(m.key)]
	if s == nil {
		s = &state{
			configurations: slices.Clone(f.configurations), ended: f.ended, alive: true,
			next: make([]*state, len(m.program.members)),
		}
		m.states[string(m.key)] = s
		m.bytes += 200 + 8*len(s.next) + 24*len(s.configurations)
	}
	return s
}

func (f *frame) number() uint32 {
	if f == nil {
		return 0
	}
	return f.id
}

// upper parts the stacks of s, which has some, into what they have in common at the bottom, and a state of what is above that.
func (m *machine) upper(s *state) (top *state, common *frame) {
	common = s.configurations[0].stack
	for _, c := range s.configurations[1:] {
		for f := c.stack; f != common; m.steps-- {
			if f.size() > common.size() {
				f = f.parent
				continue
			}
			if f.size() == common.size() {
				f = f.parent
			}
			common = common.parent
		}
	}
	if common == nil && !s.ended {
		return s, nil
	}
	m.find()
	for _, c := range s.configurations {
		var above *frame
		frames := c.stack.upTo(common)
		for _, f := range slices.Backward(frames) {
			above = m.push(f.node, above)
		}
		m.steps -= len(frames)
		m.found.configurations = append(m.found.configurations, configuration{c.node, above})
	}
	return m.intern(), common
}
