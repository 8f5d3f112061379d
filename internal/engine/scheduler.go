package engine

import "fmt"

// scheduler decides what each step computes. It is pure: sequences and free blocks in, a batch out; no clock, goroutine or device.
//
// What runs is older than what waits, and both are in order of arrival. Blocks go to the oldest first; when they run out the newest
// gives its own up, waits at the head of the queue and is computed again later, so that the oldest always moves and all end.
type scheduler struct {
	blocks    *blockPool
	maxSeqs   int // sequences that may run
	maxTokens int // of a step

	waiting     sequenceList
	running     []*sequence
	tables      [][]int32 // empty block tables for sequences to come, each with the capacity of a context
	arrivals    uint64    // gives the order
	preemptions uint64
	suspended   int // of the waiting ones: those that were preempted
	batch       batch
}

// batch is what one step computes: rows of decoding sequences first, then chunks of prompts, each in order of arrival.
type batch struct {
	items  []batchItem
	tokens int // n
	rows   int // r: sequences that get a token from this step
}

// batchItem is the part of one sequence.
type batchItem struct {
	seq    *sequence
	start  int   // position of the first token
	count  int   // tokens
	row    int   // of the logits; −1: the prompt goes on in a later step
	decode bool  // one token of a sequence that already generates
	token  int32 // sampled; set by Commit, −1 where the logits were not finite
}

// newScheduler makes a scheduler for up to maxBatch sequences of up to `context` tokens.
func newScheduler(blocks *blockPool, maxBatch, maxTokens, context int) *scheduler {
	s := &scheduler{
		blocks: blocks, maxSeqs: maxBatch, running: make([]*sequence, 0, maxBatch), tables: make([][]int32, maxBatch),
		batch: batch{items: make([]batchItem, 0, maxBatch)},
	}
	width := blocks.blocksFor(context)
	all := make([]int32, maxBatch*width)
	for i := range s.tables {
		s.tables[i] = all[i*width : i*width : (i+1)*width]
	}
	s.setMaxTokens(maxTokens)
	return s
}

// setMaxTokens sets the token budget of a step. So many sequences may run that beside all of them there is a block's worth of tokens left
// for a prompt.
func (s *scheduler) setMaxTokens(n int) {
	s.maxTokens = n
	s.maxSeqs = max(1, min(cap(s.running), n-s.blocks.blockSize))
}

// Add puts a new sequence at the end of the queue.
func (s *scheduler) Add(seq *sequence) {
	s.arrivals++
	seq.order = s.arrivals
	seq.state = waiting
	s.waiting.pushBack(seq)
}

// Remove takes out a sequence that has not ended, and frees its blocks. Not between Next and Commit.
func (s *scheduler) Remove(seq *sequence) {
	switch seq.state {
	case waiting:
		s.unqueue(seq)
	case running:
		s.release(seq)
		s.dropEnded(seq)
	case ended:
		panic(fmt.Sprintf("engine: sequence %s removed after its end", seq.request.ID))
	}
	seq.state = ended
}

// Next returns the batch of the next step, valid until the next call. It is empty only if nothing runs or waits. Every batch must be
// committed before the next one.
func (s *scheduler) Next() *batch {
	s.batch.items, s.batch.tokens, s.batch.rows = s.batch.items[:0], 0, 0
	left, settled := s.growRunning()
	if settled {
		s.admit(left)
	}
	s.fill()
	if len(s.batch.items) == 0 && s.live() > 0 {
		panic(fmt.Sprintf("engine: empty batch with %d running, %d waiting, %d of %d blocks free",
			len(s.running), s.waiting.len, s.blocks.numFree(), s.blocks.total()))
	}
	return &s.batch
}

func (s *scheduler) live() int { return len(s.running) + s.waiting.len }

