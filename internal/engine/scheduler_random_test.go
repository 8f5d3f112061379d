package engine

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// stepsVariable names how many steps TestRandomSteps takes in all.
const stepsVariable = "INFERNO_SCHEDULER_STEPS"

// TestRandomSteps has random requests come, leave, and be computed by schedulers of random sizes, and looks after each step whether all blocks
// are accounted for, and whether each sequence finds in its blocks just the tokens that belong there.
func TestRandomSteps(t *testing.T) {
	left := 30_000
	if v := os.Getenv(stepsVariable); v != "" {
		var err error
		if left, err = strconv.Atoi(v); err != nil {
			t.Fatalf("%s: %v", stepsVariable, err)
		}
	}
	var total happenings
	for seed := uint64(1); left > 0; seed++ {
		r := newRandomWorld(seed)
		n := min(left, 2000)
		left -= n
		for i := range n {
			if err := r.step(); err != nil {
				t.Fatalf("world %d, step %d: %v\n%s", seed, i, err, r.state())
			}
		}
		if err := r.finish(); err != nil {
			t.Fatalf("world %d, at its end: %v\n%s", seed, err, r.state())
		}
		total.add(r)
	}
	t.Logf("%+v", total)
	if total.hits == 0 || total.evictions == 0 || total.preemptions == 0 || total.cancelled == 0 || total.broken == 0 || total.overtook == 0 {
		t.Errorf("something never happened: %+v", total)
	}
}

// happenings is what happened in all worlds.
type happenings struct{ finished, cancelled, broken, hits, evictions, preemptions, overtook uint64 }

func (a *happenings) add(r *randomWorld) {
	a.finished += r.finished
	a.cancelled += r.cancelled
	a.broken += r.broken
	a.overtook += r.overtook
	a.hits += r.s.hits.tokens
	a.evictions += r.s.blocks.cache.evictions
	a.preemptions += r.s.preemptions
}

// randomWorld is a scheduler, and what a device would hold.
type randomWorld struct {
	*world
	random   *rand.Rand
	tokens   []int32           // [B·p] by slot; −1: unknown
	history  []bool            // whether the device knows them
	poison   []bool            // by slot: what is there is not finite
	ends     map[*sequence]int // where the last chunk of each ended
	live     map[string]*sequence
	told     map[*sequence]answers
	arrivals int
	crowd    int // sequences that live at a time, about
	work     int // steps that all live sequences need if each runs alone

	finished, cancelled, broken, overtook uint64
}

const alphabet = 3

func newRandomWorld(seed uint64) *randomWorld {
	random := rand.New(rand.NewPCG(seed, 0))
	between := func(low, high int) int { return low + random.IntN(high-low+1) }
	blocks := newBlockPool(between(2, 80), between(1, 5), between(0, 5) > 0)
	r := &randomWorld{
		world:  newWorldOn(blocks, between(1, 8), between(1, 24), between(1, 5), between(2, 40)),
		random: random, live: map[string]*sequence{}, ends: map[*sequence]int{}, told: map[*sequence]answers{}, crowd: between(1, 12),
	}
	r.s.prompts.target = time.Duration(between(0, 3)) * time.Millisecond
	r.tokens = make([]int32, blocks.total()*blocks.blockSize)
	r.history, r.poison = make([]bool, len(r.tokens)), make([]bool, len(r.tokens))
	return r
}

// step lets one thing happen, or a few.
func (r *randomWorld) step() error {
	r.s.now += time.Duration(r.random.IntN(int(2 * time.Second)))
	if len(r.live) < r.crowd && r.random.IntN(3) == 0 {
		r.arrive()
	}
	if r.random.IntN(40) == 0 && len(r.live) > 0 {
		names := slices.Sorted(maps.Keys(r.live))
		name := names[r.random.IntN(len(names))]
		r.s.Remove(r.live[name])
		delete(r.live, name)
		r.cancelled++
	}
	return r.compute()
}

// compute launches a step, commits one, or both.
func (r *randomWorld) compute() error {
	if r.s.underWay() < maxUnderWay && (r.s.underWay() == 0 || r.random.IntN(2) == 0) {
		first, before := oldestOf(r.s), 0
		if first != nil {
			before = first.computed
		}
		alone := r.s.underWay() == 0
		r.s.Next()
		if alone && first != nil && first.computed <= before && r.s.running[0] == first {
			return fmt.Errorf("%s stands still at %d of %d tokens", first.request.ID, before, len(first.tokens))
		}
		r.lookForOvertaking()
	}
	if err := r.s.checkIntegrity(); err != nil {
		return err
	}
	if r.s.underWay() == 0 || r.s.underWay() < maxUnderWay && r.random.IntN(3) == 0 {
		return nil
	}
	return r.commit()
}

func (r *randomWorld) lookForOvertaking() {
	for i := 1; i < len(r.s.running); i++ {
		if r.s.running[i].order < r.s.running[i-1].order {
			r.overtook++
			return
		}
	}
}

