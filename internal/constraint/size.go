package constraint

import "unsafe"

// Bytes is about what b takes so far, without the vocabulary: the program, and what was found out about it. It waits for nobody.
func (b *Bound) Bytes() int { return b.fixed + int(b.grown.Load()) }

// unlock lets others use the machine.
func (b *Bound) unlock() {
	b.grown.Store(int64(b.machine.bytes))
	b.mu.Unlock()
}

// fixedBytes is about what a Bound takes from the start.
func (b *Bound) fixedBytes() int {
	p := b.machine.program
	bytes := len(p.nodes)*int(unsafe.Sizeof(node{})+unsafe.Sizeof(&closure{})) + len(b.path)*int(unsafe.Sizeof(&state{}))
	for i := range p.nodes {
		bytes += len(p.nodes[i].arcs)*int(unsafe.Sizeof(arc{})) + len(p.nodes[i].places)*4
	}
	return bytes
}
