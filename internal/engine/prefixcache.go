package engine

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync/atomic"
)

// prefixCache finds blocks by what they hold: the key of a block is a hash of its tokens and of the key of the block before it, so that it
// stands for all tokens up to its end. The first block's predecessor is a root, which differs by tenant, salt and whatever else must not
// be shared. Blocks without a reference stay as they are, idle, until their room is needed.
//
// What the loop changes is atomic, so that others may look: they see what was there a moment ago. The loop itself always sees all.
//
// A block that has an entry and references is named by a table that names its predecessor too, and tables are released from their ends.
// So the idle blocks, in the order in which they became idle, have each block before its predecessor: the oldest is always a leaf, and the
// entries that there are make whole chains.
type prefixCache struct {
	secret digest128
	on     bool // off: nothing is ever looked for or kept

	buckets        []atomic.Int32 // [a power of 2] first block of each chain of equal hashes, + 1; 0: none
	entries        []cacheEntry   // [B] by block
	oldest, newest int32          // idle blocks; none: noBlock
	idle           int            // of them
	evictions      uint64
}

// cacheEntry is what the cache knows of a block.
type cacheEntry struct {
	key    [2]atomic.Uint64
	next   atomic.Int32 // in its bucket, as there
	cached bool
	before int32 // block of the predecessor; of the first one, noBlock

	older, newer int32 // where it is idle
}

// noBlock is the index of no block.
const noBlock = -1

func newPrefixCache(numBlocks int, on bool) prefixCache {
	c := prefixCache{on: on, oldest: noBlock, newest: noBlock}
	if !on {
		return c
	}
	var secret [16]byte
	_, _ = rand.Read(secret[:]) // it never fails
	c.secret = digest128{binary.LittleEndian.Uint64(secret[:]), binary.LittleEndian.Uint64(secret[8:])}
	c.buckets = make([]atomic.Int32, 1<<bits.Len(uint(numBlocks)))
	c.entries = make([]cacheEntry, numBlocks)
	return c
}

// root is the key before the first block of requests that may share blocks.
func (c *prefixCache) root(tenant, salt string, penalized bool) digest128 {
	class := digest128{uint64(len(tenant)), 0}
	if penalized {
		class[1] = 1
	}
	return sipHash(c.secret, class, []byte(tenant+salt))
}

// extend appends the keys of all full blocks of tokens that keys lacks; parent is the root.
func (c *prefixCache) extend(keys []digest128, root digest128, tokens []int32, blockSize int) []digest128 {
	parent := root
	if n := len(keys); n > 0 {
		parent = keys[n-1]
	}
	for n := len(keys); (n+1)*blockSize <= len(tokens); n++ {
		parent = sipHash(c.secret, parent, bytesOf(tokens[n*blockSize:(n+1)*blockSize]))
		keys = append(keys, parent)
	}
	return keys
}

func (c *prefixCache) bucket(key digest128) *atomic.Int32 {
	return &c.buckets[key[0]&uint64(len(c.buckets)-1)]
}

// find returns the block of a key, or noBlock. From any goroutine.
func (c *prefixCache) find(key digest128) int32 {
	at := c.bucket(key).Load()
	for range c.entries { // whoever is not the loop may be led around in circles
		if at == 0 {
			return noBlock
		}
		e := &c.entries[at-1]
		if e.key[0].Load() == key[0] && e.key[1].Load() == key[1] {
			return at - 1
		}
		at = e.next.Load()
	}
	return noBlock
}

// count is how many of the keys, from the first on, have blocks: as there are only whole chains, by bisection. From any goroutine.
func (c *prefixCache) count(keys []digest128) int {
	return bisect(len(keys), func(i int) bool { return c.find(keys[i]) != noBlock })
}

// bisect is how many of the first n numbers have a property, which those and only those have that are less than one which does.
func bisect(n int, has func(int) bool) int {
	from, to := 0, n
	for from < to {
		if middle := (from + to) / 2; has(middle) {
			from = middle + 1
		} else {
			to = middle
		}
	}
	return from
}

// insert gives a block its entry. There is none with this key, and one of its predecessor `before`.
func (c *prefixCache) insert(block, before int32, key digest128) {
	e := &c.entries[block]
	if e.cached {
		panic(fmt.Sprintf("engine: block %d is in the prefix cache already", block))
	}
	e.cached, e.before = true, before
	e.key[0].Store(key[0])
	e.key[1].Store(key[1])
	head := c.bucket(key)
	e.next.Store(head.Load())
	head.Store(block + 1)
}

// evict takes the oldest idle block out.
func (c *prefixCache) evict() int32 {
	block := c.oldest
	c.leaveIdle(block)
	e := &c.entries[block]
	at := c.bucket(digest128{e.key[0].Load(), e.key[1].Load()})
	for at.Load() != block+1 {
		at = &c.entries[at.Load()-1].next
	}
	at.Store(e.next.Load())
	e.cached = false
	c.evictions++
	return block
}

func (c *prefixCache) cached(block int32) bool { return c.on && c.entries[block].cached }

// becomeIdle makes a block the newest idle one.
func (c *prefixCache) becomeIdle(block int32) {
	e := &c.entries[block]
	e.older, e.newer = c.newest, noBlock
	if c.newest == noBlock {
		c.oldest = block
	} else {
		c.entries[c.newest].newer = block
	}
	c.newest = block
	c.idle++
}

func (c *prefixCache) leaveIdle(block int32) {
	e := &c.entries[block]
	if e.older == noBlock {
		c.oldest = e.newer
	} else {
		c.entries[e.older].newer = e.newer
	}
	if e.newer == noBlock {
		c.newest = e.older
	} else {
		c.entries[e.newer].older = e.older
	}
	c.idle--
}

// checkIntegrity compares the entries with the idle list and the references.
func (c *prefixCache) checkIntegrity(refs []int32) error {
	if !c.on {
		return nil
	}
	wanted, idle := 0, 0
	for b := range c.entries {
		e := &c.entries[b]
		if !e.cached {
			continue
		}
		if found := c.find(digest128{e.key[0].Load(), e.key[1].Load()}); found != int32(b) {
			return fmt.Errorf("block %d is in the prefix cache, its key finds %d", b, found)
		}
		if refs[b] == 0 {
			wanted++
		}
		if f := e.before; f != noBlock && (!c.entries[f].cached || refs[f] == 0 && refs[b] > 0) {
			return fmt.Errorf("block %d with %d references follows block %d with %d, in the prefix cache: %v", b, refs[b], f, refs[f], c.entries[f].cached)
		}
	}
	before, passed := int32(noBlock), make([]bool, len(refs))
	for b := c.oldest; b != noBlock; b = c.entries[b].newer {
		e := &c.entries[b]
		if !e.cached || refs[b] != 0 || e.older != before || idle > wanted {
			return fmt.Errorf("idle block %d behind %d, in the prefix cache: %v, has %d references and stands behind %d", b, before, e.cached, refs[b], e.older)
		}
		if f := e.before; f != noBlock && passed[f] {
			return fmt.Errorf("block %d has been idle for longer than block %d, which follows it", f, b)
		}
		before, passed[b] = b, true
		idle++
	}
	if idle != wanted || idle != c.idle || before != c.newest {
		return fmt.Errorf("%d blocks are idle up to %d, %d should be, the count says %d up to %d", idle, before, wanted, c.idle, c.newest)
	}
	return nil
}
