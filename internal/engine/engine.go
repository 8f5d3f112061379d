// Package engine turns requests into tokens. One goroutine, Engine.Run, owns all state below; everyone else talks to it by Submit.
//
// Each turn of the loop takes in what arrived and what was cancelled, asks the scheduler for a batch, has the runner compute it, and
// puts the new tokens on their streams. Where the device works beside the host, a step is launched while the one before runs. All device
// memory is allocated by New.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/event"
	"github.com/inferno-serve/inferno/internal/memory"
	"github.com/inferno-serve/inferno/internal/model"
)

// Defaults of Options.
const (
	DefaultBlockSize   = 16
	PromptTokens       = 16 // of prompts that a step has room for beside a token of every sequence, or a block's worth where that is less
	DefaultMaxQueue    = 256
	DefaultQueueTokens = 1 << 20
	DefaultQueueWait   = time.Minute
	DefaultStepTarget  = 250 * time.Millisecond
)

// minBatchTokens is the smallest token budget that is chosen for a step.
const minBatchTokens = 32

// Options describe an engine. Model, Device, Memory, Limits and NumBlocks are required.
type Options struct {
	Model  model.Model
	Device device.Device
	Memory memory.Allocator // what New allocates comes from here
	Limits model.Limits     // what the model was loaded for: sequences and tokens of a step, tokens of a sequence

	NumBlocks      int           // KV blocks
	BlockSize      int           // tokens a KV block; 0: DefaultBlockSize
	MaxBatch       int           // sequences in a step; 0: Limits.MaxSeqs
	MaxBatchTokens int           // tokens in a step; 0: as many as keep it under StepTarget, by Warmup and then by the steps themselves, up to Limits.MaxTokens
	StepTarget     time.Duration // 0: DefaultStepTarget
	TargetITL      time.Duration // between two tokens of a request, which chunks of others' prompts may take up; 0: as long as StepTarget
	MaxQueue       int           // requests that may wait for their first step; 0: DefaultMaxQueue
	MaxQueueTokens int           // tokens of their prompts; 0: DefaultQueueTokens
	MaxQueueWait   time.Duration // for which one may be expected to wait; 0: DefaultQueueWait
	Context        int           // tokens of one sequence; 0: Limits.Context. The pool bounds it too
	MaxDrafting    int           // sequences that run, while those whose requests ask for it speculate; 0: none ever does
	PrefixCache    bool          // blocks of requests that have ended are kept, while there is room, for others that start alike

	Eager          bool         // for comparisons: no step is a captured graph, or launched while another one runs
	Bus            *event.Bus   // hears of Failed; nil: nobody does
	Log            *slog.Logger // nil: nothing is logged
	Observer       Observer     // nil: nobody observes
	CheckIntegrity bool         // for tests: panic after a step that broke an invariant
}

// Failed is published once when the loop ends because of a device error or a broken invariant.
type Failed struct{ Err error }

// Engine is the state behind the API. Make it with New, run it with Run.
type Engine struct {
	maxQueue       int
	maxQueueTokens int
	maxQueueWait   time.Duration
	context        int
	promptRows     int // rows of logits of a step for prompts
	stepTarget     time.Duration
	bus            *event.Bus
	log            *slog.Logger
	observer       Observer
	check          bool

	// Owned by the loop; by New and Warmup before it.
	scheduler *scheduler
	runner    *runner
	measure   bool // the token budget follows the device
	maxTokens int  // most that it may be
	maxBatch  int  // sequences that it always has room for, and a block's worth of tokens beside them
	turn      turn
	waker     *waker
	crew      crew
	code      []code // of the loop

	born     time.Time // zero of the counters' times
	counters counters
	wake     chan struct{} // one slot: there is something in the mailbox, or a mask has come
	stopped  chan struct{} // closed when the state became stopped

	mailbox mailbox
}

// mailbox is what everyone else tells the loop.
type mailbox struct {
	changed atomic.Bool // so that a step without news takes no lock

	mu       sync.Mutex
	state    engineState
	cause    error             // of the stop; nil after a drain
	live     map[string]*group // requests from Submit until their end
	arrivals []*sequence
	leavers  []leaver
	probes   []chan error // one slot each
	started  bool         // Run was called
}

// leaver is a sequence that is to end: with err, or normally where there is a reason.
type leaver struct {
	seq    *sequence
	err    error
	reason FinishReason
	at     time.Time // when the engine was told
}

type engineState uint8

const (
	open     engineState = iota
	draining             // no new requests; Run returns when those at hand have ended
	closing              // those at hand are aborted
	stopped              // Run has returned, or will do nothing
)