// growRunning gives the running sequences their tokens of this step and the blocks for them, oldest first. It returns how many tokens
// of the budget are left for new sequences, and whether all got what they needed.
func (s *scheduler) growRunning() (left int, settled bool) {
	left, settled = s.maxTokens, true
	for _, seq := range s.running {
		if seq.decoding() {
			left-- // decode rows come before chunks, whatever their age
		}
	}
	for i := 0; i < len(s.running); i++ {
		seq := s.running[i]
		want := min(seq.remaining(), left)
		if seq.decoding() {
			want = 1
		}
		for s.missing(seq, want) > s.blocks.numFree() && i < len(s.running)-1 {
			if s.running[len(s.running)-1].decoding() {
				left++
			}
			s.preemptNewest()
			settled = false
		}
		// The newest has nobody to take blocks from: it computes what fits into the free ones, if need be nothing.
		if room := (len(seq.table)+s.blocks.numFree())*s.blocks.blockSize - seq.computed; want > room {
			want, settled = room, false
		}
		s.grow(seq, want)
		if !seq.decoding() {
			left -= want
		}
	}
	return left, settled
}

// missing is how many more blocks seq needs to compute that many tokens.
func (s *scheduler) missing(seq *sequence, tokens int) int {
	return s.blocks.blocksFor(seq.computed+tokens) - len(seq.table)
}

// grow schedules the next tokens of seq; there are free blocks for them.
func (s *scheduler) grow(seq *sequence, tokens int) {
	for range s.missing(seq, tokens) {
		seq.table = append(seq.table, s.blocks.take())
	}
	seq.scheduled = tokens
}

// preemptNewest sends the newest running sequence back to the head of the queue, where it is the oldest. What it has generated is
// computed again together with its prompt.
func (s *scheduler) preemptNewest() {
	seq := s.running[len(s.running)-1]
	s.running = s.running[:len(s.running)-1]
	s.release(seq)
	seq.computed, seq.state = 0, waiting
	seq.preemptions++
	s.preemptions++
	s.suspended++
	s.waiting.pushFront(seq)
}

func (s *scheduler) release(seq *sequence) {
	s.blocks.release(seq.table)
	s.tables = append(s.tables, seq.table[:0])
	seq.table = nil
}

// admit starts waiting sequences, oldest first, as far as tokens, places and blocks go. A sequence starts only if there are blocks for
// all its tokens and the first new one, and one more for every sequence that runs to grow into: what was just preempted does not come
// back before another one has ended.
func (s *scheduler) admit(left int) {
	if s.waiting.front == nil {
		return
	}
	spare := s.blocks.numFree() - len(s.running)
	for _, seq := range s.running {
		if !seq.decoding() {
			spare -= s.missing(seq, seq.remaining()+1) // promised when it started
		}
	}
	for seq := s.waiting.front; seq != nil && left > 0 && len(s.running) < s.maxSeqs; seq = s.waiting.front {
		need := s.blocks.blocksFor(len(seq.tokens) + 1)
		if need > spare && len(s.running) > 0 {
			return
		}
		spare -= need + 1
		s.start(seq)
		s.grow(seq, min(seq.remaining(), left))
		left -= seq.scheduled
	}
}

func (s *scheduler) unqueue(seq *sequence) {
	s.waiting.remove(seq)
	if seq.preemptions > 0 {
		s.suspended--
	}
}

func (s *scheduler) start(seq *sequence) {
	s.unqueue(seq)
	seq.state = running
	seq.table = s.tables[len(s.tables)-1]
	s.tables = s.tables[:len(s.tables)-1]
	s.running = append(s.running, seq)
}

// fill writes down what was scheduled.
func (s *scheduler) fill() {
	for _, seq := range s.running {
		if seq.decoding() && seq.scheduled > 0 {
			s.batch.add(seq)
		}
	}
	for _, seq := range s.running {
		if !seq.decoding() && seq.scheduled > 0 {
			s.batch.add(seq)
		}
	}
}

func (b *batch) add(seq *sequence) {
	item := batchItem{seq: seq, start: seq.computed, count: seq.scheduled, row: -1, decode: seq.decoding()}
	if seq.scheduled == seq.remaining() {
		item.row = b.rows
		b.rows++
	}
	b.items = append(b.items, item)
	b.tokens += seq.scheduled
}

