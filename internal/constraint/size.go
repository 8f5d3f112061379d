package constraint

import "unsafe"

// Bytes is about what b takes so far, without the vocabulary: the program, and what was found out about it.
func (b *Bound) Bytes() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.machine.program
	bytes := b.machine.bytes + len(p.nodes)*int(unsafe.Sizeof(node{})+unsafe.Sizeof(&closure{})) + len(b.path)*int(unsafe.Sizeof(&state{}))
	for i := range p.nodes {
		bytes += len(p.nodes[i].arcs)*int(unsafe.Sizeof(arc{})) + len(p.nodes[i].places)*4
	}
	return bytes
}
