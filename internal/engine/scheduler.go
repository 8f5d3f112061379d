package engine

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// scheduler decides what each step computes. It is pure: sequences and free blocks in, a batch out; no clock, goroutine or device.
//
// What runs is in the order of its ranks: of priorities and, where these are equal, of starts. Blocks go to the first of them; when they run
// out the last one gives its own up, waits at the head of the queue and is computed again later. The first always moves, and as time counts
// against any priority, nothing can come before it for ever: all end.
//
// A step may be planned while the one before is under way. Each row of that is taken to give its sequence a token and not to end it, unless
// it is the last that may be; a row that was planned for a sequence which then ended is computed and dropped. The blocks of a sequence that
// left are free once no step under way names them, and no sequence is preempted while a step is.
//
// Continuations of one prompt (group.go) start once the first of them has computed it, and share its blocks.
type scheduler struct {
	blocks      *blockPool
	maxSeqs     int // sequences that may run
	maxTokens   int // of a step
	maxRows     int // rows of logits of a step for prompts and guesses
	maxDrafting int // sequences that run while there are guesses

	now         time.Duration // set by whoever plans, before Add and Next; it never goes back
	waiting     queue
	running     []*sequence
	tables      [][]int32 // empty block tables for sequences to come, each with the capacity of a context
	orders      uint64    // given so far
	preemptions uint64
	hits        struct{ asked, tokens uint64 } // of prompts that could use the prefix cache: all, and those that it had
	budget      rowBudget
	prompts     pace

	batches             [maxUnderWay]batch // used in turn
	launched, committed uint64             // batches
	retired             int                // sequences that have left, whose blocks a batch under way names
	late                int                // sequences whose masks are being made; the engine's
}

// maxUnderWay is how many batches may be launched and not committed.
const maxUnderWay = 2

// batch is what one step computes: rows of decoding sequences first, then chunks of prompts, each in order of arrival.
type batch struct {
	items     []batchItem
	questions []question // of the few items that have one; within its capacity, as items point into it
	nothing   question   // that of all others
	tokens    int        // n
	rows      int        // r: sequences that get a token from this step

	promptRows int // rows of logits behind those, for prompts
	queries    int // rows whose log-probabilities are told, each beside `top` likeliest and `ids` other tokens
	top, ids   int
	vectors    int // sums of hidden states

	decodes   int  // items of one token of sequences that already generate
	drafting  int  // tokens of sequences that do, with guesses behind their last one
	penalized bool // the device has to know the tokens of one of them

	atLeast time.Duration // that it will take, where it has tokens of prompts; 0: nobody knows
}

// batchItem is the part of one sequence: less than a cache line, as a step writes and reads hundreds of them.
type batchItem struct {
	seq      *sequence
	asks     *question
	start    int   // position of the first token
	count    int   // tokens
	row      int   // of the logits, the first where there are guesses; −1: the prompt goes on in a later step
	at       int   // row of the sampled id on the device; the runner's
	decode   bool  // one token of a sequence that already generates
	dropped  bool  // set by Commit: the sequence had left before the step ended
	drafts   uint8 // guesses among the tokens, with a row of logits each
	accepted uint8 // tokens that the sequence got; set by Commit
	token    int32 // sampled from the first row; set by Commit, −1 where the logits were not finite
}

// newScheduler makes a scheduler for up to maxBatch sequences of up to `context` tokens, with maxRows rows of logits for prompts.
func newScheduler(blocks *blockPool, maxBatch, maxTokens, maxRows, context int) *scheduler {
	s := &scheduler{
		blocks: blocks, maxSeqs: maxBatch, maxRows: maxRows, running: make([]*sequence, 0, maxBatch), tables: make([][]int32, maxBatch),
		waiting: newQueue(),
	}
	for i := range s.batches {
		s.batches[i] = batch{items: make([]batchItem, 0, maxBatch), questions: make([]question, 0, maxBatch), nothing: noQuestion()}
	}
	width := blocks.blocksFor(context)
	all := make([]int32, maxBatch*width)
	for i := range s.tables {
		s.tables[i] = all[i*width : i*width : (i+1)*width]
	}
	s.setMaxTokens(maxTokens)
	s.prompts = pace{least: s.promptTokens(), limit: math.MaxInt}
	return s
}

// setMaxTokens sets the token budget of a step. So many sequences may run that beside all of them there are promptTokens left.
func (s *scheduler) setMaxTokens(n int) {
	s.maxTokens = n
	s.maxSeqs = max(1, min(cap(s.running), n-s.promptTokens()))
}

// promptTokens is the least that prompts get of a step's tokens.
func (s *scheduler) promptTokens() int { return min(PromptTokens, s.blocks.blockSize) }

