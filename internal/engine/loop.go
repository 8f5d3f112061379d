package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/inferno-serve/inferno/internal/event"
)

// turn is what the loop keeps from one step to the next.
type turn struct {
	state      engineState // as of the last look into the mailbox
	arrivals   []*sequence // reused
	leavers    []leaver    // reused
	probes     []chan error
	probing    bool // a probe's own sequence is in the scheduler
	ended      []*sequence
	expired    []*sequence // reused
	info       StepInfo    // reused
	flights    [maxUnderWay]launched
	lastEnd    time.Time // of a step
	hostFrom   time.Time // the loop has been at work, or in waits that the runner counts, since then
	lastLaunch time.Time
	queueRate  queueRate
	tokenCost  float64 // nanoseconds, smoothed, of a token in a full step; 0: none seen yet
	warmed     byte    // what warm read, so that it does
}

// launched is a step under way.
type launched struct {
	began       time.Time
	preemptions int  // that made room for it
	starts      int  // of requests that had waited while the step before was planned
	crowded     bool // requests waited that it has no place for, or had
}

// probeRequest makes one token from one.
var probeRequest = &Request{ID: "probe", Prompt: []int32{0}, Stop: Stopping{MaxTokens: 1}}

// Run is the loop. It keeps its OS thread, blocks, and returns nil after Drain, Close or the end of ctx (which is a Close), or the
// error that ended it, which wraps ErrDeviceLost. Whatever the end, every stream has got its own.
func (e *Engine) Run(ctx context.Context) (err error) {
	m := &e.mailbox
	m.mu.Lock()
	if m.started {
		defer m.mu.Unlock()
		if m.state == stopped {
			return m.cause
		}
		return errors.New("engine: Run is already running")
	}
	m.started = true
	m.mu.Unlock()

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	sharpenPauses()
	e.turn.hostFrom = time.Now()
	e.waker.start()
	defer e.waker.stop()
	release := context.AfterFunc(ctx, func() { e.setState(closing) })
	defer release()
	defer func() {
		if r := recover(); r != nil {
			e.log.Error("engine loop panicked", "panic", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic in the engine loop: %v", r)
		}
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrDeviceLost, err)
			event.Publish(e.bus, Failed{err})
		}
		e.stop(err)
	}()
	for e.turnOnce(ctx) {
		if err := e.stepOnce(); err != nil {
			return err
		}
	}
	return nil
}

// turnOnce takes the mail in and waits while there is nothing to compute. It returns false when the loop is over.
func (e *Engine) turnOnce(ctx context.Context) bool {
	for {
		e.takeMail()
		e.settleMasks()
		e.dropExpired()
		if len(e.turn.probes) > 0 && e.scheduler.live() == 0 {
			e.addProbe()
		}
		e.publishGauges()
		switch {
		case ctx.Err() != nil || e.turn.state >= closing:
			return false
		case e.scheduler.live() > 0 || e.scheduler.underWay() > 0:
			return true
		case e.turn.state == draining:
			return false
		}
		e.counters.beat(time.Since(e.born), 0)
		<-e.wake
		e.turn.hostFrom = time.Now()
	}
}

// takeMail moves what others left into the scheduler: requests first, so that one that has left already is found there.
func (e *Engine) takeMail() {
	m, t := &e.mailbox, &e.turn
	if !m.changed.Swap(false) {
		return
	}
	m.mu.Lock()
	m.arrivals, t.arrivals = t.arrivals[:0], m.arrivals
	m.leavers, t.leavers = t.leavers[:0], m.leavers
	t.probes = append(t.probes, m.probes...)
	m.probes = m.probes[:0]
	t.state = m.state
	m.mu.Unlock()

	now := time.Now()
	e.scheduler.now = now.Sub(e.born)
	for _, seq := range t.arrivals {
		e.scheduler.Add(seq)
	}
	for _, l := range t.leavers {
		switch {
		case l.seq.state == ended:
		case l.reason != 0:
			e.end(l.seq, l.reason, now)
		default:
			l.seq.left = l.at
			e.cancel(l.seq, l.err, now)
		}
	}
	clear(t.arrivals)
	clear(t.leavers)
	e.endStreams(now)
}

