package tokenizer

import (
	"math/bits"
	"slices"
)

// A symbol of a long piece, in the list of those that are left.
type symbol struct {
	id         int32  // its token; noToken once it was joined to its left neighbour
	prev, next int32  // −1 at the ends
	rank       uint32 // of the merge with the right neighbour; noRank where there is none
}

// A placed token is one of a result, with its symbols: those of the piece from start to end, exclusive.
type placed struct{ id, start, end int32 }

// Long pieces are merged in windows, whose symbols a core's cache holds. windowOverlap is how much of one the next repeats at least.
const (
	windowSymbols = 1 << 15
	windowOverlap = 1 << 8
)

// mergeLong merges w.ids and appends the result to dst.
func (m *bpe) mergeLong(dst []int32, w *scratch) []int32 {
	return m.mergeInWindows(dst, w, windowSymbols, windowOverlap)
}

// mergeInWindows merges w.ids window by window, each of which begins with a token of the one before. Where both have a token in common, the
// same symbols and the same id, the result goes over from the one to the other: exactly what merging the whole gives. For what is to the left
// of a place that no merge crosses merges as if nothing followed, and so on the right; so two neighbours of a result are what their symbols
// merge to by themselves. And a text in which that is so of all neighbours is the result: the first merge across any of its places would go
// across the same place between those two alone. Where windows have nothing in common the piece is one window, so that the whole is linear.
func (m *bpe) mergeInWindows(dst []int32, w *scratch, size, overlap int) []int32 {
	ids, begin := w.ids, len(dst)
	w.tokens = m.mergeWindow(w.tokens[:0], ids[:min(size, len(ids))], 0, w)
	for end := size; end < len(ids); end += size - overlap {
		from := len(w.tokens) - 1
		for from > 0 && int(w.tokens[from].start) > end-overlap {
			from--
		}
		at := int(w.tokens[from].start)
		w.next = m.mergeWindow(w.next[:0], ids[at:min(end+size-overlap, len(ids))], at, w)
		last, first := inCommon(w.tokens[from:], w.next)
		if last < 0 {
			dst, w.tokens = dst[:begin], m.mergeWindow(w.tokens[:0], ids, 0, w)
			break
		}
		dst = appendIDs(dst, w.tokens[:from+last])
		w.tokens = append(w.tokens[:0], w.next[first:]...)
	}
	return appendIDs(dst, w.tokens)
}

// inCommon returns the indices of the first token that two results have in common; −1 where they have none. The last token of a window ends
// where the window does and not where it would, but by the same proof it may be used too.
func inCommon(a, b []placed) (i, j int) {
	for i < len(a) && j < len(b) {
		switch {
		case a[i] == b[j]:
			return i, j
		case a[i].start < b[j].start:
			i++
		case a[i].start > b[j].start:
			j++
		default:
			i, j = i+1, j+1
		}
	}
	return -1, -1
}

func appendIDs(dst []int32, tokens []placed) []int32 {
	dst = slices.Grow(dst, len(tokens))
	for _, t := range tokens {
		dst = append(dst, t.id)
	}
	return dst
}

// mergeWindow merges symbols, the first of which is that of this index in the piece, and appends the result to dst. Merges of one rank are done
// in one pass from left to right, so that each step takes the same time however many symbols there are, and a pass walks through memory in
// order. The few merges that become possible in a pass and go before what is left of it wait in w.early; without those of files made to that
// end, the whole is linear.
func (m *bpe) mergeWindow(dst []placed, ids []int32, index int, w *scratch) []placed {
	n := m.listSymbols(ids, w)
	for {
		rank, ok := w.queue.pop(&w.pass)
		if !ok {
			break
		}
		w.work += len(w.pass)
		w.keepPossible(rank)
		for w.done = 0; w.done < len(w.pass) || len(w.early) > 0; {
			at := w.nextMerge(rank)
			if at < 0 {
				continue
			}
			m.join(w, at, rank)
			n--
		}
		m.updateChanged(w, rank)
	}
	dst = slices.Grow(dst, n)
	for i := int32(0); i >= 0; i = w.symbols[i].next {
		s := &w.symbols[i]
		end := s.next
		if end < 0 {
			end = int32(len(ids))
		}
		dst = append(dst, placed{id: s.id, start: int32(index) + i, end: int32(index) + end})
	}
	return dst
}

// listSymbols makes the list of ids and queues the merges that are possible, and returns how many symbols there are.
func (m *bpe) listSymbols(ids []int32, w *scratch) int {
	n := len(ids)
	w.queue.reset(m.merges.ranks, n)
	w.pass, w.changed = slices.Grow(w.pass[:0], n), slices.Grow(w.changed[:0], n/2+1)
	w.symbols = slices.Grow(w.symbols[:0], n)[:n]
	w.symbols[n-1] = symbol{id: ids[n-1], prev: int32(n - 2), next: -1, rank: noRank}
	for i := n - 2; i >= 0; i-- { // backwards, as a list of the queue grows at its front
		found := m.merges.get(ids[i], ids[i+1])
		w.symbols[i] = symbol{id: ids[i], prev: int32(i - 1), next: int32(i + 1), rank: found.rank}
		if found.rank != noRank {
			w.queue.push(found.rank, int32(i))
		}
	}
	w.work += n
	return n
}

// keepPossible takes out of a pass what has changed since it was queued. A loop that only looks has many of its reads under way at once.
func (w *scratch) keepPossible(rank uint32) {
	kept := 0
	for _, at := range w.pass {
		w.pass[kept] = at
		if w.symbols[at].rank == rank {
			kept++
		}
	}
	w.pass = w.pass[:kept]
}

