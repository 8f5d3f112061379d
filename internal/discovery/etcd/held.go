package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/inferno-serve/inferno/internal/discovery"
	"github.com/inferno-serve/inferno/internal/discovery/record"
)

// held is a registration as it stands in etcd. It belongs to one goroutine.
type held struct {
	lease      clientv3.LeaseID
	ttl        time.Duration // as etcd granted it, which may be more than was asked for
	renewed    time.Time     // the last answer to a renewal
	unanswered bool          // there was no client, or no answer to renewals: the reason until there is one
	generation uint64

	values   map[string]string // by key, all that etcd may hold of ours
	revision int64             // of etcd when it last held just that
	doubt    bool              // it may hold something else
}

// seen is what an instance's key holds.
type seen struct {
	store    int64 // etcd's revision
	modified int64 // the key's; 0: there is no key
	lease    clientv3.LeaseID
	owner    discovery.Instance // as far as the value can be read
	foreign  bool               // a lease that lives is not ours to break; what has none was put by hand
}

func (s seen) duplicate(id string) error {
	where := "by a value that is not Inferno's"
	if s.owner.ID != "" {
		where = fmt.Sprintf("at %s since %s", s.owner.Address, s.owner.StartTime.Format(time.RFC3339))
	}
	return fmt.Errorf("instance id %q: %w, %s", id, discovery.ErrDuplicate, where)
}

func (r *Registry) look(ctx context.Context, i discovery.Instance) (seen, error) {
	var s seen
	err := r.link.call(ctx, func(ctx context.Context, c *clientv3.Client) error {
		answer, err := c.Get(ctx, r.keys.instance(i.ID))
		if err != nil {
			return err
		}
		if len(answer.Kvs) > 0 {
			s = r.see(answer.Kvs[0], i)
		}
		s.store = answer.Header.Revision
		return nil
	})
	return s, err
}

func (r *Registry) see(kv *mvccpb.KeyValue, i discovery.Instance) seen {
	s := seen{modified: kv.ModRevision, lease: clientv3.LeaseID(kv.Lease)}
	ours := false
	if owner, ok := r.keys.decode(kv.Key, kv.Value); ok {
		s.owner = owner
		ours = record.Same(owner, i)
	}
	s.foreign = s.lease != clientv3.NoLease && !ours
	return s
}

// revoke ends a lease and all keys under it. One that has ended already is no failure.
func (r *Registry) revoke(ctx context.Context, lease clientv3.LeaseID) error {
	err := r.link.call(ctx, func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.Revoke(ctx, lease)
		return err
	})
	if leaseGone(err) {
		return nil
	}
	return err
}

// establish makes a lease and puts i under it. Its generation is larger than any before, of this process or another.
func (r *Registry) establish(ctx context.Context, i discovery.Instance, last uint64) (*held, error) {
	s, err := r.look(ctx, i)
	if err != nil {
		return nil, err
	}
	if s.foreign {
		return nil, s.duplicate(i.ID)
	}
	h := &held{generation: max(last+1, uint64(s.store)), renewed: time.Now(), values: map[string]string{}}
	err = r.link.call(ctx, func(ctx context.Context, c *clientv3.Client) error {
		lease, err := c.Grant(ctx, int64(r.o.LeaseTTL/time.Second))
		if err == nil {
			h.lease, h.ttl = lease.ID, time.Duration(lease.TTL)*time.Second
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := r.put(ctx, h, i, unchanged(r.keys.instance(i.ID), s.modified)); err != nil {
		_ = r.revoke(context.WithoutCancel(ctx), h.lease) // else it ends by itself
		return nil, err
	}
	return h, nil
}

// errMoved means that somebody else wrote in between.
var errMoved = errors.New("the instance's key changed meanwhile")

// settle has etcd hold i: by one write where it holds what was last put, and after a look where that is in doubt. Where another process
// has taken the id, the error wraps discovery.ErrDuplicate.
func (r *Registry) settle(ctx context.Context, h *held, i discovery.Instance) error {
	key := r.keys.instance(i.ID)
	if !h.doubt {
		err := r.put(ctx, h, i, clientv3.Compare(clientv3.LeaseValue(key), "=", h.lease))
		if !errors.Is(err, errMoved) {
			return err
		}
		h.doubt = true
	}
	s, err := r.compare(ctx, h, i)
	if err != nil {
		return err
	}
	if s.foreign {
		h.doubt = true
		return s.duplicate(i.ID)
	}
	return r.put(ctx, h, i, unchanged(key, s.modified))
}

func unchanged(key string, modified int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(key), "=", modified)
}

// put writes what differs from what etcd holds, if the guard allows.
func (r *Registry) put(ctx context.Context, h *held, i discovery.Instance, guard clientv3.Cmp) error {
	i.Generation = h.generation
	values, err := r.keys.encode(i)
	if err != nil {
		return err
	}
	var writes []clientv3.Op
	for key, value := range values {
		if h.values[key] != value {
			writes = append(writes, clientv3.OpPut(key, value, clientv3.WithLease(h.lease)))
		}
	}
	for key := range h.values {
		if _, wanted := values[key]; !wanted {
			writes = append(writes, clientv3.OpDelete(key))
		}
	}
	if len(writes) == 0 {
		return nil
	}
	var revision int64
	err = r.link.call(ctx, func(ctx context.Context, c *clientv3.Client) error {
		answer, err := c.Txn(ctx).If(guard).Then(writes...).Commit()
		switch {
		case err != nil:
			return err
		case !answer.Succeeded:
			return errMoved
		}
		revision = answer.Header.Revision
		return nil
	})
	if err != nil {
		h.doubt = true // it may have been done
		for key := range values {
			h.values[key] = "" // is there or not, as this or as before
		}
		return err
	}
	h.values, h.revision, h.doubt = values, revision, false
	return nil
}

// compare looks at all keys that may be there and keeps in h.values what etcd holds of them, as ours, for put to write the rest.
func (r *Registry) compare(ctx context.Context, h *held, i discovery.Instance) (seen, error) {
	key := r.keys.instance(i.ID)
	gets := []clientv3.Op{clientv3.OpGet(key)}
	for other := range h.values {
		if other != key {
			gets = append(gets, clientv3.OpGet(other))
		}
	}
	var s seen
	err := r.link.call(ctx, func(ctx context.Context, c *clientv3.Client) error {
		answer, err := c.Txn(ctx).Then(gets...).Commit()
		if err != nil {
			return err
		}
		there := map[string]string{}
		for n, part := range answer.Responses {
			for _, kv := range part.GetResponseRange().GetKvs() {
				if n == 0 {
					s = r.see(kv, i)
				}
				there[string(kv.Key)] = ""
				if clientv3.LeaseID(kv.Lease) == h.lease {
					there[string(kv.Key)] = string(kv.Value)
				}
			}
		}
		s.store = answer.Header.Revision
		h.values, h.revision, h.doubt = there, s.store, false
		return nil
	})
	return s, err
}