// dropExpired ends the requests in the queue whose context has ended, should the news not have come through yet: the
// device does no work for them.
func (e *Engine) dropExpired() {
	s := e.scheduler
	if s.waiting.len == 0 || len(s.running) >= s.maxSeqs {
		return
	}
	now := time.Now()
	expired := e.turn.expired[:0]
	s.waiting.each(func(seq *sequence) bool {
		if !seq.deadline.IsZero() && !now.Before(seq.deadline) {
			expired = append(expired, seq)
		}
		return true
	})
	for _, seq := range expired {
		e.cancel(seq, context.DeadlineExceeded, now)
	}
	clear(expired)
	e.turn.expired = expired
	e.endStreams(now)
}

// cancel takes a live sequence out and counts it; endStreams tells its reader.
func (e *Engine) cancel(seq *sequence, err error, now time.Time) {
	phase := seq.phase()
	e.scheduler.Remove(seq)
	seq.err = err
	e.counters.cancelled[phase].Add(1)
	if phase != Queued && seq.underWay == 0 && !seq.left.IsZero() {
		e.counters.freed.add(now.Sub(seq.left))
	}
	if seq.started.IsZero() {
		e.counters.leaveQueue(seq)
	}
	e.turn.ended = append(e.turn.ended, seq)
}

// end takes a live sequence out as one that is done; endStreams tells its reader.
func (e *Engine) end(seq *sequence, reason FinishReason, now time.Time) {
	e.scheduler.Remove(seq)
	seq.finish = reason
	if seq.started.IsZero() {
		seq.stream.start = Start{PromptTokens: seq.prompt, CachedTokens: seq.prefix.hit, Queued: now.Sub(seq.arrived)}
		e.counters.leaveQueue(seq)
	}
	e.turn.ended = append(e.turn.ended, seq)
}

func (e *Engine) addProbe() {
	seq := newSequence(probeRequest, e.context)
	seq.probe = true
	e.scheduler.Add(seq)
	e.turn.probing = true
}

// stepOnce launches the next step, and hands out the tokens of the oldest one under way unless another may be launched beside it. The
// error is the device's. Where all that runs waits for its masks, it does so too.
func (e *Engine) stepOnce() error {
	if e.launch() && e.scheduler.underWay() < e.runner.depth {
		return nil
	}
	if e.scheduler.underWay() == 0 {
		e.awaitMasks()
		return nil
	}
	return e.collect()
}

// launch starts the next step, if there is one to be started now.
func (e *Engine) launch() bool {
	preemptions, alone := e.scheduler.preemptions, e.scheduler.underWay() == 0
	flight := &e.turn.flights[e.scheduler.launched%maxUnderWay]
	e.scheduler.now = time.Since(e.born)
	b := e.scheduler.Next()
	if b == nil {
		return false
	}
	began := time.Now()
	*flight = launched{began: began, preemptions: int(e.scheduler.preemptions - preemptions)}
	e.markStarts(b, flight)
	e.publishGauges()
	if alone {
		e.counters.stepBegan.Store(int64(began.Sub(e.born)))
	}
	e.runner.Launch(b)
	return true
}

// collect waits for the oldest step and hands out its tokens.
func (e *Engine) collect() error {
	b, flight := e.scheduler.oldest(), e.turn.flights[e.scheduler.committed%maxUnderWay]
	ids, err := e.runner.Collect(b)
	if err != nil {
		return fmt.Errorf("step of %d sequences, %d tokens: %w", len(b.items), b.tokens, err)
	}
	now := time.Now()
	e.advanceMasks(b, ids)
	e.scheduler.Commit(b, ids)
	if e.check {
		if err := e.scheduler.checkIntegrity(); err != nil {
			panic(fmt.Sprintf("engine: after a step of %d sequences: %v", len(b.items), err))
		}
	}
	e.publishGauges() // before anyone hears of an end
	e.deliver(b, now)
	e.finishStep(b, flight, now)
	e.answerProbes(b)
	e.endStreams(now)
	return nil
}

// markStarts notes when requests leave the queue for the first time.
func (e *Engine) markStarts(b *batch, flight *launched) {
	now := flight.began
	for i := b.decodes; i < len(b.items); i++ {
		seq := b.items[i].seq
		if !seq.started.IsZero() || seq.probe {
			continue
		}
		seq.started = now
		seq.stream.start = Start{PromptTokens: seq.prompt, CachedTokens: seq.prefix.hit, Queued: now.Sub(seq.arrived)}
		if seq.request.Progress {
			seq.stream.compute(seq.prefix.hit) // told with the first chunk
		}
		if seq.asked.whole {
			seq.stream.prompt = append(make([]TokenLogprob, 0, seq.prompt), TokenLogprob{ID: seq.tokens[0]})
		}
		e.counters.leaveQueue(seq)
		if seq.arrived.Before(e.turn.lastLaunch) {
			flight.starts++
		}
	}
	flight.crowded = flight.starts > 0 || e.counters.queued.Load() > 0
	e.turn.lastLaunch = now
}