// Add puts a new sequence at the end of the queue.
func (s *scheduler) Add(seq *sequence) {
	s.place(seq)
	seq.state = waiting
	s.waiting.add(seq)
}

// place puts seq behind all others of its rank.
func (s *scheduler) place(seq *sequence) {
	s.orders++
	seq.order, seq.rank = s.orders, rank(s.now, seq.request.Priority)
}

// Remove takes out a sequence that has not ended. Its blocks are free once no step under way names them.
func (s *scheduler) Remove(seq *sequence) {
	switch seq.state {
	case waiting:
		s.waiting.remove(seq)
	case running:
		s.retire(seq)
		s.dropEnded(seq)
	case ended:
		panic(fmt.Sprintf("engine: sequence %s removed after its end", seq.request.ID))
	}
	seq.state = ended
	s.waiting.leave(seq)
}

// Next plans the next step and counts it as launched. It returns nil if there is nothing to compute, or nothing before the step under way
// is committed. A batch is valid until its Commit; they are committed in the order in which they were launched.
func (s *scheduler) Next() *batch {
	if s.underWay() == maxUnderWay {
		panic("engine: more steps planned than may be under way")
	}
	s.hold()
	if s.underWay() > 0 && !s.fits() {
		return nil
	}
	s.budget = rowBudget{s.maxRows, promptRows}
	left, settled := s.growRunning()
	if settled {
		s.admit(s.draft(left))
	}
	b := &s.batches[s.launched%maxUnderWay]
	*b = batch{items: b.items[:0], questions: b.questions[:0], nothing: noQuestion()}
	s.fill(b)
	if len(b.items) > 0 {
		s.launched++
		if generating := b.decodes + b.drafting; generating < b.tokens {
			b.atLeast = s.prompts.atLeast(generating, b.tokens-generating)
		}
		return b
	}
	if s.live() > 0 && s.underWay() == 0 && s.late == 0 {
		panic(fmt.Sprintf("engine: empty batch with %d running, %d waiting, %d of %d blocks free",
			len(s.running), s.waiting.len, s.blocks.numFree(), s.blocks.total()))
	}
	return nil
}

// hold keeps the sequences that need the host between their tokens out of a step while one of them is in a step under way: the others run
// ahead, and those stay together.
func (s *scheduler) hold() {
	any, ahead := false, false
	for _, seq := range s.running {
		if seq.drafter != nil {
			s.bind(seq)
		}
		any = any || seq.hostBound
		ahead = ahead || seq.hostBound && seq.pending > 0
	}
	if !any {
		return
	}
	for _, seq := range s.running {
		seq.held = ahead && seq.hostBound && seq.expected() > 0 || seq.late()
	}
}

// underWay is how many batches are launched and not committed.
func (s *scheduler) underWay() int { return int(s.launched - s.committed) }

// oldest is the batch that has to be committed next.
func (s *scheduler) oldest() *batch { return &s.batches[s.committed%maxUnderWay] }

// fits says whether what runs can go on without a preemption.
func (s *scheduler) fits() bool {
	need, decodes := 0, 0
	for _, seq := range s.running {
		if seq.decoding() {
			need += s.missing(seq, 1)
			decodes++
		}
	}
	if decodes == len(s.running) {
		return need <= s.blocks.numFree()
	}
	left := s.left()
	for _, seq := range s.running {
		if seq.decoding() {
			continue
		}
		want := min(seq.remaining(), left)
		need += s.missing(seq, want)
		left -= want
	}
	return need <= s.blocks.numFree()
}

func (s *scheduler) live() int { return len(s.running) + s.waiting.len }

// growRunning gives the running sequences their tokens of this step and the blocks for them, oldest first. It returns how many tokens
// of the budget are left for new sequences, and whether all got what they needed.
func (s *scheduler) growRunning() (left int, settled bool) {
	left, settled = s.left(), true
	for i := 0; i < len(s.running); i++ {
		seq := s.running[i]
		want, decoding := 1, seq.decoding()
		if !decoding {
			want = min(seq.remaining(), left)
		}
		want = s.budget.most(seq, want)
		for s.missing(seq, want) > s.blocks.numFree() && i < len(s.running)-1 {
			if s.running[len(s.running)-1].decoding() {
				left++
			}
			s.preemptLast()
			settled = false
		}
		// The newest has nobody to take blocks from: it computes what fits into the free ones, if need be nothing.
		if room := (len(seq.table)+s.blocks.numFree())*s.blocks.blockSize - seq.computed; want > room {
			want, settled = room, false
		}
		s.grow(seq, want)
		if !decoding {
			left -= want
		}
	}
	return left, settled
}

