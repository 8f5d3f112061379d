package tokenizer

// noToken marks the absence of a token where an id is expected.
const noToken = int32(-1)

// noRank is above every rank of a merge.
const noRank = ^uint32(0)

// A merge joins two adjacent symbols; the lower rank goes first.
type merge struct {
	rank uint32
	id   int32 // the token that the pair becomes
}

// mergeTable maps a pair of ids to its merge: open addressing with linear probing, at most 5/8 full. Most pairs of a text have no merge: a
// filter, which fits a core's cache where the table does not, says so of nearly all of them.
type mergeTable struct {
	slots  []mergeSlot // a power of two
	shift  uint        // of the hash, to an index in slots
	filter []uint64    // filterBits for each slot, by the same hash: set where a merge has it
	used   int
	ranks  int // the highest rank + 1
}

type mergeSlot struct {
	pair  uint64 // left<<32 | right; emptySlot where free
	merge merge
}

const emptySlot = ^uint64(0)

const (
	filterShift = 3
	filterBits  = 1 << filterShift // for each slot
)

// newMergeTable returns a table with room for n merges before it grows.
func newMergeTable(n int) mergeTable {
	bits := uint(6)
	for 5<<bits < 8*n {
		bits++
	}
	t := mergeTable{slots: make([]mergeSlot, 1<<bits), shift: 64 - bits, filter: make([]uint64, filterBits<<bits/64)}
	for i := range t.slots {
		t.slots[i].pair = emptySlot
	}
	return t
}

func pairOf(left, right int32) uint64 { return uint64(uint32(left))<<32 | uint64(uint32(right)) }

func hashOf(pair uint64) uint64 { return (pair ^ pair>>29) * 0x9E3779B97F4A7C15 }

// find returns the slot of a pair, or the free slot where it belongs.
func (t *mergeTable) find(pair, hash uint64) *mergeSlot {
	mask := uint64(len(t.slots) - 1)
	for i := hash >> t.shift; ; i = (i + 1) & mask {
		if s := &t.slots[i&mask]; s.pair == pair || s.pair == emptySlot {
			return s
		}
	}
}

func (t *mergeTable) get(left, right int32) merge {
	pair := pairOf(left, right)
	hash := hashOf(pair)
	if i := hash >> (t.shift - filterShift); t.filter[i/64]>>(i%64)&1 == 0 {
		return merge{rank: noRank, id: noToken}
	}
	if s := t.find(pair, hash); s.pair != emptySlot {
		return s.merge
	}
	return merge{rank: noRank, id: noToken}
}

// put adds a merge; a later one of the same pair replaces the earlier.
func (t *mergeTable) put(left, right int32, m merge) {
	pair := pairOf(left, right)
	hash := hashOf(pair)
	s := t.find(pair, hash)
	if s.pair == emptySlot {
		if 8*t.used >= 5*len(t.slots) {
			t.grow()
			s = t.find(pair, hash)
		}
		t.used++
	}
	t.set(s, mergeSlot{pair, m}, hash)
	t.ranks = max(t.ranks, int(m.rank)+1)
}

func (t *mergeTable) set(at *mergeSlot, s mergeSlot, hash uint64) {
	*at = s
	i := hash >> (t.shift - filterShift)
	t.filter[i/64] |= 1 << (i % 64)
}

func (t *mergeTable) grow() {
	bigger := newMergeTable(len(t.slots))
	for _, s := range t.slots {
		if s.pair != emptySlot {
			hash := hashOf(s.pair)
			bigger.set(bigger.find(s.pair, hash), s, hash)
		}
	}
	bigger.used, bigger.ranks = t.used, t.ranks
	*t = bigger
}

// A candidate is a merge that was possible when it was pushed: its rank << 32 | the index of the left symbol, so that the
// lowest is the next one by rank, the leftmost among equals.
type candidate uint64

func newCandidate(rank uint32, at int32) candidate { return candidate(rank)<<32 | candidate(at) }

func (c candidate) rank() uint32 { return uint32(c >> 32) }

func (c candidate) at() int32 { return int32(uint32(c)) }

// candidates is a heap of four children a node.
type candidates []candidate

func (h *candidates) push(c candidate) {
	s := append(*h, c)
	*h = s
	i := len(s) - 1
	for i > 0 && c < s[(i-1)/4] {
		s[i] = s[(i-1)/4]
		i = (i - 1) / 4
	}
	s[i] = c
}

func (h *candidates) pop() candidate {
	s := *h
	top, last := s[0], s[len(s)-1]
	s = s[:len(s)-1]
	*h = s
	i := 0
	for 4*i+1 < len(s) {
		least := 4*i + 1
		for j := least + 1; j < min(4*i+5, len(s)); j++ {
			if s[j] < s[least] {
				least = j
			}
		}
		if last <= s[least] {
			break
		}
		s[i] = s[least]
		i = least
	}
	if len(s) > 0 {
		s[i] = last
	}
	return top
}