// deliver puts the step's tokens on their streams and collects what has ended.
func (e *Engine) deliver(b *batch, now time.Time) {
	info := &e.turn.info
	info.FirstTokens, info.Gaps = info.FirstTokens[:0], info.Gaps[:0]
	info.DraftTokens, info.AcceptedTokens = 0, 0
	at := now.Sub(e.born)
	for i := range b.items {
		item := &b.items[i]
		seq := item.seq
		if item.dropped {
			if seq.underWay == 0 && !seq.left.IsZero() {
				e.counters.freed.add(now.Sub(seq.left))
			}
			continue
		}
		if seq.probe {
			e.turn.probing = false // its one step
			continue
		}
		if seq.masker != nil && !seq.masker.late && seq.masker.fault != nil && seq.state != ended {
			e.dropFaulty(seq, now)
			continue
		}
		if !b.asksNothing() {
			e.tellPrompt(b, item)
		}
		if item.row >= 0 && item.token >= 0 && !item.asks.broken {
			if seq.generated() == 1 {
				seq.first = at
				info.FirstTokens = append(info.FirstTokens, now.Sub(seq.arrived))
			} else {
				info.addGaps(at-seq.last, 1)
			}
			seq.last = at
			e.putAll(item)
			if item.asks.output {
				logprob, _ := e.runner.Logprobs(b, item)
				seq.stream.describe(logprob)
			}
		}
		switch {
		case seq.state == ended:
			e.turn.ended = append(e.turn.ended, seq)
		case item.row >= 0:
			e.waker.add(seq.stream)
		case seq.request.Progress && seq.generated() == 0:
			seq.stream.compute(item.start + item.count)
			e.waker.add(seq.stream)
		}
	}
	e.waker.flush()
}

// dropFaulty ends a request whose own code panicked.
func (e *Engine) dropFaulty(seq *sequence, now time.Time) {
	e.log.Error("a request was ended", "request_id", seq.request.ID, "error", seq.masker.fault)
	e.cancel(seq, errMask, now)
}

// putAll puts the tokens that item got on its stream. Those behind the first come at no time after it.
func (e *Engine) putAll(item *batchItem) {
	seq, info := item.seq, &e.turn.info
	for _, id := range seq.tokens[len(seq.tokens)-int(item.accepted):] {
		seq.stream.put(id)
	}
	if item.drafts > 0 {
		info.DraftTokens += int(item.drafts)
		info.AcceptedTokens += int(item.accepted) - 1
		info.addGaps(0, int(item.accepted)-1)
	}
}

// tellPrompt keeps what the step told of an item's prompt, for its reader to find with the first token or the end.
func (e *Engine) tellPrompt(b *batch, item *batchItem) {
	if item.asks.broken {
		return
	}
	if item.asks.rows > 0 {
		_, logprobs := e.runner.Logprobs(b, item)
		item.seq.stream.prompt = append(item.seq.stream.prompt, logprobs...)
	}
	e.runner.Pool(b, item)
}

// finishStep publishes what the step was.
func (e *Engine) finishStep(b *batch, flight launched, now time.Time) {
	t := &e.turn
	began := flight.began
	info := &t.info
	info.Idle = 0
	if t.lastEnd.After(began) {
		began = t.lastEnd // launched while the one before ran
	} else if !t.lastEnd.IsZero() {
		info.Idle = began.Sub(t.lastEnd)
	}
	t.lastEnd = now
	info.Duration = now.Sub(began)
	info.Host = e.runner.hostTime(now.Sub(t.hostFrom))
	t.hostFrom = now
	info.Sequences = len(b.items)
	info.DecodeTokens = b.decodes + b.drafting
	info.PrefillTokens = b.tokens - info.DecodeTokens
	e.scheduler.prompts.observe(info.DecodeTokens, info.PrefillTokens, info.Duration)
	e.counters.longest.Store(int64(e.scheduler.prompts.longest(e.scheduler.maxTokens)))
	info.Preemptions = flight.preemptions
	e.counters.endStep(info, now.Sub(e.born), e.scheduler.underWay() > 0)
	if flight.crowded {
		e.counters.setRate(t.queueRate.observe(info.Duration, flight.starts, info.PrefillTokens))
	}
	if e.measure {
		e.tune(b.tokens, info.Duration)
	}
	if e.observer != nil {
		e.observer.ObserveStep(info)
	}
}

