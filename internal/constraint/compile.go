package constraint

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// Limits of a program.
const (
	maxNodes    = 1 << 17 // nodes
	maxCompiled = 1 << 20 // expressions and ranges of characters compiled, counting each copy that a repeat or a rule in place of its name makes
	maxSpelled  = 32      // sequences of ranges of bytes of a class of characters; one of more is called, so that many copies share it
	maxInPlace  = 12      // nodes of a rule that is compiled wherever it is named, rather than called
)

// Compile makes a Program of a grammar. It refuses what is no grammar, what cannot be followed and what is too large; errors name the rule.
func Compile(g *Grammar) (*Program, error) {
	checked, err := check(g)
	if err != nil {
		return nil, err
	}
	c := &compiler{checked: checked, program: &Program{nodes: make([]node, 1), afterClass: map[uint32]bool{}}, same: map[string]uint32{}, rules: map[string]*compiledRule{}}
	for _, name := range checked.order {
		c.rules[name] = &compiledRule{size: -1}
	}
	c.measure(g.Start)
	for _, name := range checked.order {
		c.rules[name].entry = c.add(node{rule: noRule})
	}
	// Only what is called is compiled: the start, and from there on.
	c.call(g.Start)
	for len(c.called) > 0 && c.err == nil {
		name := c.called[0]
		c.called = c.called[1:]
		c.rule = name
		entry, ok := c.compile(g.Rules[name], ruleEnd)
		if ok {
			c.program.nodes[c.rules[name].entry].places = []uint32{entry}
		}
	}
	if c.err != nil {
		return nil, c.err
	}
	c.program.start = c.rules[g.Start].entry
	c.program.classify()
	if m := newMachine(c.program); m.begin() == m.limited {
		return nil, fmt.Errorf("rule %s: a text may begin in more than %d ways", g.Start, maxConfigurations)
	}
	return c.program, nil
}

// compiler makes nodes from the end of a text to its start: each expression is compiled for what follows it. Nodes that are the same are one,
// so that texts with the same end share it.
type compiler struct {
	*checked
	program  *Program
	same     map[string]uint32 // nodes by what they are
	rules    map[string]*compiledRule
	called   []string // rules to compile
	rule     string   // that is compiled
	compiled int      // of maxCompiled
	err      error    // the first
}

type compiledRule struct {
	entry     uint32
	size      int  // about how many nodes it has, up to maxInPlace+1; −1: not known yet
	recursive bool // it comes back to itself by way of rules in place of their names
	called    bool
}

// measure finds the sizes of rules, and by the way one at least in each circle, which is called.
func (c *compiler) measure(name string) int {
	r := c.rules[name]
	const measuring = -2
	switch r.size {
	case measuring:
		r.recursive = true
		return 1
	case -1:
		r.size = measuring
		r.size = c.sizeOf(c.grammar.Rules[name])
	}
	if c.inPlace(r) {
		return r.size
	}
	return 1
}

func (c *compiler) inPlace(r *compiledRule) bool { return !r.recursive && r.size <= maxInPlace }

func (c *compiler) sizeOf(e Expr) int {
	size := 0
	switch e := e.(type) {
	case Text:
		size = len(e)
	case Chars:
		size = 1
		if n := len(e); n > 0 && e[n-1].Last > 0x7F {
			size = 4 + n // the nodes between the bytes of a character
		}
	case Rule:
		size = c.measure(string(e))
	case Sequence:
		for _, part := range e {
			size += c.sizeOf(part)
		}
	case Choice:
		for _, part := range e {
			size += c.sizeOf(part)
		}
	case Repeat:
		size = c.sizeOf(e.Of)
		size = 1 + size*min(max(e.Min, e.Max, 1), maxInPlace+1)
	}
	return min(size, maxInPlace+1)
}

// call returns the node where a rule starts, and has it compiled.
func (c *compiler) call(name string) uint32 {
	r := c.rules[name]
	if !r.called {
		r.called = true
		c.called = append(c.called, name)
	}
	return r.entry
}

// compile returns the node for e where what follows is at next; false: e has no text.
func (c *compiler) compile(e Expr, next uint32) (at uint32, ok bool) {
	c.compiled++
	if chars, ok := e.(Chars); ok {
		c.compiled += len(chars)
	}
	if c.compiled > maxCompiled {
		c.fail("more than %d expressions, counting the copies that repeats make", maxCompiled)
	}
	if c.err != nil {
		return next, false
	}
	switch e := e.(type) {
	case Text:
		return c.text(string(e), next), true
	case Chars:
		return c.chars(e, next)
	case Rule:
		return c.named(string(e), next)
	case Sequence:
		for _, part := range slices.Backward(e) {
			if next, ok = c.compile(part, next); !ok {
				return next, false
			}
		}
		return next, true
	case Choice:
		return c.choice(e, next)
	case Repeat:
		return c.repeat(e, next)
	}
	return next, false
}

