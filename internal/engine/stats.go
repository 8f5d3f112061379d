package engine

import (
	"errors"
	"math"
	"sync/atomic"
	"time"
)

// Stats is what the engine knows about itself. Counts are since New and leave probes out.
type Stats struct {
	Running      int // sequences that have blocks
	Queued       int // requests that have not started
	QueuedTokens int // of their prompts
	Suspended    int // sequences that were preempted and wait to be computed again

	BlocksUsed     int // KV blocks of requests
	BlocksCached   int // those that the prefix cache keeps beside them
	BlocksTotal    int
	MaxBatchTokens int // token budget of a step

	Steps           uint64
	PromptTokens    uint64 // computed, recomputed ones included
	OutputTokens    uint64
	CacheAsked      uint64 // prompt tokens of requests that could use the prefix cache
	CacheHits       uint64 // those of them that it had
	CacheEvictions  uint64 // blocks that it gave up for others
	DraftTokens     uint64 // guesses that were computed
	AcceptedTokens  uint64 // those of them that were right, and are among OutputTokens
	Preemptions     uint64
	Finished        uint64            // requests that ended normally
	Cancelled       [NumPhases]uint64 // requests that left early, by Phase: cancelled, past their deadline, or aborted
	NotFinite       uint64            // requests that ended with ErrNotFinite
	Rejected        uint64            // requests that found the queue full
	TokensPerSecond float64           // generated, over the last seconds

	BlockSize int   // tokens of a KV block
	Freed     Freed // what became of the blocks of those that left early

	LastStep  time.Duration // how long it took
	HostTime  time.Duration // what the loop itself did for all steps: planning, launching and handing out, waits left out
	Heartbeat time.Time     // when the loop last ended a step or found nothing to do
	InStep    time.Duration // how long the step under way has been running; 0 between steps
}

// Observer hears of each step and each request's end, on the loop's goroutine: it must be quick, and must not keep its argument.
type Observer interface {
	ObserveStep(s *StepInfo)
	ObserveRequest(r *RequestInfo)
}

// StepInfo describes a step.
type StepInfo struct {
	Duration       time.Duration   // from its launch, or from the end of the step before if that was later, to its tokens
	Host           time.Duration   // what the loop itself did since the step before
	Sequences      int             // b
	PrefillTokens  int             // prompts, and what is computed again after a preemption
	DecodeTokens   int             // rows of sequences that already generate, their guesses included
	DraftTokens    int             // guesses
	AcceptedTokens int             // those of them that were right
	Preemptions    int             // that made room for it
	FirstTokens    []time.Duration // a request's arrival to its first token, for those that got it in this step
	Gaps           []Gap           // a request's last token to this one, for all others that got one
}

// Gap is a time between two tokens that so many requests in a row of a step have seen: mostly all of them.
type Gap struct {
	Time  time.Duration
	Count int
}

func (s *StepInfo) addGaps(d time.Duration, count int) {
	if n := len(s.Gaps); n > 0 && s.Gaps[n-1].Time == d {
		s.Gaps[n-1].Count += count
		return
	}
	if count > 0 {
		s.Gaps = append(s.Gaps, Gap{d, count})
	}
}

// tokens is how many the step generated.
func (s *StepInfo) tokens() int {
	n := len(s.FirstTokens)
	for i := range s.Gaps {
		n += s.Gaps[i].Count
	}
	return n
}

// RequestInfo describes a request at its end.
type RequestInfo struct {
	ID      string
	Reason  FinishReason // 0 where Err says why
	Err     error
	Usage   Usage
	Timings Timings
}

// info sums a request up at its end.
func (s *sequence) info(now, born time.Time) *RequestInfo {
	i := &RequestInfo{
		ID: s.request.ID, Reason: s.finish, Err: s.err,
		Usage:   Usage{PromptTokens: s.prompt, CachedTokens: s.prefix.hit, CompletionTokens: s.generated()},
		Timings: Timings{Total: now.Sub(s.arrived), Preemptions: s.preemptions},
	}
	if s.drafter != nil {
		i.Usage.DraftTokens, i.Usage.AcceptedTokens = s.drafter.drafted, s.drafter.accepted
	}
	t := &i.Timings
	switch {
	case s.started.IsZero():
		t.Queued = t.Total
	case s.generated() == 0:
		t.Queued, t.Prefill = s.started.Sub(s.arrived), now.Sub(s.started)
	default:
		t.Queued, t.Prefill, t.Decode = s.started.Sub(s.arrived), born.Add(s.first).Sub(s.started), s.last-s.first
	}
	return i
}

