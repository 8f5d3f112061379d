package engine

import (
	"errors"
	"time"
)

// Outlook is what would become of a request that came now.
type Outlook struct {
	Fits    bool          // the context, and with it the pool, holds prompt and output
	Cached  int           // tokens of the prompt that the prefix cache has
	Queued  int           // requests that wait for their first step
	Wait    time.Duration // about, until its own; 0: a place is free
	Unknown bool          // it would never start, or others wait and too few have started to estimate Wait by
}

// Outlook says what would become of a request. The error is what Submit would refuse it with, but for its length. From any goroutine; nothing
// is queued, and the loop does not hear of it.
func (e *Engine) Outlook(r *Request) (Outlook, error) {
	if err := r.validate(e.context, e.runner.vocabulary()); err != nil && !errors.Is(err, ErrTooLong) {
		return Outlook{}, err
	}
	first := newGroup(r, e.scheduler.blocks.prefixOf(r), e.context, e.runner.vocabulary()).members[0]
	if err := e.answerable(r, first); err != nil {
		return Outlook{}, err
	}
	o := e.outlook(len(r.Prompt), r.Stop.MaxTokens)
	if first.prefix.on {
		o.Cached = e.scheduler.blocks.cache.count(e.scheduler.reusable(first)) * e.scheduler.blocks.blockSize
	}
	return o, nil
}

// outlook is that of a prompt of so many tokens and maxNew to generate, or as many as fit where that is 0.
func (e *Engine) outlook(prompt, maxNew int) Outlook {
	c, blocks := &e.counters, e.scheduler.blocks
	o := Outlook{Fits: prompt+max(maxNew, 1) <= e.context, Queued: int(c.queued.Load())}
	if !o.Fits {
		o.Unknown = true
		return o
	}
	free := int64(blocks.total()) - c.blocksUsed.Load()
	if o.Queued == 0 && c.running.Load() < int64(e.maxBatch) && int64(blocks.blocksFor(prompt+1)) <= free {
		return o
	}
	wait, known := c.expectedWait()
	o.Wait, o.Unknown = wait, !known
	return o
}
