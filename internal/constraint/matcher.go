package constraint

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// Bound is a Program over a vocabulary, with what it has found out about it so far. It is safe for concurrent use: masks are shared by all
// matchers, and made by one goroutine at a time. It takes up to some maxCacheBytes.
type Bound struct {
	vocabulary *Vocabulary
	fixed      int          // bytes
	grown      atomic.Int64 // the machine's bytes when it was used last

	mu      sync.Mutex
	machine *machine
	path    []*state // of a walk: the state at each length
	scratch []uint32 // the mask in the making
}

// Bind returns p over v.
func (p *Program) Bind(v *Vocabulary) *Bound {
	b := &Bound{vocabulary: v, machine: newMachine(p), path: make([]*state, v.longest+1), scratch: make([]uint32, v.maskWords())}
	b.fixed = b.fixedBytes()
	return b
}

// Matcher follows one output. It implements engine.Masker and belongs to one goroutine at a time.
type Matcher struct {
	bound *Bound
	ends  []int32
	state *state
	age   int      // of the machine that state is of
	over  bool     // the output has ended
	mask  []uint32 // nil: not made yet
	own   []uint32 // what mask is where it is not shared
	err   error

	steps int // of the machine that are left to it: savedSteps at first, and stepsPerToken more with each token
}

// What making masks for one output may take in the long run, so that one that always is at a new place does not hold others up: about 100 ms, and
// 1 ms more for each token.
const (
	savedSteps    = 1 << 22
	stepsPerToken = 1 << 15
)

// NewMatcher begins an output. ends are the tokens that may end it: they are allowed just where it is complete.
func (b *Bound) NewMatcher(ends []int32) *Matcher {
	b.mu.Lock()
	defer b.unlock()
	m := &Matcher{bound: b, age: b.machine.age, state: b.machine.begin(), steps: savedSteps}
	for _, id := range ends {
		if id >= 0 && int(id) < b.vocabulary.size {
			m.ends = append(m.ends, id)
		}
	}
	return m
}

// use makes sure that the state is of the machine, which is locked.
func (m *Matcher) use() *machine {
	k := m.bound.machine
	if k.bytes > maxCacheBytes {
		k.forget()
	}
	if m.age != k.age {
		m.state, m.age = k.adopt(m.state), k.age
	}
	return k
}

// Mask implements engine.Masker. Where the output is complete and nothing may follow, it holds the ends alone; after an end, nothing.
func (m *Matcher) Mask() []uint32 {
	if m.mask == nil {
		m.mask = m.newMask()
	}
	return m.mask
}

func (m *Matcher) newMask() []uint32 {
	if m.own == nil {
		m.own = make([]uint32, m.bound.vocabulary.maskWords())
	}
	if m.over || m.err != nil {
		clear(m.own)
		return m.own
	}
	mask, cut, known := m.look()
	complete := m.Complete()
	if slices.ContainsFunc(m.ends, func(id int32) bool { return mask[id>>5]>>(id&31)&1 == 1 != complete }) {
		copy(m.own, mask)
		mask = m.own
		for _, id := range m.ends {
			if mask[id>>5] &^= 1 << (id & 31); complete {
				mask[id>>5] |= 1 << (id & 31)
			}
		}
	}
	switch {
	case !known:
		m.err = errors.New("the constraint is too ambiguous here: its next tokens take too long to find")
	case cut && !complete && !slices.ContainsFunc(mask, func(word uint32) bool { return word != 0 }):
		m.err = fmt.Errorf("the constraint is too ambiguous or too deep here: more than %d ways or %d rules in each other", maxConfigurations, maxStack)
	default:
		return mask
	}
	clear(m.own)
	return m.own
}

// look is Bound.maskOf within the steps that are left.
func (m *Matcher) look() (mask []uint32, cut, known bool) {
	m.bound.mu.Lock()
	defer m.bound.unlock() // also where a panic ends the request: others use the machine too
	k := m.use()
	steps := max(min(maxSteps, m.steps), 0)
	k.steps = steps
	mask, cut, known = m.bound.maskOf(m.state)
	m.steps -= steps - k.steps
	return mask, cut, known
}

// Accept implements engine.Masker.
func (m *Matcher) Accept(id int32) {
	m.mask = nil
	switch {
	case m.over || m.err != nil:
		return
	case m.Complete() && slices.Contains(m.ends, id):
		m.over = true
		return
	}
	m.bound.mu.Lock()
	defer m.bound.unlock() // also where a panic ends the request: others use the machine too
	k := m.use()
	text := ""
	if id >= 0 && int(id) < m.bound.vocabulary.size {
		text = m.bound.vocabulary.texts[id]
	}
	next := m.state
	if text == "" {
		next = k.dead
	}
	k.steps, m.steps = maxSteps, m.steps+stepsPerToken
	for i := range len(text) {
		next = k.next(next, k.program.class[text[i]])
	}
	switch {
	case next == k.limited:
		m.err = fmt.Errorf("the constraint is too ambiguous or too deep after token %d, %.40q", id, text)
	case !next.alive:
		m.err = fmt.Errorf("token %d, %.40q, does not fit the constraint", id, text)
	}
	m.state = next // where there is an error, none that has ended: what the text was before says nothing
}

// Complete says whether the text so far has the form.
func (m *Matcher) Complete() bool { return m.state.ended }

// Err says why no token is allowed any more though the output is not complete; nil: all is well.
func (m *Matcher) Err() error { return m.err }
