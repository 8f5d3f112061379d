package etcd

import (
	"context"
	"errors"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// keeping is the time in which one lease is held. It outlives clients: where renewals stay without an answer another connection is tried,
// perhaps to another member, as long as the lease may live.
type keeping struct {
	g *registration
	h *held

	silence  *time.Timer // renewals have been without an answer
	due      time.Time   // when silence fires
	retry    *time.Timer // what etcd holds is not what is wanted, or is not watched: look again
	failures int         // to settle, in a row
	late     int         // calls without an answer, in a row
}

// maxLate is how many calls in a row may stay without an answer before another connection is tried, though renewals are answered: packets
// that were lost hold up all behind them on one connection, for ever longer.
const maxLate = 3

// watched is word from a watch of one key: the revision of a change, or 0 for a watch that has ended.
type watched struct{ revision int64 }

// run keeps the lease by one client. again means: with another client, on the same lease.
func (k *keeping) run(ctx context.Context) (cause string, again bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	limited, got := context.WithTimeout(ctx, callTimeout)
	c, err := k.g.r.link.get(limited)
	got()
	if err != nil { // with a password, a client comes only from an etcd that answers
		return k.without(ctx, err)
	}
	alive, err := c.KeepAlive(ctx, k.h.lease)
	if err != nil { // the client has been closed
		return k.without(ctx, err)
	}
	w := watches{client: c, words: make(chan watched)}
	defer w.stop()
	w.start(ctx, k.h)
	k.awaitAnswer()
	for {
		select {
		case <-ctx.Done():
			return "", false
		case answer := <-alive:
			if answer == nil {
				return k.ended(ctx, c)
			}
			k.renewed()
		case <-k.silence.C:
			select {
			case answer := <-alive: // it waited while something else took its time
				if answer != nil {
					k.renewed()
					continue
				}
			default:
			}
			k.g.setReason(k.g.r.link.explain(context.DeadlineExceeded))
			k.g.r.link.drop(c)
			return k.expired()
		case word := <-w.words:
			if word.revision > 0 && word.revision <= k.h.revision {
				continue // our own write
			}
			k.h.doubt = true
			if word.revision == 0 { // compacted, no leader, no permission: look now, and watch anew
				w.stop()
				k.again()
				continue
			}
			if gone := k.settle(ctx, &w); gone {
				return causeGone, false
			}
			if k.stuck(c) {
				return k.expired()
			}
		case u := <-k.g.updates:
			k.g.wanted = u.instance
			gone := k.settle(ctx, &w)
			u.done <- k.g.Held()
			if gone {
				return causeGone, false
			}
			if k.stuck(c) {
				return k.expired()
			}
		case <-k.retry.C:
			if gone := k.settle(ctx, &w); gone {
				return causeGone, false
			}
			if k.stuck(c) {
				return k.expired()
			}
		}
	}
}

// settle has etcd hold what is wanted, and watches its keys. gone means that the lease is no more. Any other failure is tried again.
func (k *keeping) settle(ctx context.Context, w *watches) (gone bool) {
	k.retry.Stop()
	// Calls may take longer than the lease can wait for another connection.
	limited, cancel := context.WithDeadline(ctx, k.due)
	err := k.g.r.settle(limited, k.h, k.g.wanted)
	cancel()
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = k.g.r.link.explain(err)
	}
	if leaseGone(err) {
		k.g.setReason(err)
		return true
	}
	if ctx.Err() != nil {
		return false
	}
	k.g.setReason(err)
	if k.late++; !errors.Is(err, errNoAnswer) {
		k.late = 0
	}
	if err != nil {
		k.again()
		return false
	}
	k.failures = 0
	w.start(ctx, k.h)
	return false
}

// stuck gives the client up after too many calls without an answer.
func (k *keeping) stuck(c *clientv3.Client) bool {
	if k.late < maxLate {
		return false
	}
	k.late = 0
	k.g.r.link.drop(c)
	return true
}

func (k *keeping) again() {
	k.failures++
	k.retry.Reset(pause(k.failures))
}

// without waits a moment for a client.
func (k *keeping) without(ctx context.Context, err error) (cause string, again bool) {
	if ctx.Err() != nil {
		return "", false
	}
	k.g.setReason(k.g.r.link.explain(err))
	k.h.unanswered = true
	k.failures++
	if !k.g.rest(ctx, pause(k.failures)) {
		return "", false
	}
	return k.expired()
}

// ended is a channel of renewals that has closed: the lease is no more, or the client is not.
func (k *keeping) ended(ctx context.Context, c *clientv3.Client) (cause string, again bool) {
	if ctx.Err() != nil {
		return "", false
	}
	if c.Ctx().Err() != nil {
		return k.expired()
	}
	switch granted, _, err := k.g.r.timeToLive(ctx, k.h.lease); {
	case err != nil: // the client waits for its first answer for less long than leases last
		return k.without(ctx, err)
	case granted == 0:
		return causeGone, false
	}
	return k.expired()
}

// expired gives the lease up once nobody has renewed it for as long as it lasts.
func (k *keeping) expired() (cause string, again bool) {
	if time.Since(k.h.renewed) >= k.h.ttl {
		return causeSilent, false
	}
	return "", true
}

func (k *keeping) renewed() {
	k.h.renewed = time.Now()
	k.g.renewed(k.h.renewed.Add(k.h.ttl))
	if k.h.unanswered {
		k.h.unanswered, k.h.doubt = false, true
		k.again() // that etcd did not answer was the whole reason, or there is more to it
	}
	k.awaitAnswer()
}

// awaitAnswer sets the time at which a renewal is overdue. The client renews each third of the lease, with half a second's grain. After that
// each connection has callTimeout to do better than the one before.
func (k *keeping) awaitAnswer() {
	since := time.Since(k.h.renewed)
	overdue := max(k.h.ttl/2, k.h.ttl/3+time.Second)
	if since >= overdue {
		k.h.unanswered = true
		overdue = since + callTimeout
	}
	left := min(overdue, k.h.ttl) - since
	k.due = time.Now().Add(left)
	k.silence.Reset(left)
}

// watches are those of the keys of one registration, by one client.
type watches struct {
	client *clientv3.Client
	words  chan watched

	watching map[string]bool // keys
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

// start watches the keys of h, from behind the last write on. It does nothing where they are watched.
func (w *watches) start(ctx context.Context, h *held) {
	same := len(w.watching) == len(h.values)
	for key := range h.values {
		same = same && w.watching[key]
	}
	if same {
		return
	}
	w.stop()
	ctx, w.cancel = context.WithCancel(ctx)
	w.watching = map[string]bool{}
	from := h.revision + 1
	for key := range h.values {
		w.watching[key] = true
		w.running.Go(func() { w.follow(ctx, key, from) })
	}
}

func (w *watches) stop() {
	if w.cancel != nil {
		w.cancel()
	}
	w.running.Wait()
	w.cancel, w.watching = nil, nil
}

func (w *watches) follow(ctx context.Context, key string, from int64) {
	say := func(revision int64) {
		select {
		case w.words <- watched{revision}:
		case <-ctx.Done():
		}
	}
	for changes := range w.client.Watch(clientv3.WithRequireLeader(ctx), key, clientv3.WithRev(from)) {
		if changes.Err() != nil {
			break
		}
		for _, e := range changes.Events {
			say(e.Kv.ModRevision)
		}
	}
	say(0)
}
