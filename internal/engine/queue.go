package engine

import (
	"container/heap"
	"fmt"
	"math"
	"time"
)

// queue is who waits, and says who starts next.
//
// What was preempted goes first, unless what waits for its first start has a priority that is higher by more than the time between them
// counts. All others by tenant: the one that was served least (Sheng et al., Fairness in Serving Large Language Models, 2024: a virtual
// token counter). A tenant that had nothing waiting starts at what the last one picked had, so that nobody saves up for later by asking for
// nothing. Within a tenant each level of priority counts as PriorityStep of waiting: a high one goes first, and no low one starves.
type queue struct {
	len       int
	suspended sequenceList // preempted, by rank: each is behind all that run
	tenants   map[string]*tenant
	backlog   []*tenant // those with something in waiting
	floor     uint64    // what the tenant that was picked last had been served
	most      int       // tenants, before those with nothing to do are looked through
}

// tenant is who is served, in the order of its requests' ranks.
type tenant struct {
	name    string
	served  uint64       // tokens, weighted
	live    int          // sequences that wait or run
	waiting sequenceHeap // for the first start
	place   int          // in the backlog
}

// What tokens count: those of a prompt that are computed, and those generated, which take a step each.
const (
	promptWeight = 1
	outputWeight = 2
)

// PriorityStep is how much waiting a level of priority counts as.
const PriorityStep = 10 * time.Second

// MaxPriority bounds priorities, on both sides of 0.
const MaxPriority = 100

// manyTenants is how many may be remembered, at least: those with nothing to do for what they were served beyond the others.
const manyTenants = 4096

func newQueue() queue { return queue{tenants: map[string]*tenant{}, most: manyTenants} }

// rank is where a sequence of that priority stands which came, or starts, at a time: before those of larger ranks.
func rank(now time.Duration, priority int) time.Duration {
	return now - time.Duration(priority)*PriorityStep
}

// before says which of two sequences that both wait, or both run, goes first.
func (s *sequence) before(other *sequence) bool {
	return s.rank < other.rank || s.rank == other.rank && s.order < other.order
}

// add lets a new sequence wait.
func (q *queue) add(seq *sequence) {
	t := q.tenantOf(seq.request.Tenant)
	seq.tenant = t
	t.live++
	if len(t.waiting) == 0 {
		t.served = max(t.served, q.floor)
		t.place = len(q.backlog)
		q.backlog = append(q.backlog, t)
	}
	heap.Push(&t.waiting, seq)
	q.len++
}

// suspend lets one wait again that was preempted.
func (q *queue) suspend(seq *sequence) {
	q.suspended.pushFront(seq)
	q.len++
}

// next is the sequence to start next, should it start now; nil: none waits.
func (q *queue) next(now time.Duration) *sequence {
	var first *tenant
	for _, t := range q.backlog {
		if first == nil || t.served < first.served || t.served == first.served && t.waiting[0].before(first.waiting[0]) {
			first = t
		}
	}
	back := q.suspended.front
	switch {
	case first == nil:
		return back
	case back == nil || rank(now, first.waiting[0].request.Priority) < back.rank:
		return first.waiting[0]
	}
	return back
}

// remove takes a sequence out that waits.
func (q *queue) remove(seq *sequence) {
	q.len--
	if seq.preemptions > 0 {
		q.suspended.remove(seq)
		return
	}
	t := seq.tenant
	heap.Remove(&t.waiting, seq.spot)
	if len(t.waiting) == 0 {
		last := len(q.backlog) - 1
		q.backlog[t.place] = q.backlog[last]
		q.backlog[t.place].place = t.place
		q.backlog[last] = nil
		q.backlog = q.backlog[:last]
	}
}

// starts charges the tenant of a sequence which starts for the first time with what is to be computed of its prompt.
func (q *queue) starts(seq *sequence, tokens int) {
	q.floor = max(q.floor, seq.tenant.served)
	seq.tenant.served += promptWeight * uint64(tokens)
}

// charge lets the tenant of a sequence pay for what it has generated since it was charged last: not in each step, but before anyone is picked.
func (q *queue) charge(seq *sequence) {
	n := seq.generated()
	seq.tenant.served += outputWeight * uint64(n-seq.charged)
	seq.charged = n
}