func (c *compiler) named(name string, next uint32) (uint32, bool) {
	switch r := c.rules[name]; {
	case !c.ends[name]:
		return next, false
	case c.inPlace(r):
		return c.compile(c.grammar.Rules[name], next)
	default:
		return c.returning(c.call(name), next), true
	}
}

func (c *compiler) text(text string, next uint32) uint32 {
	for _, b := range slices.Backward([]byte(text)) {
		next = c.add(node{arcs: []arc{{b, b, next}}, rule: noRule})
	}
	return next
}

func (c *compiler) chars(chars Chars, next uint32) (at uint32, ok bool) {
	var sequences [][]byteRange
	for _, r := range scalars(chars) {
		sequences = byteSequences(sequences, r.First, r.Last)
	}
	if len(sequences) <= maxSpelled || next == ruleEnd {
		return c.bytes(sequences, next), len(sequences) > 0
	}
	c.program.afterClass[next] = true
	return c.returning(c.bytes(sequences, ruleEnd), next), true
}

// bytes is any of some sequences, as byteSequences gives them.
func (c *compiler) bytes(sequences [][]byteRange, next uint32) uint32 {
	var arcs []arc
	for len(sequences) > 0 {
		head, n := sequences[0][0], 1
		for n < len(sequences) && sequences[n][0] == head {
			n++
		}
		to := next
		if len(sequences[0]) > 1 {
			rest := make([][]byteRange, n)
			for i := range rest {
				rest[i] = sequences[i][1:]
			}
			to = c.bytes(rest, next)
		}
		if k := len(arcs); k > 0 && arcs[k-1].next == to && int(arcs[k-1].hi)+1 == int(head.lo) {
			arcs[k-1].hi = head.hi
		} else {
			arcs = append(arcs, arc{head.lo, head.hi, to})
		}
		sequences = sequences[n:]
	}
	return c.add(node{arcs: arcs, rule: noRule})
}

// choice compiles the alternatives. Those that are texts become one tree, so that thousands of them are one place.
func (c *compiler) choice(e Choice, next uint32) (uint32, bool) {
	var texts []string
	var places []uint32
	for _, part := range e {
		if text, ok := part.(Text); ok {
			texts = append(texts, string(text))
		} else if at, ok := c.compile(part, next); ok {
			places = append(places, at)
		}
	}
	if len(texts) > 0 {
		slices.Sort(texts)
		places = append(places, c.texts(slices.Compact(texts), 0, next))
	}
	return c.either(places), len(places) > 0
}

// texts is any of some texts, in order, that begin with the same `shared` bytes, from there on.
func (c *compiler) texts(texts []string, shared int, next uint32) uint32 {
	if len(texts) == 1 {
		return c.text(texts[0][shared:], next)
	}
	var places []uint32
	if len(texts[0]) == shared {
		places, texts = append(places, next), texts[1:]
	}
	var arcs []arc
	for len(texts) > 0 && c.err == nil {
		b, n := texts[0][shared], 1
		for n < len(texts) && texts[n][shared] == b {
			n++
		}
		arcs = append(arcs, arc{b, b, c.texts(texts[:n], shared+1, next)})
		texts = texts[n:]
	}
	return c.either(append(places, c.add(node{arcs: arcs, rule: noRule})))
}

func (c *compiler) either(places []uint32) uint32 {
	slices.Sort(places)
	places = slices.Compact(places)
	switch len(places) {
	case 0:
		return ruleEnd
	case 1:
		return places[0]
	}
	return c.add(node{places: places, rule: noRule})
}

// add returns the node that is n, which is new unless there is one already. A rule's first node and a loop's, which are completed later, are
// always new.
func (c *compiler) add(n node) uint32 {
	at := uint32(len(c.program.nodes))
	open := len(n.arcs) == 0 && len(n.places) < 2 && n.rule == noRule
	if !open {
		key := n.key()
		if old, ok := c.same[key]; ok {
			return old
		}
		c.same[key] = at
	}
	if at >= maxNodes {
		c.fail("the automaton has more than %d states", maxNodes)
		return ruleEnd
	}
	c.program.nodes = append(c.program.nodes, n)
	return at
}

func (n *node) key() string {
	key := binary.AppendUvarint(nil, uint64(n.rule)<<32|uint64(n.next))
	for _, a := range n.arcs {
		key = binary.AppendUvarint(append(key, a.lo, a.hi), uint64(a.next))
	}
	key = append(key, 0xFF, 0x00) // no arc is from 255 to 0
	for _, place := range n.places {
		key = binary.AppendUvarint(key, uint64(place))
	}
	return string(key)
}

func (c *compiler) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("rule %s: %w", c.rule, fmt.Errorf(format, args...))
	}
}
