package engine

import (
	"fmt"
	"math"
	"time"
)

// Admission. Three bounds keep the queue short: requests that wait, tokens of their prompts, and how long a new one would wait, as far as
// recent steps tell. What would exceed one is refused at once, so that its client can go elsewhere; what is taken is not refused later.
//
// A tenant that has no more than its share of the queue is not refused because others have filled it: it goes before them. So the queue may be
// twice as long as it may be by one.
//
// A deadline that is nearer than the expected wait is no reason: the expectation is rough, and a place may come early. The request waits, and
// ends in time at no cost to the device.

// QueueFullError is Submit's answer when the queue is full. It wraps ErrQueueFull.
type QueueFullError struct {
	What       string        // waits: "257 requests"
	Limit      string        // the most of it
	RetryAfter time.Duration // about when a place will be free
}

func (e *QueueFullError) Error() string {
	return fmt.Sprintf("queue full: %s would wait, at most %s may; retry in %v", e.What, e.Limit, e.RetryAfter.Round(time.Millisecond))
}
func (e *QueueFullError) Unwrap() error { return ErrQueueFull }

// Full refuses a tenant's request of so many continuations and prompt tokens where Submit would for want of a place, and counts it; nil: it would not.
// From any goroutine.
func (e *Engine) Full(tenant string, continuations, tokens int) error {
	err := e.full(tenant, continuations, tokens)
	if err != nil {
		e.counters.rejected.Add(1)
	}
	return err
}

func (e *Engine) full(tenant string, continuations, tokens int) error {
	c := &e.counters
	queued, queuedTokens := int(c.queued.Load()), int(c.queuedTokens.Load())
	if queued == 0 {
		return nil // what is large beyond all bounds has its turn when nothing else waits
	}
	within := queued+continuations <= crowd*e.maxQueue && queuedTokens+tokens <= crowd*e.maxQueueTokens
	if within && c.shares.modest(tenant, continuations, e.maxQueue) {
		return nil // it goes before those of whom there are many
	}
	if queued+continuations > e.maxQueue {
		return &QueueFullError{fmt.Sprintf("%d requests", queued+continuations), fmt.Sprint(e.maxQueue), c.retryAfter(0)}
	}
	if queuedTokens+tokens > e.maxQueueTokens {
		over := queuedTokens + tokens - e.maxQueueTokens
		return &QueueFullError{
			fmt.Sprintf("%d prompt tokens", queuedTokens+tokens), fmt.Sprint(e.maxQueueTokens), c.retryAfter(c.perToken(over)),
		}
	}
	if wait, known := c.expectedWait(); known && wait > e.maxQueueWait {
		return &QueueFullError{fmt.Sprintf("a request %v", wait.Round(time.Second)), e.maxQueueWait.String(), c.retryAfter(wait - e.maxQueueWait)}
	}
	return nil
}

// expectedWait is about how long a request that comes now will wait for its first step; known says whether enough have started to tell.
func (c *counters) expectedWait() (wait time.Duration, known bool) {
	gap := time.Duration(c.startGap.Load())
	return max(gap*time.Duration(c.queued.Load()+1), c.perToken(int(c.queuedTokens.Load()))), gap > 0
}

// perToken is about how long prompts of so many tokens take to be computed beside what else runs; 0: that is not known.
func (c *counters) perToken(tokens int) time.Duration {
	return time.Duration(math.Float64frombits(c.tokenGap.Load()) * float64(tokens))
}

// Bounds of what clients are told.
const (
	leastRetry = 100 * time.Millisecond
	mostRetry  = 30 * time.Second
)

// retryAfter is about when the next request will leave the queue, and not before the time given.
func (c *counters) retryAfter(least time.Duration) time.Duration {
	gap := time.Duration(c.startGap.Load())
	if gap == 0 {
		gap = time.Second
	}
	return min(max(gap, least, leastRetry), mostRetry)
}

// queueRate measures how fast the queue moves, over the steps at whose start requests waited. The loop's.
type queueRate struct {
	starts, tokens float64 // requests and prompt tokens that got their turn, older ones counting less
	busy           float64 // seconds in which they did
}

const (
	rateMemory = 30 * time.Second // in which what was seen counts e times less
	rateStarts = 4                // fewer tell nothing
)

// observe adds a step, and returns the time between starts and for a prompt token, in nanoseconds; 0: not known.
func (r *queueRate) observe(step time.Duration, starts, tokens int) (startGap, tokenGap float64) {
	keep := math.Exp(-step.Seconds() / rateMemory.Seconds())
	r.busy = r.busy*keep + step.Seconds()
	r.starts = r.starts*keep + float64(starts)
	r.tokens = r.tokens*keep + float64(tokens)
	if r.starts < rateStarts {
		return 0, 0
	}
	return max(1, 1e9*r.busy/r.starts), 1e9 * r.busy / max(r.tokens, 1)
}

// setRate publishes what queueRate.observe says.
func (c *counters) setRate(startGap, tokenGap float64) {
	c.startGap.Store(int64(startGap))
	c.tokenGap.Store(math.Float64bits(tokenGap))
}

// joinQueue and leaveQueue count a request that has not started.
func (c *counters) joinQueue(g *group) {
	c.queued.Add(int64(len(g.members)))
	c.shares.add(g.members[0].request.Tenant, len(g.members))
	for _, seq := range g.members {
		c.queuedTokens.Add(int64(seq.toCompute()))
	}
}

func (c *counters) leaveQueue(seq *sequence) {
	c.queued.Add(-1)
	c.shares.add(seq.request.Tenant, -1)
	c.queuedTokens.Add(-int64(seq.toCompute()))
}

// toCompute is what a sequence that has not started costs before its first token: the prompt, which the first continuation computes for
// all, or one token.
func (s *sequence) toCompute() int {
	if s.group != nil && s.group.members[0] != s {
		return 1
	}
	return s.prompt
}
