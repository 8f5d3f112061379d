package etcd

import (
	"context"
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/inferno-serve/inferno/internal/discovery"
)

// A reader that falls behind hears of the latest of everybody, and of no more than fits the queue.
func TestSlowWatcherGetsASnapshotInstead(t *testing.T) {
	r := &Registry{keys: keys{"p"}}
	w := &watcher{r: r, out: make(chan discovery.Event), news: make(chan news)}
	ctx, cancel := context.WithCancel(t.Context())
	go w.deliver(ctx, &fleet{r: r, byKey: map[string]member{}})
	const instances = 500
	for round := range 2 {
		for n := range instances { // each is taken before the next, as news has no buffer
			id := fmt.Sprint("i", n)
			value := fmt.Sprintf(`{"id":%q,"address":"h:1","generation":"%d"}`, id, round+1)
			w.news <- news{changes: []*clientv3.Event{{
				Type: clientv3.EventTypePut, Kv: &mvccpb.KeyValue{Key: []byte(r.keys.instance(id)), Value: []byte(value)},
			}}}
		}
	}
	known := map[string]uint64{} // generation by id
	current, events, snapshots := 0, 0, 0
	learn := func(i discovery.Instance) {
		if i.Generation == 2 && known[i.ID] != 2 {
			current++
		}
		known[i.ID] = i.Generation
	}
	for current < instances {
		e := <-w.out
		events++
		switch {
		case e.Put != nil:
			learn(*e.Put)
		case e.Snapshot != nil:
			snapshots++
			for _, i := range *e.Snapshot {
				learn(i)
			}
		}
	}
	if snapshots != 1 || events > 1+watchBuffer {
		t.Errorf("%d events, %d of them snapshots, want one and at most %d changes behind it", events, snapshots, watchBuffer)
	}
	cancel()
	if _, open := <-w.out; open {
		t.Error("an event after the last")
	}
}
