package engine

// group is the continuations of one request: sequences of the same prompt, each with its own randomness. Those that run share the blocks
// that hold the prompt and nothing else.
type group struct {
	members []*sequence // by index
	left    int         // members that have not ended; the loop's
	detach  func() bool // from the context of Submit
}

// seedStep is how far apart the seeds of neighbouring continuations are: 2⁶⁴ over the golden ratio, as in splitmix64.
const seedStep = 0x9e3779b97f4a7c15

// continuationSeed is the seed of a continuation: the request's for the first, so that it is what the request would get alone, and for the
// others splitmix64's output (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014) for the state seed + index · seedStep.
func continuationSeed(seed uint64, index int) uint64 {
	if index == 0 {
		return seed
	}
	z := seed + uint64(index)*seedStep
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// newGroup makes the sequences of a request.
func newGroup(r *Request, p prefix, context, vocabulary int) *group {
	g := &group{members: make([]*sequence, max(r.N, 1))}
	g.left = len(g.members)
	mask := newMask(r.Sampling.Allowed, r.Sampling.Banned, vocabulary)
	for i := range g.members {
		seq := newSequence(r, context)
		seq.group, seq.prefix = g, p
		seq.setMask(mask, r.Mask)
		seq.params.Seed = continuationSeed(r.Sampling.Seed, i)
		if i > 0 {
			seq.asked = asked{} // the first one tells of the prompt
		}
		g.members[i] = seq
	}
	return g
}

// donor is a running continuation of the same request that has computed the blocks of the prompt that seq may share, or has them under
// way: steps run in the order of their launches. `wait` says that there is none yet, but soon will be.
func (s *scheduler) donor(seq *sequence) (from *sequence, wait bool) {
	if seq.group == nil || s.shared(seq) == 0 || seq.asked.nextRow < min(seq.asked.endRow, s.shared(seq)*s.blocks.blockSize) {
		return nil, false
	}
	for _, m := range seq.group.members {
		if m.state != running {
			continue
		}
		if m.computed >= s.shared(seq)*s.blocks.blockSize {
			return m, false
		}
		wait = true
	}
	return nil, wait
}

// shared is how many blocks the continuations of a prompt may have in common: the full ones, less the prompt's last token, which each
// computes to sample from. So no shared block is ever written to, and none has to be copied.
func (s *scheduler) shared(seq *sequence) int { return (seq.prompt - 1) / s.blocks.blockSize }

// share gives seq, which has just started, the prompt's blocks of a donor.
func (s *scheduler) share(seq, from *sequence) {
	seq.table = append(seq.table, from.table[:s.shared(seq)]...)
	s.blocks.retain(seq.table)
	seq.computed = len(seq.table) * s.blocks.blockSize
	seq.prefix.kept = min(from.prefix.kept, len(seq.table))
	if seq.preemptions == 0 {
		seq.prefix.hit = from.prefix.hit
	}
}