// Commit takes the result of a step: ids[i] is the token sampled from row i, −1 where the logits were not finite. Sequences that end
// with it have left the scheduler, their blocks are free, and `finish` or `err` says why.
func (s *scheduler) Commit(b *batch, ids []int32) {
	if len(ids) != b.rows {
		panic(fmt.Sprintf("engine: %d ids for a batch of %d logit rows", len(ids), b.rows))
	}
	anyEnded := false
	for i := range b.items {
		item := &b.items[i]
		seq := item.seq
		seq.computed += item.count
		seq.scheduled = 0
		if item.row < 0 {
			continue
		}
		item.token = ids[item.row]
		if item.token < 0 {
			seq.err = ErrNotFinite
		} else {
			seq.finish = seq.accept(item.token)
		}
		if seq.err != nil || seq.finish != 0 {
			seq.state = ended
			s.release(seq)
			anyEnded = true
		}
	}
	if anyEnded {
		s.dropEnded(nil)
	}
}

// dropEnded takes `also` and all that ended out of the running ones.
func (s *scheduler) dropEnded(also *sequence) {
	kept := s.running[:0]
	for _, seq := range s.running {
		if seq != also && seq.state != ended {
			kept = append(kept, seq)
		}
	}
	clear(s.running[len(kept):])
	s.running = kept
}

// checkIntegrity says which invariant is broken, if any. Between steps.
func (s *scheduler) checkIntegrity() error {
	var last uint64
	tables := make([][]int32, 0, len(s.running))
	for _, seq := range s.running {
		if seq.state != running || seq.order <= last {
			return fmt.Errorf("sequence %d runs in state %d after %d", seq.order, seq.state, last)
		}
		if got, want := len(seq.table), s.blocks.blocksFor(seq.computed); got != want {
			return fmt.Errorf("sequence %d has %d blocks for %d tokens, want %d", seq.order, got, seq.computed, want)
		}
		last = seq.order
		tables = append(tables, seq.table)
	}
	n, suspended := 0, 0
	for seq := s.waiting.front; seq != nil; seq = seq.next {
		if seq.state != waiting || seq.order <= last || len(seq.table) > 0 || seq.computed > 0 {
			return fmt.Errorf("sequence %d waits in state %d after %d, with %d blocks and %d tokens computed",
				seq.order, seq.state, last, len(seq.table), seq.computed)
		}
		last = seq.order
		n++
		if seq.preemptions > 0 {
			suspended++
		}
	}
	if n != s.waiting.len || suspended != s.suspended {
		return fmt.Errorf("%d sequences wait, %d of them preempted, the counts say %d and %d", n, suspended, s.waiting.len, s.suspended)
	}
	if got := len(s.tables) + len(s.running); got != cap(s.running) {
		return fmt.Errorf("%d block tables spare or in use, want %d", got, cap(s.running))
	}
	return s.blocks.checkIntegrity(tables)
}

// sequenceList is a list through the sequences themselves, so that one can leave from the middle and nothing is allocated.
type sequenceList struct {
	front, back *sequence
	len         int
}

func (l *sequenceList) pushBack(seq *sequence) {
	seq.prev, seq.next = l.back, nil
	if l.back == nil {
		l.front = seq
	} else {
		l.back.next = seq
	}
	l.back = seq
	l.len++
}

func (l *sequenceList) pushFront(seq *sequence) {
	seq.prev, seq.next = nil, l.front
	if l.front == nil {
		l.back = seq
	} else {
		l.front.prev = seq
	}
	l.front = seq
	l.len++
}

func (l *sequenceList) remove(seq *sequence) {
	if seq.prev == nil {
		l.front = seq.next
	} else {
		seq.prev.next = seq.next
	}
	if seq.next == nil {
		l.back = seq.prev
	} else {
		seq.next.prev = seq.prev
	}
	seq.prev, seq.next = nil, nil
	l.len--
}