// left is what there is for prompts in the step being planned. Decode rows come before chunks, whatever their rank.
func (s *scheduler) left() int {
	decodes := 0
	for _, seq := range s.running {
		if seq.decoding() {
			decodes++
		}
	}
	if decodes == 0 {
		return s.maxTokens
	}
	return min(s.maxTokens-decodes, s.prompts.limit)
}

// missing is how many more blocks seq needs to compute that many tokens.
func (s *scheduler) missing(seq *sequence, tokens int) int {
	if seq.computed+tokens <= len(seq.table)*s.blocks.blockSize {
		return 0 // as in most steps, and without a division
	}
	return s.blocks.blocksFor(seq.computed+tokens) - len(seq.table)
}

// grow schedules the next tokens of seq; there are free blocks for them.
func (s *scheduler) grow(seq *sequence, tokens int) {
	s.budget.take(seq, tokens)
	for range s.missing(seq, tokens) {
		seq.table = append(seq.table, s.blocks.take())
	}
	seq.scheduled = tokens
}

// preemptLast sends the last running sequence back to the head of the queue. What it has generated is computed again together with its
// prompt.
func (s *scheduler) preemptLast() {
	seq := s.running[len(s.running)-1]
	s.running = s.running[:len(s.running)-1]
	s.release(seq)
	seq.computed, seq.state, seq.held = 0, waiting, false
	seq.preemptions++
	s.preemptions++
	s.waiting.charge(seq)
	s.waiting.suspend(seq)
}

func (s *scheduler) release(seq *sequence) {
	s.keepAll(seq)
	seq.proved, seq.prefix.kept = false, 0
	s.blocks.release(seq.table)
	s.tables = append(s.tables, seq.table[:0])
	seq.table, seq.place, seq.placed = nil, nowhere, 0
}

// retire frees the blocks of a sequence that leaves, now or with the last step that names them.
func (s *scheduler) retire(seq *sequence) {
	if seq.underWay > 0 {
		s.retired++
		return
	}
	s.release(seq)
}

// admit starts waiting sequences, oldest first, as far as tokens, places and blocks go. A sequence starts only if there are blocks for
// all its tokens and the first new one, and one more for every sequence that runs to grow into: what was just preempted does not come
// back before another one has ended.
func (s *scheduler) admit(left int) {
	if s.waiting.len == 0 || len(s.running) >= s.maxSeqs {
		return
	}
	for _, seq := range s.running {
		s.waiting.charge(seq)
	}
	spare := s.blocks.numFree() - len(s.running)
	for _, seq := range s.running {
		if !seq.decoding() {
			spare -= s.missing(seq, seq.remaining()+1) // promised when it started
		}
	}
	for left > 0 && len(s.running) < s.maxSeqs && len(s.tables) > 0 {
		seq := s.waiting.next(s.now)
		if seq == nil || seq.late() {
			return
		}
		from, wait := s.donor(seq)
		if wait {
			return
		}
		need := s.blocks.blocksFor(len(seq.tokens) + 1)
		found, used := 0, 0
		if from != nil {
			used = s.shared(seq)
		} else {
			found, used = s.lookup(seq)
		}
		need -= used
		if need > spare && (len(s.running) > 0 || s.retired > 0) {
			return
		}
		spare -= need + 1
		s.start(seq)
		if from != nil {
			s.share(seq, from)
		} else {
			s.reuse(seq, found)
		}
		if seq.preemptions == 0 {
			s.waiting.starts(seq, len(seq.tokens)-seq.computed)
		}
		s.grow(seq, s.budget.most(seq, min(seq.remaining(), left)))
		left -= seq.scheduled
	}
}

func (s *scheduler) start(seq *sequence) {
	s.waiting.remove(seq)
	if seq.preemptions == 0 {
		s.place(seq)
	}
	seq.state = running
	seq.table = s.tables[len(s.tables)-1]
	s.tables = s.tables[:len(s.tables)-1]
	at := len(s.running)
	for at > 0 && seq.before(s.running[at-1]) {
		at--
	}
	s.running = slices.Insert(s.running, at, seq) // within its capacity
}

// fill writes down what was scheduled.
func (s *scheduler) fill(b *batch) {
	others := 0
	for _, seq := range s.running {
		switch {
		case seq.scheduled == 0:
		case seq.drafts == 0 && seq.decoding():
			b.add(seq, true)
		default:
			others++
		}
	}
	b.decodes = len(b.items)
	if others == 0 {
		return
	}
	for _, seq := range s.running {
		if seq.scheduled > 0 {
			b.add(seq, false)
		}
	}
}

// rows is how many rows of logits tokens are sampled from.
func (item *batchItem) rows() int {
	if item.row < 0 {
		return 0
	}
	return 1 + int(item.drafts)
}

// position is that of the first token sampled.
func (item *batchItem) position() int { return item.start + item.count - int(item.drafts) }