// New allocates all that the engine needs on the device.
func New(o Options) (*Engine, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	limits := model.Limits{MaxTokens: o.Limits.MaxTokens, MaxSeqs: o.MaxBatch, MaxRows: min(o.MaxBatch+promptRows, o.Limits.MaxRows), Context: o.Context}
	if o.MaxBatchTokens > 0 {
		limits.MaxTokens = o.MaxBatchTokens
	}
	r, err := newRunner(o.Device, o.Model, o.Memory, limits, o.NumBlocks, o.BlockSize)
	if err != nil {
		return nil, fmt.Errorf("engine: allocate %w", err)
	}
	if o.Eager {
		r.depth, r.info.Capture = 1, false
	}
	blocks := newBlockPool(o.NumBlocks, o.BlockSize, o.PrefixCache)
	rows := limits.MaxRows - o.MaxBatch
	e := &Engine{
		maxQueue: o.MaxQueue, maxQueueTokens: o.MaxQueueTokens, maxQueueWait: o.MaxQueueWait, context: o.Context, stepTarget: o.StepTarget, bus: o.Bus, log: o.Log,
		observer: o.Observer, check: o.CheckIntegrity, runner: r, measure: o.MaxBatchTokens == 0, maxTokens: limits.MaxTokens, maxBatch: o.MaxBatch,
		scheduler: newScheduler(blocks, o.MaxBatch, limits.MaxTokens, rows, o.Context), promptRows: rows, waker: newWaker(o.MaxBatch),
		born: time.Now(), wake: make(chan struct{}, 1), stopped: make(chan struct{}),
		mailbox: mailbox{live: map[string]*group{}},
	}
	e.scheduler.prompts.target, e.scheduler.maxDrafting = o.TargetITL, o.MaxDrafting
	r.beforeEnd, e.code = e.warm, loopCode()
	e.counters.blocksTotal = o.NumBlocks
	e.counters.maxTokens.Store(int64(limits.MaxTokens))
	e.counters.stepBegan.Store(noStep)
	return e, nil
}

// complete fills the defaults in and reports every fault at once.
func (o *Options) complete() error {
	setDefault(&o.BlockSize, DefaultBlockSize)
	setDefault(&o.MaxBatch, o.Limits.MaxSeqs)
	setDefault(&o.StepTarget, DefaultStepTarget)
	setDefault(&o.MaxQueue, DefaultMaxQueue)
	setDefault(&o.MaxQueueTokens, DefaultQueueTokens)
	setDefault(&o.MaxQueueWait, DefaultQueueWait)
	setDefault(&o.Context, o.Limits.Context)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Model == nil || o.Device == nil || o.Memory == nil {
		return errors.New("model, device and memory are required")
	}
	err := errors.Join(
		between("Limits.MaxTokens", o.Limits.MaxTokens, 1, math.MaxInt32),
		between("BlockSize", o.BlockSize, 1, math.MaxInt16),
		between("NumBlocks", o.NumBlocks, 1, math.MaxInt32/max(o.BlockSize, 1)), // a slot is an int32
		between("MaxBatch", o.MaxBatch, 1, min(o.Limits.MaxSeqs, o.Limits.MaxRows)),
		between("MaxBatchTokens", o.MaxBatchTokens, 0, o.Limits.MaxTokens),
		between("StepTarget", o.StepTarget, 1, math.MaxInt64),
		between("TargetITL", o.TargetITL, 0, math.MaxInt64),
		between("MaxQueue", o.MaxQueue, 1, math.MaxInt32),
		between("MaxQueueTokens", o.MaxQueueTokens, 1, math.MaxInt),
		between("MaxQueueWait", o.MaxQueueWait, 1, math.MaxInt64),
		between("MaxDrafting", o.MaxDrafting, 0, math.MaxInt32),
		between("Context", o.Context, 2, o.Limits.Context),
	)
	o.Context = min(o.Context, o.NumBlocks*o.BlockSize)
	return err
}

func setDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

func between[T int | time.Duration](what string, v, low, high T) error {
	if v < low || v > high {
		return fmt.Errorf("%s is %v, want %v to %v", what, v, low, high)
	}
	return nil
}

// Context is the tokens that one sequence may have, prompt and output together: what model and pool allow.
func (e *Engine) Context() int { return e.context }

// Submit queues a request, or answers at once why not: a *LimitError (ErrTooLong, ErrInvalid), a *QueueFullError (ErrQueueFull),
// ErrDuplicateID, ErrDraining, ErrDeviceLost, or ctx's error. The request ends with ctx, whatever state it is in. There is a stream for each
// continuation, by index.
func (e *Engine) Submit(ctx context.Context, r *Request) ([]*Stream, error) {
	if err := r.validate(e.context, e.runner.vocabulary()); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	arrived := r.Arrived
	if arrived.IsZero() {
		arrived = time.Now()
	}
	g := newGroup(r, e.scheduler.blocks.prefixOf(r), e.context, e.runner.vocabulary())
	if err := e.answerable(r, g.members[0]); err != nil {
		return nil, err
	}
	streams := make([]*Stream, len(g.members))
	wake := make(chan struct{}, 1)
	for i, seq := range g.members {
		seq.arrived = arrived
		seq.deadline, _ = ctx.Deadline()
		seq.stream = newStream(e, seq, wake)
		streams[i] = seq.stream
	}
	if err := e.push(ctx, g); err != nil {
		return nil, err
	}
	e.notify()
	return streams, nil
}

