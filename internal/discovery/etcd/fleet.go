package etcd

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/inferno-serve/inferno/internal/discovery"
)

// fleet is what etcd holds of the instances. Values that are none are skipped: whoever may write there cannot make a reader fail.
type fleet struct {
	r        *Registry
	byKey    map[string]member
	revision int64 // of etcd
}

type member struct {
	instance discovery.Instance
	value    string // that it was read from
	lease    clientv3.LeaseID
}

// page is how many keys are read by one call: few calls for a fleet, and bounded memory for the largest values that etcd takes (1.5 MiB).
const page = 128

// list reads the whole fleet as of one revision.
func (r *Registry) list(ctx context.Context) (*fleet, error) {
	f := &fleet{r: r, byKey: map[string]member{}}
	from, end := r.keys.instances(), clientv3.GetPrefixRangeEnd(r.keys.instances())
	for more := true; more; {
		err := r.link.call(ctx, func(ctx context.Context, c *clientv3.Client) error {
			answer, err := c.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithRev(f.revision))
			if err != nil {
				return err
			}
			if f.revision == 0 {
				f.revision = answer.Header.Revision
			}
			for _, kv := range answer.Kvs {
				f.add(kv)
				from = string(kv.Key) + "\x00"
			}
			more = answer.More
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return f, nil
}

// add takes a value in, or skips it.
func (f *fleet) add(kv *mvccpb.KeyValue) (discovery.Instance, bool) {
	i, ok := f.r.keys.decode(kv.Key, kv.Value)
	if !ok {
		f.r.counts.skipped.Add(1)
		return i, false
	}
	f.byKey[string(kv.Key)] = member{i, string(kv.Value), clientv3.LeaseID(kv.Lease)}
	return i, true
}

const (
	leaseLooks   = 16                     // at a time: each is a call of its own, and etcd has others to answer
	leasesWithin = 500 * time.Millisecond // what is not known by then is not told: the list is worth more
)

// lookAtLeases asks etcd what is left of the members' leases. Renewals are no changes, of which a watch would tell.
func (f *fleet) lookAtLeases(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, leasesWithin)
	defer cancel()
	looks, limited := errgroup.WithContext(limited) // where one fails the others would fare no better
	looks.SetLimit(leaseLooks)
	var mu sync.Mutex // over f.byKey
	for key, m := range maps.Clone(f.byKey) {
		if m.lease == clientv3.NoLease {
			continue
		}
		looks.Go(func() error {
			_, left, err := f.r.timeToLive(limited, m.lease)
			if err != nil {
				return err
			}
			m.instance.LeaseLeft = max(left, time.Millisecond) // 0 means that there is none
			mu.Lock()
			defer mu.Unlock()
			f.byKey[key] = m
			return nil
		})
	}
	if err := looks.Wait(); err != nil && ctx.Err() == nil {
		f.r.o.Log.Debug("leases not known", "error", err)
	}
}

// apply is what a reader hears of a change: nothing where it changes nothing.
func (f *fleet) apply(e *clientv3.Event) (discovery.Event, bool) {
	key := string(e.Kv.Key)
	was, known := f.byKey[key]
	if e.Type == clientv3.EventTypePut {
		if known && was.value == string(e.Kv.Value) {
			return discovery.Event{}, false
		}
		if i, ok := f.add(e.Kv); ok {
			return discovery.Event{Put: &i}, true
		}
	}
	delete(f.byKey, key)
	return discovery.Event{RemovedID: was.instance.ID}, known
}

func (f *fleet) snapshot() discovery.Event {
	all := f.instances()
	return discovery.Event{Snapshot: &all}
}

func (f *fleet) instances() []discovery.Instance {
	all := make([]discovery.Instance, 0, len(f.byKey))
	for _, m := range f.byKey {
		all = append(all, m.instance)
	}
	slices.SortFunc(all, func(a, b discovery.Instance) int { return cmp.Compare(a.ID, b.ID) })
	return all
}
