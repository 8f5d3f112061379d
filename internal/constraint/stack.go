package constraint

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

func (f *frame) number() uint32 {
	if f == nil {
		return 0
	}
	return f.id
}
