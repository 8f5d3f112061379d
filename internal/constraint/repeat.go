package constraint

// Repeats are copied, up to a length.
const (
	maxCopies   = 512 // of what is repeated
	blockCopies = 256 // in a block, of which longer repeats are made
)

func (c *compiler) repeat(e Repeat, next uint32) (at uint32, ok bool) {
	if e.Max >= 0 {
		at = c.upTo(e.Of, e.Max-e.Min, next)
	} else {
		at = c.add(node{rule: noRule, places: []uint32{next}})
		if body, ok := c.compile(e.Of, at); ok && body != at {
			c.program.nodes[at].places = []uint32{body, next}
		}
	}
	return c.times(e.Of, e.Min, at)
}

// times is e so many times. Beyond maxCopies it goes by blocks, which are called.
func (c *compiler) times(e Expr, n int, next uint32) (at uint32, ok bool) {
	at = next
	if n > maxCopies {
		block, ok := c.times(e, blockCopies, ruleEnd)
		if !ok || block == ruleEnd {
			return at, ok
		}
		for ; n > maxCopies && c.err == nil; n -= blockCopies {
			at = c.returning(block, at)
		}
	}
	for ; n > 0; n-- {
		body, ok := c.compile(e, at)
		if !ok {
			return at, false
		}
		if body == at {
			break // e is the empty text
		}
		at = body
	}
	return at, true
}

// upTo is e at most so many times. Beyond maxCopies it is a part of a block and the end, or a block and more.
func (c *compiler) upTo(e Expr, n int, next uint32) (at uint32) {
	blocks := 0
	if n > maxCopies {
		blocks, n = n/blockCopies, n%blockCopies
	}
	at = next
	for ; n > 0; n-- {
		body, ok := c.compile(e, at)
		if !ok || body == at {
			break
		}
		at = c.either([]uint32{body, next})
	}
	if blocks == 0 {
		return at
	}
	part := c.upTo(e, blockCopies-1, ruleEnd)
	block, ok := c.times(e, blockCopies, ruleEnd)
	for ; ok && blocks > 0 && c.err == nil; blocks-- {
		at = c.either([]uint32{c.returning(part, next), c.returning(block, at)})
	}
	return at
}

// returning calls what ends with ruleEnd; at the end of a rule there is nothing to return to.
func (c *compiler) returning(callee, next uint32) uint32 {
	if next == ruleEnd || callee == ruleEnd {
		return max(callee, next)
	}
	return c.add(node{rule: callee, next: next})
}
