package load

import (
	"context"
	"time"

	"github.com/inferno-serve/inferno/client"
)

// outcome is what one request came to. Times count from the run's start.
type outcome struct {
	began, ended time.Duration
	first, last  time.Duration // its first and last message with tokens
	longest      time.Duration // between two of them
	tokens       int
	queued       time.Duration // the server's word
	cached       int           // prompt tokens
	preemptions  int
	left         bool // cancelled, as it was to be
	err          error
}

// request makes one request, notes what came of it, and says whether it ended well.
func (r *run) request(ctx context.Context, t ticket) bool {
	req := r.maker.make(r.first+t.n, t.n)
	o := outcome{began: r.now()}
	c, err := r.pool.take()
	if err != nil {
		o.err, o.ended = err, r.now()
	} else {
		r.stream(ctx, c.Client, &req, &o, t)
		r.pool.give(c)
	}
	if ctx.Err() == nil && t.counts {
		r.record.add(t, &req, &o)
	}
	return o.err == nil
}

// stream reads one answer. Tokens are counted as they come, by whatever request, since a window of time is measured.
func (r *run) stream(ctx context.Context, c *client.Client, req *request, o *outcome, t ticket) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if d := r.maker.Deadline; d > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, d)
		defer stop()
	}
	leaveAt := req.size.Output + 1 // tokens
	if leave := req.cancel; leave != nil {
		if leave.Tokens > 0 {
			leaveAt = leave.Tokens
		} else {
			timer := time.AfterFunc(leave.Time, cancel)
			defer timer.Stop()
		}
	}
	for event, err := range c.Stream(ctx, req.message) {
		switch e := event.(type) {
		case client.Start:
			o.queued, o.cached = e.Queued, e.CachedPromptTokens
		case client.Tokens:
			r.tokens(o, len(e.IDs), t)
		case client.Summary:
			o.preemptions = e.Usage.Preemptions
		}
		if err != nil {
			o.err = err
		} else if o.tokens >= leaveAt {
			o.left = true
			break
		}
	}
	o.ended = r.now()
	if o.err != nil && req.cancel != nil && statusOf(o.err) == cancelled {
		o.left, o.err = true, nil
	}
}

// tokens notes a message of n tokens. The pause before it is that of its first token, as the reader sees it; as times between tokens it is
// shared equally by all of them, so that their mean is the request's. What comes with the first token has waited for nothing.
func (r *run) tokens(o *outcome, n int, t ticket) {
	if n == 0 {
		return
	}
	now := r.now()
	r.record.countTokens(now, n)
	switch {
	case !t.counts:
	case o.tokens == 0:
		r.record.firstToken.add(now-t.intended, 1)
		r.record.interToken.add(0, n-1)
	default:
		pause := now - o.last
		o.longest = max(o.longest, pause)
		r.record.pause.add(pause, 1)
		r.record.interToken.add(pause/time.Duration(n), n)
	}
	if o.tokens == 0 {
		o.first = now
	}
	o.last = now
	o.tokens += n
}