// each visits all that wait, until visit returns false.
func (q *queue) each(visit func(*sequence) bool) {
	for seq := q.suspended.front; seq != nil; seq = seq.next {
		if !visit(seq) {
			return
		}
	}
	for _, t := range q.backlog {
		for _, seq := range t.waiting {
			if !visit(seq) {
				return
			}
		}
	}
}

// leave is told of the end of a sequence.
func (q *queue) leave(seq *sequence) {
	q.charge(seq)
	t := seq.tenant
	if t.live--; t.live == 0 && t.served <= q.floor {
		delete(q.tenants, t.name)
	}
}

func (q *queue) tenantOf(name string) *tenant {
	t := q.tenants[name]
	if t == nil {
		if len(q.tenants) >= q.most {
			q.forget()
		}
		t = &tenant{name: name}
		q.tenants[name] = t
	}
	return t
}

// forget drops tenants with nothing to do: those that would start anew where they are, and where these are few, all.
func (q *queue) forget() {
	for _, served := range []uint64{q.floor, math.MaxUint64} {
		for name, t := range q.tenants {
			if len(q.tenants) > q.most/2 && t.live == 0 && t.served <= served {
				delete(q.tenants, name)
			}
		}
	}
	q.most = max(manyTenants, 2*len(q.tenants))
}

// sequenceHeap has the sequence that goes before all others at its front. Each knows its place.
type sequenceHeap []*sequence

func (h sequenceHeap) Len() int           { return len(h) }
func (h sequenceHeap) Less(i, j int) bool { return h[i].before(h[j]) }
func (h sequenceHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].spot, h[j].spot = i, j
}

// Push is heap.Interface's.
func (h *sequenceHeap) Push(x any) {
	seq := x.(*sequence)
	seq.spot = len(*h)
	*h = append(*h, seq)
}

// Pop is heap.Interface's.
func (h *sequenceHeap) Pop() any {
	last := len(*h) - 1
	seq := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return seq
}

// checkIntegrity says what is wrong with the queue; `last` is the last of the running sequences.
func (q *queue) checkIntegrity(last *sequence, running []*sequence) error {
	live, n := map[*tenant]int{}, 0
	for _, seq := range running {
		live[seq.tenant]++
	}
	for seq := q.suspended.front; seq != nil; seq = seq.next {
		if seq.preemptions == 0 || last != nil && !last.before(seq) {
			return fmt.Errorf("sequence %d is suspended after %d preemptions", seq.order, seq.preemptions)
		}
		last = seq
	}
	for i, t := range q.backlog {
		if t.place != i || len(t.waiting) == 0 {
			return fmt.Errorf("tenant %q with %d waiting has place %d in the backlog, says %d", t.name, len(t.waiting), i, t.place)
		}
		for j, seq := range t.waiting {
			if seq.spot != j || seq.tenant != t || seq.preemptions > 0 || seq.before(t.waiting[(j-1)/2]) {
				return fmt.Errorf("sequence %d waits at %d, says %d of tenant %q, behind %d", seq.order, j, seq.spot, t.name, t.waiting[(j-1)/2].order)
			}
		}
	}
	var fault error
	q.each(func(seq *sequence) bool {
		n++
		live[seq.tenant]++
		if seq.state != waiting || len(seq.table) > 0 || seq.computed > 0 || seq.underWay > 0 {
			fault = fmt.Errorf("sequence %d waits in state %d with %d blocks, %d tokens computed, %d steps under way",
				seq.order, seq.state, len(seq.table), seq.computed, seq.underWay)
		}
		return fault == nil
	})
	if fault == nil && n != q.len {
		fault = fmt.Errorf("%d sequences wait, the count says %d", n, q.len)
	}
	for name, t := range q.tenants {
		if fault == nil && (t.name != name || t.live != live[t]) {
			fault = fmt.Errorf("tenant %q, of name %q, has %d live sequences, the count says %d", name, t.name, live[t], t.live)
		}
		delete(live, t)
	}
	if fault == nil && len(live) > 0 {
		fault = fmt.Errorf("%d tenants with live sequences are forgotten", len(live))
	}
	return fault
}

// sequenceList is a list through the sequences themselves, so that one can leave from the middle and nothing is allocated.
type sequenceList struct {
	front, back *sequence
	len         int
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