// nextMerge takes the left symbol of the next merge of a pass, or returns −1 where what it takes has changed since.
func (w *scratch) nextMerge(rank uint32) int32 {
	if len(w.early) > 0 && (w.done == len(w.pass) || w.early[0] < newCandidate(rank, w.pass[w.done])) {
		c := w.early.pop()
		w.work++
		if w.symbols[c.at()].rank != c.rank() {
			return -1
		}
		return c.at()
	}
	at := w.pass[w.done]
	w.done++
	if w.symbols[at].rank != rank {
		return -1
	}
	return at
}

// join merges a symbol with its right neighbour, in the pass of a rank.
func (m *bpe) join(w *scratch, at int32, rank uint32) {
	left := &w.symbols[at]
	right := &w.symbols[left.next]
	left.id = m.merges.get(left.id, right.id).id
	left.next, left.rank = right.next, noRank
	right.id, right.rank = noToken, noRank
	if left.next >= 0 {
		w.symbols[left.next].prev = at
	}
	if left.prev >= 0 {
		w.symbols[left.prev].rank = noRank
	}
	if m.soonest[left.id] > rank { // whatever its neighbours become in this pass, nothing goes before what is left of it
		w.changed = append(w.changed, at)
		return
	}
	m.update(w, at, rank)
	m.update(w, left.prev, rank)
}

// updateChanged looks up the merges of what was joined in a pass, with its neighbours as they are now. It goes backwards, as a list of the
// queue grows at its front.
func (m *bpe) updateChanged(w *scratch, rank uint32) {
	for i := len(w.changed) - 1; i >= 0; i-- {
		at := w.changed[i]
		m.update(w, at, rank)
		if prev := w.symbols[at].prev; i == 0 || prev != w.changed[i-1] { // which has its own turn
			m.update(w, prev, rank)
		}
	}
	w.changed = w.changed[:0]
}

// update looks up the merge of a symbol, if there is one, with its right neighbour, after one of the two has changed.
func (m *bpe) update(w *scratch, at int32, pass uint32) {
	if at < 0 || w.symbols[at].next < 0 {
		return
	}
	w.work++
	s := &w.symbols[at]
	s.rank = m.merges.get(s.id, w.symbols[s.next].id).rank
	switch {
	case s.rank == noRank:
	case s.rank <= pass:
		w.early.push(newCandidate(s.rank, at))
	default:
		w.queue.push(s.rank, at)
	}
}

// rankQueue holds the left symbols of possible merges by rank, in chunks of a cache line. A bit for each rank that has some, one for each
// word of those that is not 0, and so on, find the lowest in a few steps.
type rankQueue struct {
	heads  []int32     // [ranks] index in chunks of the last symbol of a rank; 0 for none
	levels [3][]uint64 // of bits; each level has one for each word of the level before
	chunks []int32     // of chunkLen: the index of the last symbol of the chunk before, then symbols
	free   int32       // the first chunk that is not in use, each with the next one's index in front; −1 for none
}

const chunkLen = 16

// reset empties the queue, of which pop has taken all ranks, and makes room for ranks 0 to ranks−1, and at first for about n symbols.
func (q *rankQueue) reset(ranks, n int) {
	q.chunks, q.free = slices.Grow(q.chunks[:0], n+n/8+chunkLen), -1
	if len(q.heads) >= ranks {
		return
	}
	q.heads = make([]int32, ranks)
	size := ranks
	for i := range q.levels {
		size = (size + 63) / 64
		q.levels[i] = make([]uint64, size)
	}
}

func (q *rankQueue) push(rank uint32, at int32) {
	head := q.heads[rank]
	if head == 0 {
		i := rank
		for level := range q.levels {
			q.levels[level][i/64] |= 1 << (i % 64)
			i /= 64
		}
	}
	if head%chunkLen == 0 || head%chunkLen == chunkLen-1 {
		chunk := q.chunk()
		q.chunks[chunk] = head
		head = chunk
	}
	head++
	q.chunks[head] = at
	q.heads[rank] = head
}

// chunk returns the index of a chunk that is free.
func (q *rankQueue) chunk() int32 {
	if at := q.free; at >= 0 {
		q.free = q.chunks[at]
		return at
	}
	at := len(q.chunks)
	q.chunks = slices.Grow(q.chunks, chunkLen)[:at+chunkLen]
	return int32(at)
}

// pop takes the symbols of the lowest rank, in order.
func (q *rankQueue) pop(into *[]int32) (rank uint32, ok bool) {
	top := q.levels[len(q.levels)-1]
	word := slices.IndexFunc(top, func(w uint64) bool { return w != 0 })
	if word < 0 {
		return 0, false
	}
	rank = uint32(word)
	for level := len(q.levels) - 1; level >= 0; level-- {
		rank = rank*64 + uint32(bits.TrailingZeros64(q.levels[level][rank]))
	}
	list := (*into)[:0]
	sorted := true
	for i := q.heads[rank]; i > 0; {
		for ; i%chunkLen > 0; i-- {
			sorted = sorted && (len(list) == 0 || list[len(list)-1] <= q.chunks[i])
			list = append(list, q.chunks[i])
		}
		next := q.chunks[i]
		q.chunks[i], q.free = q.free, i
		i = next
	}
	if !sorted {
		slices.Sort(list)
	}
	*into = list
	q.clear(rank)
	return rank, true
}

func (q *rankQueue) clear(rank uint32) {
	q.heads[rank] = 0
	i := rank
	for level := range q.levels {
		word := &q.levels[level][i/64]
		if *word &^= 1 << (i % 64); *word != 0 {
			return
		}
		i /= 64
	}
}