// counters are written by the loop, but for queued and rejected, and read by anyone. Times are since Engine.born.
type counters struct {
	blocksTotal int
	freed       freedTimes

	running, suspended, blocksUsed, blocksCached atomic.Int64
	queued, queuedTokens                         atomic.Int64 // Submit adds, the loop takes away
	maxTokens                                    atomic.Int64

	steps, promptTokens, outputTokens, preemptions, finished, notFinite, rejected atomic.Uint64
	cacheAsked, cacheHits, cacheEvictions, draftTokens, acceptedTokens            atomic.Uint64
	cancelled                                                                     [NumPhases]atomic.Uint64

	shares shares

	stepBegan atomic.Int64 // noStep: none is under way
	heartbeat atomic.Int64
	lastStep  atomic.Int64
	longest   atomic.Int64
	hostTime  atomic.Int64
	rate      atomic.Uint64 // tokens a second as of heartbeat, float64 bits
	startGap  atomic.Int64  // nanoseconds between starts of requests while others wait; 0: too few to tell
	tokenGap  atomic.Uint64 // nanoseconds for a prompt token meanwhile, float64 bits
}

const noStep = -1

// rateWindow is the time constant of TokensPerSecond.
const rateWindow = 5 * time.Second

// Stats may be called from any goroutine and never waits for a step.
func (e *Engine) Stats() Stats {
	c := &e.counters
	now := time.Since(e.born)
	s := Stats{
		Running: int(c.running.Load()), Queued: int(c.queued.Load()), QueuedTokens: int(c.queuedTokens.Load()), Suspended: int(c.suspended.Load()),
		BlocksUsed: int(c.blocksUsed.Load()), BlocksCached: int(c.blocksCached.Load()), BlocksTotal: c.blocksTotal, MaxBatchTokens: int(c.maxTokens.Load()),
		CacheAsked: c.cacheAsked.Load(), CacheHits: c.cacheHits.Load(), CacheEvictions: c.cacheEvictions.Load(),
		DraftTokens: c.draftTokens.Load(), AcceptedTokens: c.acceptedTokens.Load(),
		Steps: c.steps.Load(), PromptTokens: c.promptTokens.Load(), OutputTokens: c.outputTokens.Load(),
		Preemptions: c.preemptions.Load(), Finished: c.finished.Load(), NotFinite: c.notFinite.Load(), Rejected: c.rejected.Load(),
		LastStep: time.Duration(c.lastStep.Load()), HostTime: time.Duration(c.hostTime.Load()),
	}
	for i := range s.Cancelled {
		s.Cancelled[i] = c.cancelled[i].Load()
	}
	s.BlockSize, s.Freed = e.scheduler.blocks.blockSize, c.freed.read()
	heartbeat := time.Duration(c.heartbeat.Load())
	s.Heartbeat = e.born.Add(heartbeat)
	s.TokensPerSecond = math.Float64frombits(c.rate.Load()) * decay(now-heartbeat)
	if began := time.Duration(c.stepBegan.Load()); began != noStep {
		s.InStep = max(now-began, 0)
	}
	return s
}

func decay(d time.Duration) float64 { return math.Exp(-max(d, 0).Seconds() / rateWindow.Seconds()) }

// beat notes that the loop is alive, and that `tokens` were generated since the last beat.
func (c *counters) beat(now time.Duration, tokens int) {
	rate := math.Float64frombits(c.rate.Load()) * decay(now-time.Duration(c.heartbeat.Load()))
	c.rate.Store(math.Float64bits(rate + float64(tokens)/rateWindow.Seconds()))
	c.heartbeat.Store(int64(now))
}

func (c *counters) endStep(s *StepInfo, now time.Duration, another bool) {
	tokens := s.tokens()
	c.steps.Add(1)
	c.promptTokens.Add(uint64(s.PrefillTokens))
	c.outputTokens.Add(uint64(tokens))
	c.draftTokens.Add(uint64(s.DraftTokens))
	c.acceptedTokens.Add(uint64(s.AcceptedTokens))
	c.lastStep.Store(int64(s.Duration))
	c.hostTime.Add(int64(s.Host))
	c.beat(now, tokens)
	if another {
		c.stepBegan.Store(int64(now))
	} else {
		c.stepBegan.Store(noStep)
	}
}

func (c *counters) countEnd(r *RequestInfo) {
	switch {
	case r.Err == nil:
		c.finished.Add(1)
	case errors.Is(r.Err, ErrNotFinite):
		c.notFinite.Add(1)
	}
}

func (c *counters) clearGauges() {
	for _, gauge := range []*atomic.Int64{&c.running, &c.suspended, &c.blocksUsed, &c.blocksCached, &c.queued, &c.queuedTokens} {
		gauge.Store(0)
	}
	c.stepBegan.Store(noStep)
}

func (e *Engine) publishGauges() {
	s, c := e.scheduler, &e.counters
	probes := 0
	if e.turn.probing {
		probes = 1
	}
	c.running.Store(int64(len(s.running) - min(probes, len(s.running))))
	c.blocksUsed.Store(int64(s.blocks.total() - s.blocks.numFree()))
	c.blocksCached.Store(int64(s.blocks.cache.idle))
	c.cacheAsked.Store(s.hits.asked)
	c.cacheHits.Store(s.hits.tokens)
	c.cacheEvictions.Store(s.blocks.cache.evictions)
	c.suspended.Store(int64(s.waiting.suspended.len))
	c.preemptions.Store(s.preemptions)
}
