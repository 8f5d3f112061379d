package constraint

import "slices"

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
	closures []*closure          // of each node; nil until needed
	masks    map[uint64][]uint32 // by what they hold; they do not change
	bytes    int                 // about what they take
	age      int                 // how often all was forgotten
	steps    int                 // left of maxSteps; none: next answers `limited` until there are more

	dead    *state // no way leads on
	limited *state // there may be ways, which the limits rule out

	found scratch
	key   []byte
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
	course         *course         // where most characters lead; nil: not known yet

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

func newMachine(p *Program) *machine {
	m := &machine{program: p, dead: &state{}, limited: &state{}, age: -1}
	m.found = scratch{entered: map[configuration]bool{}, bare: make([]uint32, len(p.nodes)), taken: make([]uint32, len(p.nodes))}
	m.forget()
	return m
}

// forget gives all memory back. States made before are no longer of this machine: see adopt.
func (m *machine) forget() {
	m.frames, m.states, m.closures = map[frameKey]*frame{}, map[string]*state{}, make([]*closure, len(m.program.nodes))
	m.masks = map[uint64][]uint32{}
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
	for common != nil && m.program.afterClass[common.node] {
		common = common.parent // a character by itself says too little of what may come
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
