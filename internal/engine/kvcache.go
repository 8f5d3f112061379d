package engine

import "fmt"

// blockPool owns the KV blocks: pages of blockSize tokens in every layer, named by an index.
//
// A block has as many references as there are block tables that name it. One without is free, or idle: the prefix cache knows what it holds,
// until its room is needed.
type blockPool struct {
	blockSize int
	refs      []int32 // [B] references of each block
	free      []int32 // stack of free blocks
	cache     prefixCache
}

func newBlockPool(numBlocks, blockSize int, cache bool) *blockPool {
	p := &blockPool{
		blockSize: blockSize, refs: make([]int32, numBlocks), free: make([]int32, numBlocks), cache: newPrefixCache(numBlocks, cache),
	}
	for i := range p.free {
		p.free[i] = int32(numBlocks - 1 - i) // block 0 is taken first
	}
	return p
}

func (p *blockPool) total() int { return len(p.refs) }

// numFree is how many blocks may be taken: idle ones too.
func (p *blockPool) numFree() int { return len(p.free) + p.cache.idle }

// blocksFor is how many blocks hold that many tokens.
func (p *blockPool) blocksFor(tokens int) int { return (tokens + p.blockSize - 1) / p.blockSize }

// take returns a block that was free, or the one that has been idle for the longest, with one reference. The caller has looked at numFree.
func (p *blockPool) take() (b int32) {
	if len(p.free) > 0 {
		b = p.free[len(p.free)-1]
		p.free = p.free[:len(p.free)-1]
	} else {
		b = p.cache.evict()
	}
	if p.refs[b] != 0 {
		panic(fmt.Sprintf("engine: free block %d has %d references", b, p.refs[b]))
	}
	p.refs[b] = 1
	return b
}

// retain adds a reference to each block of a table that another one names too.
func (p *blockPool) retain(table []int32) {
	for _, b := range table {
		if p.refs[b] < 1 {
			panic(fmt.Sprintf("engine: block %d shared with %d references", b, p.refs[b]))
		}
		p.refs[b]++
	}
}

// reuse adds a reference to a block that the prefix cache found.
func (p *blockPool) reuse(b int32) {
	if p.refs[b] == 0 {
		p.cache.leaveIdle(b)
	}
	p.refs[b]++
}

// release gives one reference of each block back, the last ones first, so that a sequence that comes back gets its blocks in order,
// and no block is idle for longer than one that follows it.
func (p *blockPool) release(table []int32) {
	for i := len(table) - 1; i >= 0; i-- {
		b := table[i]
		p.refs[b]--
		switch {
		case p.refs[b] == 0 && p.cache.cached(b):
			p.cache.becomeIdle(b)
		case p.refs[b] == 0:
			p.free = append(p.free, b) // within its capacity: it held all blocks
		case p.refs[b] < 0:
			panic(fmt.Sprintf("engine: block %d released with %d references", b, p.refs[b]+1))
		}
	}
}

// checkIntegrity compares the counts with the block tables that are in use.
func (p *blockPool) checkIntegrity(tables [][]int32) error {
	named := make([]int32, len(p.refs))
	for _, table := range tables {
		for _, b := range table {
			named[b]++
		}
	}
	free := make([]bool, len(p.refs))
	for _, b := range p.free {
		if free[b] {
			return fmt.Errorf("block %d is free twice", b)
		}
		free[b] = true
	}
	for b, refs := range p.refs {
		if refs != named[b] {
			return fmt.Errorf("block %d has %d references, %d tables name it", b, refs, named[b])
		}
		if free[b] != (refs == 0 && !p.cache.cached(int32(b))) {
			return fmt.Errorf("block %d has %d references, on the free list: %v, in the prefix cache: %v", b, refs, free[b], p.cache.cached(int32(b)))
		}
	}
	return p.cache.checkIntegrity(p.refs)
}
