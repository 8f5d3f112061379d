package engine

import (
	"sync"
	"time"
)

// Masks of a Former may take milliseconds where its form is at a new place. They are made beside the loop, for all sequences of a step at once: the loop
// waits for them for a moment, in which nearly all are there, and goes on without the others. Such a sequence is late: it sits out steps until its
// mask is there, so that nobody else waits for it.

// maskGrace is for how long the loop waits for the masks of a step.
const maskGrace = 500 * time.Microsecond

// crew makes masks. All but its goroutines belongs to the loop.
type crew struct {
	working sync.WaitGroup
	timer   *time.Timer // of the wait; nil until there is one
	handed  []*sequence // of the step at hand; reused
	late    []*sequence // in any state
}

// hand gives a masker that is a Former its next token, on a goroutine of its own.
func (g *guarded) hand(id int32, crew *crew, done func()) {
	if g.ready == nil {
		g.ready = make(chan struct{}, 1)
	}
	g.late, g.taken = true, true
	crew.working.Go(func() {
		g.take(id)
		g.Mask()
		g.ready <- struct{}{} // its slot is free
		done()
	})
}

// arrived says whether the mask of a late one is there.
func (g *guarded) arrived() bool {
	select {
	case <-g.ready:
		g.late = false
		return true
	default:
		return false
	}
}

// advanceMasks has the masks made that follow what a step sampled, and returns when they are there, or have had their time.
func (e *Engine) advanceMasks(b *batch, ids []int32) {
	c := &e.crew
	c.handed = c.handed[:0]
	for i := range b.items {
		item := &b.items[i]
		seq := item.seq
		if seq.masker == nil || seq.masker.former == nil || seq.state == ended || item.row < 0 || ids[item.row] < 0 {
			continue
		}
		seq.masker.hand(ids[item.row], c, e.notify)
		c.handed = append(c.handed, seq)
	}
	if len(c.handed) == 0 {
		return
	}
	if c.timer == nil {
		c.timer = time.NewTimer(maskGrace)
	} else {
		c.timer.Reset(maskGrace)
	}
	defer c.timer.Stop()
	for n, seq := range c.handed {
		select {
		case <-seq.masker.ready:
			seq.masker.late = false
			continue
		case <-c.timer.C:
		}
		for _, seq := range c.handed[n:] {
			if !seq.masker.arrived() {
				c.late = append(c.late, seq)
			}
		}
		break
	}
	clear(c.handed)
	e.scheduler.late = len(c.late)
}

// settleMasks lets sequences go on whose masks have come, and ends those that these leave no token.
func (e *Engine) settleMasks() {
	c := &e.crew
	if len(c.late) == 0 {
		return
	}
	now := time.Now()
	waiting := c.late[:0]
	for _, seq := range c.late {
		switch {
		case seq.state == ended: // its mask is nobody's
		case !seq.masker.arrived():
			waiting = append(waiting, seq)
		default:
			e.settle(seq, now)
		}
	}
	clear(c.late[len(waiting):])
	c.late = waiting
	e.scheduler.late = len(waiting)
	e.endStreams(now)
}

// settle does what accept would have done with the mask.
func (e *Engine) settle(seq *sequence, now time.Time) {
	if seq.masker.fault != nil {
		e.dropFaulty(seq, now)
		return
	}
	if !seq.masked() || !seq.deadEnd() {
		return
	}
	if err := seq.masker.incomplete(); err != nil {
		e.cancel(seq, err, now)
		return
	}
	e.end(seq, MaskDone, now)
}

// awaitMasks sleeps until there is news, as all that runs is late.
func (e *Engine) awaitMasks() {
	e.counters.beat(time.Since(e.born), 0)
	<-e.wake
	e.turn.hostFrom = time.Now()
}
