package engine

import "time"

// Outlook is what would become of a request that came now.
type Outlook struct {
	Fits    bool          // the context, and with it the pool, holds prompt and output
	Queued  int           // requests that wait for their first step
	Wait    time.Duration // about, until its own; 0: a place is free
	Unknown bool          // it would never start, or others wait and too few have started to estimate Wait by
}

// Outlook says what would become of a request of so many tokens that may generate maxNew, or as many as fit where that is 0. From any
// goroutine; nothing is queued, and the loop does not hear of it.
func (e *Engine) Outlook(prompt, maxNew int) Outlook {
	c, blocks := &e.counters, e.scheduler.blocks
	o := Outlook{Fits: prompt > 0 && prompt+max(maxNew, 1) <= e.context, Queued: int(c.queued.Load())}
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
