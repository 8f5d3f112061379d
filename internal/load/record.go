package load

import (
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/status"
)

// A record is what a run has measured so far, of the requests that count, and of all tokens within the window.
type record struct {
	targets    Targets
	done       func()
	begin, end time.Duration // of the window; end is never while it follows from the requests

	tokens                                    atomic.Int64 // that came in the window
	firstToken, interToken, pause             histogram
	perToken, total, queued, refused, overdue histogram

	mu                             sync.Mutex
	succeeded, left, short, good   int
	requests                       int
	promptTokens, cached, preempts int64
	errors                         map[string]int // by status
	firstError                     error
	last                           time.Duration // end of the last request
}

func (r *record) countTokens(at time.Duration, n int) {
	if at >= r.begin && at < r.end {
		r.tokens.Add(int64(n))
	}
}

// add notes a request that counts, at its end. Times of tokens have been noted as they came.
func (r *record) add(t ticket, req *request, o *outcome) {
	r.overdue.add(o.began-t.intended, 1)
	switch {
	case o.err != nil:
		if statusOf(o.err) == exhausted {
			r.refused.add(o.ended-o.began, 1)
		}
	case !o.left:
		r.total.add(o.ended-t.intended, 1)
		r.queued.add(o.queued, 1)
		if o.tokens > 1 {
			r.perToken.add(o.perToken(), 1)
		}
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	r.last = max(r.last, o.ended)
	if o.tokens > 0 && o.first < r.end {
		r.promptTokens += int64(req.size.Prompt)
	}
	r.cached += int64(o.cached)
	r.preempts += int64(o.preemptions)
	switch {
	case o.err != nil:
		if r.errors == nil {
			r.errors = map[string]int{}
			r.firstError = o.err
		}
		r.errors[statusOf(o.err)]++
	case o.left:
		r.left++
	default:
		r.succeeded++
		if o.tokens < req.size.Output {
			r.short++
		} else if r.targets.keptBy(t, o) {
			r.good++
		}
	}
	if r.done != nil {
		r.done()
	}
}

// perToken is the mean time between tokens.
func (o *outcome) perToken() time.Duration {
	return (o.last - o.first) / time.Duration(max(o.tokens-1, 1))
}

func (g Targets) keptBy(t ticket, o *outcome) bool {
	within := func(d, bound time.Duration) bool { return bound == 0 || d <= bound }
	return within(o.first-t.intended, g.FirstToken) && within(o.perToken(), g.PerOutputToken) && within(o.longest, g.Pause)
}

// Statuses that mean more than a failure, by their names.
const (
	cancelled = "CANCELLED"
	exhausted = "RESOURCE_EXHAUSTED"
	expired   = "DEADLINE_EXCEEDED"
)

// statusOf is the name of an error's status: UNKNOWN where it is none.
func statusOf(err error) string { return code.Code(status.Code(err)).String() }
