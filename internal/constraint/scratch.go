package constraint

import (
	"cmp"
	"encoding/binary"
	"slices"
)

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

// find begins the next state in the making.
func (m *machine) find() {
	f := &m.found
	f.configurations, f.ended, f.over = f.configurations[:0], false, false
	if len(f.entered) < 256 {
		clear(f.entered)
	} else { // a large map takes long to clear, however little it holds
		f.entered = map[configuration]bool{}
	}
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