// answerable returns a *LimitError where a request, the first of whose sequences is s, can have no output, or not what it asks for beside it.
func (e *Engine) answerable(r *Request, s *sequence) error {
	if s.masked() && s.deadEnd() {
		return &LimitError{"allowed_token_ids", "empty, once all is left out that is banned or does not fit the constraint", "at least 1 token", ErrInvalid}
	}
	if e.promptRows == 0 && (r.Logprobs.Prompt || r.Logprobs.Output && s.adjusted) {
		return &LimitError{"logprobs", "set", "none: the model was loaded without rows of logits for them", ErrInvalid}
	}
	return nil
}

func (e *Engine) push(ctx context.Context, g *group) error {
	m := &e.mailbox
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state != open {
		return m.refusal()
	}
	id := g.members[0].request.ID
	if _, taken := m.live[id]; taken {
		return fmt.Errorf("%w: %s", ErrDuplicateID, id)
	}
	if err := e.Full(g.members[0].request.Tenant, len(g.members), len(g.members[0].request.Prompt)); err != nil {
		return err
	}
	e.counters.joinQueue(g)
	g.detach = context.AfterFunc(ctx, func() { e.leave(g, ctx.Err()) })
	m.live[id] = g
	m.arrivals = append(m.arrivals, g.members...)
	m.changed.Store(true)
	return nil
}

// refusal is why nothing new is taken; mu is held.
func (m *mailbox) refusal() error {
	if m.cause != nil {
		return m.cause
	}
	return ErrDraining
}

// leave asks the loop to end a request with err, which is nothing new to one that has ended.
func (e *Engine) leave(g *group, err error) {
	m := &e.mailbox
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live[g.members[0].request.ID] == g {
		m.evict(g, err)
		e.tell()
	}
}

// evict puts all of a request on the list of those that leave; mu is held.
func (m *mailbox) evict(g *group, err error) {
	now := time.Now()
	for _, seq := range g.members {
		m.leavers = append(m.leavers, leaver{seq: seq, err: err, at: now})
	}
}

// finish asks the loop to end one continuation normally, which is nothing new to one that has ended.
func (e *Engine) finish(seq *sequence, reason FinishReason) {
	m := &e.mailbox
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live[seq.request.ID] == seq.group {
		m.leavers = append(m.leavers, leaver{seq: seq, reason: reason})
		e.tell()
	}
}

// tell marks the mailbox as changed and wakes the loop; its mutex is held.
func (e *Engine) tell() {
	e.mailbox.changed.Store(true)
	e.notify()
}

func (e *Engine) notify() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Abort ends the live requests among ids with ErrAborted, and returns which those were.
func (e *Engine) Abort(ids ...string) (aborted []string) {
	m := &e.mailbox
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		if g, ok := m.live[id]; ok {
			m.evict(g, ErrAborted)
			aborted = append(aborted, id)
		}
	}
	e.tell()
	return aborted
}

// AbortAll ends all live requests with ErrAborted, and returns which those were.
func (e *Engine) AbortAll() (aborted []string) {
	m := &e.mailbox
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, g := range m.live {
		m.evict(g, ErrAborted)
		aborted = append(aborted, id)
	}
	e.tell()
	return aborted
}

// Drain refuses new requests from now on; Run returns when those at hand have ended.
func (e *Engine) Drain() { e.setState(draining) }

// Close refuses new requests, ends those at hand with ErrAborted within one step, and waits until Run is about to return. Idempotent.
func (e *Engine) Close() {
	m := &e.mailbox
	m.mu.Lock()
	started := m.started
	m.started = true // a Run that comes later returns at once
	m.mu.Unlock()
	if !started {
		e.stop(nil)
		return
	}
	e.setState(closing)
	<-e.stopped
}

// setState only ever goes forward.
func (e *Engine) setState(to engineState) {
	m := &e.mailbox
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = max(m.state, to)
	e.tell()
}

// Silence is for how long the loop has been busy without ending a step. A loop that sleeps is woken up to show that it can be: asked
// regularly, one that is well has been silent for no longer than a step, or than the time between two questions.
func (e *Engine) Silence() time.Duration {
	e.notify()
	return max(time.Since(e.born)-time.Duration(e.counters.heartbeat.Load()), 0)
}

// LongestStep is how long a step takes that computes all the tokens that one may, as Warmup's trial and the steps since foretell.
func (e *Engine) LongestStep() time.Duration { return time.Duration(e.counters.longest.Load()) }

// Probe has one real token made on the device and returns nil when it is there. While requests run it waits for the next token of
// theirs; otherwise it makes one of its own, which no counter sees.
func (e *Engine) Probe(ctx context.Context) error {
	answer := make(chan error, 1)
	m := &e.mailbox
	m.mu.Lock()
	if m.state >= closing {
		defer m.mu.Unlock()
		return m.refusal()
	}
	m.probes = append(m.probes, answer)
	e.tell()
	m.mu.Unlock()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		m.mu.Lock()
		defer m.mu.Unlock()
		m.probes = slices.DeleteFunc(m.probes, func(c chan error) bool { return c == answer })
		return ctx.Err()
	}
}
