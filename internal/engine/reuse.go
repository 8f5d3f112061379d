package engine

// prefix is what a sequence looks for in the prefix cache, and has it keep.
//
// What is kept was computed by steps that are committed, and a finite row of logits came of it: what is not finite among keys and values makes
// every row behind it so. Blocks of a prompt are kept from the first token after it on, all others when the sequence gives its blocks up. A
// block that is there already, as another sequence was quicker, is not kept twice: then those behind it wait for the end too.
type prefix struct {
	on   bool
	root digest128
	keys []digest128 // of the first full blocks, as far as they are known
	kept int         // leading blocks of the table that the cache holds itself
	hit  int         // tokens of the prompt that were there at the first start
}

// prefixOf makes a request's, which its continuations share.
func (p *blockPool) prefixOf(r *Request) prefix {
	if !p.cache.on || r.Cache.Bypass {
		return prefix{}
	}
	// Penalties need a history beside the keys and values (adjust.go), which only steps of such requests write.
	root := p.cache.root(r.Tenant, r.Cache.Salt, r.Sampling.penalizes())
	keys := p.cache.extend(make([]digest128, 0, len(r.Prompt)/p.blockSize), root, r.Prompt, p.blockSize)
	return prefix{on: true, root: root, keys: keys}
}

// reusable is the keys of the leading blocks that seq could do without computing: it needs a row to sample from, and those that it is asked
// for.
func (s *scheduler) reusable(seq *sequence) []digest128 {
	a := &seq.asked
	most := len(seq.tokens) - 1
	if a.goal > 0 {
		most = a.goal - 1
	}
	if a.nextRow < a.endRow {
		most = min(most, a.nextRow)
	}
	if a.pooling == MeanPooling {
		most = min(most, a.nextPooled)
	}
	return seq.prefix.keys[:min(most/s.blocks.blockSize, len(seq.prefix.keys))]
}

// lookup says how many leading blocks of seq the cache has, and how many of them are in use: those cost nothing to share.
func (s *scheduler) lookup(seq *sequence) (found, used int) {
	if !seq.prefix.on {
		return 0, 0
	}
	c, keys := &s.blocks.cache, s.reusable(seq)
	found = c.count(keys)
	used = bisect(found, func(i int) bool { return s.blocks.refs[c.find(keys[i])] > 0 })
	return found, used
}

// reuse gives seq, which has just started, the first blocks that it has keys for.
func (s *scheduler) reuse(seq *sequence, blocks int) {
	for _, key := range seq.prefix.keys[:blocks] {
		b := s.blocks.cache.find(key)
		s.blocks.reuse(b)
		seq.table = append(seq.table, b)
	}
	seq.prefix.kept = blocks
	seq.computed = blocks * s.blocks.blockSize
	if seq.prefix.on && seq.preemptions == 0 {
		seq.prefix.hit = seq.computed
		s.hits.tokens += uint64(seq.computed)
		s.hits.asked += uint64(seq.prompt)
	}
}

// prove notes that keys and values of seq up to the end of item are sound: what it sampled, or was asked for, is finite.
func (s *scheduler) prove(seq *sequence, item *batchItem) {
	seq.proved = true
	if seq.prefix.on {
		s.keep(seq, item.start+item.count)
	}
}

// keep lets the cache know the full blocks among the first `tokens` of seq, as far as no other sequence was quicker.
func (s *scheduler) keep(seq *sequence, tokens int) {
	p, c := &seq.prefix, &s.blocks.cache
	n := tokens / s.blocks.blockSize
	p.keys = c.extend(p.keys, p.root, seq.tokens[:n*s.blocks.blockSize], s.blocks.blockSize)
	for ; p.kept < n; p.kept++ {
		switch c.find(p.keys[p.kept]) {
		case noBlock:
			before := int32(noBlock)
			if p.kept > 0 {
				before = seq.table[p.kept-1]
			}
			c.insert(seq.table[p.kept], before, p.keys[p.kept])
		case seq.table[p.kept]:
		default:
			return
		}
	}
}

// keepAll is keep for a sequence that gives its blocks up. Where another one was quicker its block takes the place of seq's own, so that
// the cache gets what is behind it; not where continuations share that, which will do so in their turn.
func (s *scheduler) keepAll(seq *sequence) {
	p, c := &seq.prefix, &s.blocks.cache
	if !p.on || !seq.proved {
		return
	}
	n := min(seq.computed, len(seq.tokens)-1) // the last token came of the row before it
	for s.keep(seq, n); p.kept < n/s.blocks.blockSize; s.keep(seq, n) {
		own := seq.table[p.kept]
		if s.blocks.refs[own] > 1 {
			return
		}
		other := c.find(p.keys[p.kept])
		s.blocks.reuse(other)
		seq.table[p.kept] = other
		s.blocks.release([]int32{own})
	}
}
