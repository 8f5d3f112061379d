package etcd

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/inferno-serve/inferno/internal/discovery"
)

// watchBuffer is how many changes wait for a reader of Watch before it gets a snapshot instead.
const watchBuffer = 64

// Watch sends the whole list, then each change, until ctx ends. While etcd is away it sends nothing; what the reader knows stays as good as
// it was. It fails where there is no list to begin with.
func (r *Registry) Watch(ctx context.Context) (<-chan discovery.Event, error) {
	f, err := r.list(ctx)
	if err != nil {
		return nil, away(ctx, err)
	}
	w := &watcher{r: r, out: make(chan discovery.Event), news: make(chan news)}
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		w.deliver(ctx, f)
	}()
	go w.follow(ctx, f.revision)
	return w.out, nil
}

// watcher is one Watch: follow reads etcd, deliver owns what is known of the fleet and the reader's queue, so that neither a slow reader
// nor a slow etcd holds the other up.
type watcher struct {
	r    *Registry
	out  chan discovery.Event
	news chan news
}

// news is a new list after a gap, or changes.
type news struct {
	list    *fleet
	changes []*clientv3.Event
}

// deliver hands events out until ctx ends.
func (w *watcher) deliver(ctx context.Context, f *fleet) {
	defer close(w.out)
	queue := []discovery.Event{f.snapshot()}
	for {
		var out chan<- discovery.Event
		var next discovery.Event
		if len(queue) > 0 {
			out, next = w.out, queue[0]
		}
		select {
		case <-ctx.Done():
			return
		case out <- next:
			queue = queue[1:]
		case n := <-w.news:
			if n.list != nil {
				f = n.list
				queue = []discovery.Event{f.snapshot()}
				continue
			}
			for _, change := range n.changes {
				if e, told := f.apply(change); told {
					queue = append(queue, e)
				}
			}
			if len(queue) > watchBuffer { // the reader fell behind
				queue = []discovery.Event{f.snapshot()}
			}
		}
	}
}

// follow reads changes behind revision, and the list again after whatever breaks that: compaction, a lost leader, a token that expired, a
// client that was dropped.
func (w *watcher) follow(ctx context.Context, revision int64) {
	for tries := 1; ; tries++ {
		began := time.Now()
		w.read(ctx, revision)
		if time.Since(began) > retryCap {
			tries = 1 // it worked for a while
		}
		if !sleep(ctx, pause(tries)) {
			return
		}
		f, err := w.r.list(ctx)
		if err != nil {
			revision = 0
			continue
		}
		w.r.counts.resyncs.Add(1)
		if !w.tell(ctx, news{list: f}) {
			return
		}
		revision = f.revision
	}
}

// read tells of changes until the watch breaks. Without a revision to begin at there is nothing to read.
func (w *watcher) read(ctx context.Context, revision int64) {
	if revision == 0 {
		return
	}
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	limited, got := context.WithTimeout(ctx, callTimeout)
	c, err := w.r.link.get(limited)
	got()
	if err != nil {
		return
	}
	for answer := range c.Watch(ctx, w.r.keys.instances(), clientv3.WithPrefix(), clientv3.WithRev(revision+1)) {
		if answer.Err() != nil || len(answer.Events) > 0 && !w.tell(ctx, news{changes: answer.Events}) {
			return
		}
	}
}

func (w *watcher) tell(ctx context.Context, n news) bool {
	select {
	case w.news <- n:
		return true
	case <-ctx.Done():
		return false
	}
}