// answerProbes tells all that asked, once there is a token, or what a prompt asked for. Rows of requests that are not finite say nothing about the others: then a
// later step answers, in the end one of the probe's own.
func (e *Engine) answerProbes(b *batch) {
	if len(e.turn.probes) == 0 {
		return
	}
	for i := range b.items {
		switch item := &b.items[i]; {
		case item.dropped || item.row < 0 && !item.asks.answered():
		case item.row < 0 || item.token >= 0:
			e.answer(nil)
			return
		case item.seq.probe:
			e.answer(ErrNotFinite)
			return
		}
	}
}

func (e *Engine) answer(err error) {
	for _, c := range e.turn.probes {
		c <- err // its slot is free
	}
	e.turn.probes = e.turn.probes[:0]
}

// endStreams tells the readers of what has ended, in the order in which it did. The ids of whole requests are free by then, and their blocks,
// but for those that a step under way names.
func (e *Engine) endStreams(now time.Time) {
	for _, seq := range e.turn.ended {
		seq.group.left--
		if seq.group.left == 0 {
			seq.group.detach()
		}
	}
	if len(e.turn.ended) > 0 {
		e.forget(e.turn.ended)
		e.publishGauges()
	}
	for i, seq := range e.turn.ended {
		e.endStream(seq, now)
		e.turn.ended[i] = nil
	}
	e.turn.ended = e.turn.ended[:0]
}

func (e *Engine) forget(ended []*sequence) {
	m := &e.mailbox
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, seq := range ended {
		if seq.group.left == 0 {
			delete(m.live, seq.request.ID)
		}
	}
}

func (e *Engine) endStream(seq *sequence, now time.Time) {
	info := seq.info(now, e.born)
	e.counters.countEnd(info)
	var finish *Finish
	if seq.err == nil {
		finish = &Finish{Reason: seq.finish, Token: noToken, Usage: info.Usage, Timings: info.Timings, Vector: seq.vector()}
		if seq.generated() > 0 {
			finish.Token = seq.tokens[len(seq.tokens)-1]
		}
	}
	seq.stream.close(finish, seq.err)
	if e.observer != nil {
		e.observer.ObserveRequest(info)
	}
}

// stop is the last thing that the loop does: it ends every stream and probe that is left. Without a cause the rest is aborted, and the
// blocks are free afterwards; with one nothing that the loop owns can be trusted any more.
func (e *Engine) stop(cause error) {
	m := &e.mailbox
	m.mu.Lock()
	m.state, m.cause = stopped, cause
	arrivals := m.arrivals
	e.turn.probes = append(e.turn.probes, m.probes...)
	m.arrivals, m.leavers, m.probes = nil, nil, nil
	refusal := m.refusal()
	m.mu.Unlock()

	if cause == nil {
		e.abortRest(arrivals)
	} else {
		e.failRest(cause)
	}
	e.answer(refusal)
	e.crew.working.Wait()
	close(e.stopped)
}

func (e *Engine) abortRest(arrivals []*sequence) {
	for _, seq := range arrivals {
		e.scheduler.Add(seq)
	}
	s, now := e.scheduler, time.Now()
	for s.live() > 0 {
		seq := s.waiting.next(s.now)
		if seq == nil {
			seq = s.running[len(s.running)-1]
		}
		if seq.probe {
			s.Remove(seq)
			e.turn.probing = false
			continue
		}
		e.cancel(seq, ErrAborted, now)
	}
	e.endStreams(now)
	for s.underWay() > 0 {
		b := s.oldest()
		ids, err := e.runner.Collect(b)
		if err != nil {
			e.log.Error("device failed after the last request", "err", err)
			e.counters.clearGauges()
			return
		}
		s.Commit(b, ids)
	}
	e.publishGauges()
	e.counters.stepBegan.Store(noStep)
}

func (e *Engine) failRest(cause error) {
	m := &e.mailbox
	m.mu.Lock()
	var left []*sequence
	for _, g := range m.live {
		left = append(left, g.members...)
	}
	clear(m.live)
	m.mu.Unlock()
	now := time.Now()
	for _, seq := range slices.Concat(left, e.turn.ended) { // the panic may have come between forget and endStream
		if seq == nil || seq.stream.end.Load() != nil {
			continue
		}
		seq.group.detach()
		seq.err, seq.finish = cause, 0
		e.endStream(seq, now)
	}
	e.counters.clearGauges()
}