func (b *batch) add(seq *sequence, decode bool) {
	item := batchItem{seq: seq, start: seq.computed, count: seq.scheduled, row: -1, decode: decode}
	if decode || seq.scheduled-seq.drafts == seq.remaining() && seq.asked.goal == 0 {
		item.row = b.rows
		b.rows += 1 + seq.drafts
		seq.pending++
	}
	if seq.drafts > 0 {
		item.drafts = uint8(seq.drafts)
		b.drafting += item.count
		seq.drafts = 0
	}
	b.penalized = b.penalized || seq.penalized
	item.asks = b.ask(&item)
	b.items = append(b.items, item)
	b.tokens += seq.scheduled
	seq.computed += seq.scheduled
	seq.scheduled = 0
	seq.underWay++
}

// Commit takes the result of the oldest step under way: ids[i] is the token sampled from row i, −1 where the logits were not finite.
// A row behind a guess counts only where that, and all before it, were right.
// Sequences that end with it have left the scheduler, and `finish` or `err` says why.
func (s *scheduler) Commit(b *batch, ids []int32) {
	if s.underWay() == 0 || b != s.oldest() {
		panic("engine: commit of a batch that is not the oldest under way")
	}
	if len(ids) != b.rows {
		panic(fmt.Sprintf("engine: %d ids for a batch of %d logit rows", len(ids), b.rows))
	}
	s.committed++
	anyEnded := false
	for i := range b.items {
		item := &b.items[i]
		seq := item.seq
		seq.underWay--
		if seq.state == ended {
			item.dropped = true
			if seq.underWay == 0 {
				s.retired--
				s.release(seq)
			}
			continue
		}
		if item.row >= 0 {
			seq.pending--
			item.token = ids[item.row]
		}
		switch {
		case item.asks.broken || item.row >= 0 && item.token < 0:
			seq.err = ErrNotFinite
		case item.row >= 0:
			if !seq.proved {
				s.prove(seq, item)
			}
			seq.take(item, ids)
			if item.drafts > 0 {
				s.takeDraft(seq, item)
			}
		case item.asks.last:
			if item.asks.answered() {
				s.prove(seq, item)
			}
			seq.finish = PromptDone
		}
		if seq.err != nil || seq.finish != 0 {
			seq.state = ended
			s.retire(seq)
			s.waiting.leave(seq)
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

// checkIntegrity says which invariant is broken, if any. Not within Next or Commit.
func (s *scheduler) checkIntegrity() error {
	flights := make(map[*sequence]*flight)
	for k := s.committed; k < s.launched; k++ {
		for i := range s.batches[k%maxUnderWay].items {
			item := &s.batches[k%maxUnderWay].items[i]
			f := flights[item.seq]
			if f == nil {
				f = &flight{}
				flights[item.seq] = f
			}
			f.steps++
			if item.row >= 0 {
				f.tokens++
			}
		}
	}
	var last *sequence
	tables := make([][]int32, 0, len(s.running))
	for _, seq := range s.running {
		if seq.state != running || last != nil && !last.before(seq) {
			return fmt.Errorf("sequence %d of rank %v runs in state %d, behind one that does not go before it", seq.order, seq.rank, seq.state)
		}
		if got, want := len(seq.table), s.blocks.blocksFor(seq.computed); got != want {
			return fmt.Errorf("sequence %d has %d blocks for %d tokens, want %d", seq.order, got, seq.computed, want)
		}
		f := flights[seq]
		if f == nil {
			f = &flight{}
		}
		if seq.underWay != f.steps || seq.pending != f.tokens {
			return fmt.Errorf("sequence %d counts %d steps under way for %d tokens, there are %d for %d",
				seq.order, seq.underWay, seq.pending, f.steps, f.tokens)
		}
		last = seq
		tables = append(tables, seq.table)
	}
	retired := 0
	for seq, f := range flights {
		if seq.state == running {
			continue
		}
		if seq.state != ended || seq.underWay != f.steps {
			return fmt.Errorf("sequence %d in state %d counts %d steps under way, there are %d", seq.order, seq.state, seq.underWay, f.steps)
		}
		retired++
		tables = append(tables, seq.table)
	}
	if retired != s.retired {
		return fmt.Errorf("%d sequences left in a step under way, the count says %d", retired, s.retired)
	}
	if err := s.waiting.checkIntegrity(last, s.running); err != nil {
		return err
	}
	if got := len(s.tables) + len(s.running) + retired; got != cap(s.running) {
		return fmt.Errorf("%d block tables spare or in use, want %d", got, cap(s.running))
	}
	return s.blocks.checkIntegrity(tables)
}

// flight is what batches under way hold of a sequence.
type flight struct{ steps, tokens int }