func (r *randomWorld) commit() error {
	b := r.s.oldest()
	if err := r.device(b); err != nil {
		return err
	}
	ids := make([]int32, b.rows)
	decodes := 0
	for i := range b.items {
		item := &b.items[i]
		if item.decode {
			decodes++
		}
		broken := r.poisoned(item.seq, item.start+item.count)
		item.asks.broken = broken && (item.asks.rows > 0 || item.asks.vector >= 0)
		r.told[item.seq] = r.told[item.seq].and(item)
		if item.row >= 0 {
			if ids[item.row] = r.random.Int32N(alphabet); broken {
				ids[item.row] = -1
			}
		}
	}
	r.s.Commit(b, ids)
	r.s.prompts.observe(decodes, b.tokens-decodes, time.Duration(r.random.IntN(int(5*time.Millisecond))))
	for name, seq := range r.live {
		if seq.state != ended {
			continue
		}
		if got, want := r.told[seq], answersFor(seq); seq.err == nil && got != want {
			return fmt.Errorf("%s was told %+v, want %+v", name, got, want)
		}
		delete(r.live, name)
		delete(r.ends, seq)
		delete(r.told, seq)
		if seq.err != nil {
			r.broken++
		} else {
			r.finished++
		}
	}
	return r.s.checkIntegrity()
}

// answers sum up what was told of a prompt: how many log-probabilities and hidden states, and of which positions.
type answers struct{ rows, rowSum, states, stateSum int }

func (a answers) and(item *batchItem) answers {
	q := item.asks
	for i := range q.rows {
		a.rows++
		a.rowSum += q.position + i + 1
	}
	if q.vector >= 0 {
		for i := q.from; i < q.to; i++ {
			a.states++
			a.stateSum += item.start + i
		}
	}
	return a
}

// answersFor is all that a sequence is to be told, each once.
func answersFor(seq *sequence) (a answers) {
	q := seq.request
	for i := range seq.prompt {
		if q.Logprobs.Prompt && i >= max(q.Logprobs.Start, 1) {
			a.rows++
			a.rowSum += i
		}
		if q.Pooling == MeanPooling || q.Pooling == LastTokenPooling && i == seq.prompt-1 {
			a.states++
			a.stateSum += i
		}
	}
	return a
}

func (r *randomWorld) slot(seq *sequence, position int) int {
	p := r.s.blocks.blockSize
	return int(seq.table[position/p])*p + position%p
}

// poisoned says whether something before a position of seq is not finite.
func (r *randomWorld) poisoned(seq *sequence, position int) bool {
	for at := range position {
		if r.poison[r.slot(seq, at)] {
			return true
		}
	}
	return false
}

// device does what a device would: it writes a step's tokens to their slots, rarely something that is not finite, and looks at all that its
// sequences find before them.
func (r *randomWorld) device(b *batch) error {
	for i := range b.items {
		item := &b.items[i]
		if seq := item.seq; seq.state != ended && r.ends[seq] != item.start && seq.group == nil && r.poisoned(seq, item.start) {
			return fmt.Errorf("%s finds what is not finite in the prefix cache, before %d", seq.request.ID, item.start)
		}
		r.ends[item.seq] = item.start + item.count
		poison := r.random.IntN(50) == 0
		for at := item.start; at < item.start+item.count; at++ {
			slot := r.slot(item.seq, at)
			r.tokens[slot], r.history[slot], r.poison[slot] = -1, b.penalized, poison
			if at < len(item.seq.tokens) {
				r.tokens[slot] = item.seq.tokens[at]
			}
		}
	}
	for i := range b.items {
		item := &b.items[i]
		for at := range min(item.start+item.count, len(item.seq.tokens)) {
			slot := r.slot(item.seq, at)
			if r.tokens[slot] != item.seq.tokens[at] || item.seq.penalized && !r.history[slot] {
				return fmt.Errorf("%s finds token %d (known to the device: %v) at %d, where %d belongs",
					item.seq.request.ID, r.tokens[slot], r.history[slot], at, item.seq.tokens[at])
			}
		}
	}
	return nil
}

func (r *randomWorld) arrive() {
	r.arrivals++
	random := r.random
	q := &Request{
		ID: fmt.Sprint(r.arrivals), Prompt: make([]int32, 1+random.IntN(r.context-1)), Tenant: fmt.Sprint(random.IntN(2)),
		Priority: random.IntN(5) - 2, Cache: Cache{Bypass: random.IntN(10) == 0},
	}
	for i := random.IntN(len(q.Prompt) + 1); i < len(q.Prompt); i++ { // zeros up to there, so that many start alike
		q.Prompt[i] = random.Int32N(alphabet)
	}
	q.Stop.MaxTokens = 1 + random.IntN(r.context-len(q.Prompt))
	if random.IntN(3) == 0 {
		q.Logprobs = Logprobs{Prompt: true, Start: random.IntN(len(q.Prompt))}
	}
	switch random.IntN(6) {
	case 0:
		q.PromptOnly, q.Pooling = true, Pooling(random.IntN(3))
	case 1:
		q.Sampling.PresencePenalty = 1
	case 2:
		q.Cache.Salt = "s"
	}
	if n := 1 + random.IntN(3); n > 1 && !q.PromptOnly {
		for _, seq := range r.addGroup(q, n) {
			r.lives(seq)
		}
		return
	}
	seq := r.addRequest(q)
	seq.hostBound = !q.PromptOnly && random.IntN(5) == 0
	r.lives(seq)
}

func (r *randomWorld) lives(seq *sequence) {
	r.live[seq.request.ID] = seq
	r.work += 3 * (seq.prompt + seq.maxNew)
}

// finish lets all that lives end.
func (r *randomWorld) finish() error {
	for work := r.work; len(r.live) > 0 || r.s.underWay() > 0; work-- {
		if work < 0 {
			return fmt.Errorf("%d sequences never end", len(r.live))
		}
		if err := r.compute(); err != nil {
			return err
		}
	}
	if free, all := r.s.blocks.numFree(), r.s.blocks.total(); free != all || len(r.s.waiting.backlog) > 0 {
		return fmt.Errorf("%d of %d blocks are free, %d tenants wait", free, all, len(r.s.waiting.backlog))
	}
	return nil
}
