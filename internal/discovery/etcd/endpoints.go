package etcd

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/inferno-serve/inferno/internal/discovery/record"
)

// Endpoint is where a model is served now, as its stock naming record says.
type Endpoint struct {
	Instance string // "" where another than Inferno wrote the record
	Address  string // "host:port" or "unix:///path"
	MaxBatch int    // requests that run at once; 0: not said
}

// maxBatchSaid bounds what a record may claim of itself: a stranger's must not draw all requests.
const maxBatchSaid = 1 << 16

// FollowEndpoints tells of the instances that serve model, by address: now, and after every change, until ctx ends. It is called by the
// reader's own goroutine, which tell runs on. A list that cannot be read is an error, told once a try; what was told before stays as good
// as it was. The list is read anew, each time with a deadline, after whatever breaks the watch.
func (r *Registry) FollowEndpoints(ctx context.Context, model string, tell func([]Endpoint, error)) {
	for tries := 1; ctx.Err() == nil; tries++ {
		l, err := r.listEndpoints(ctx, model)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			tell(nil, err)
		} else {
			tell(l.endpoints(), nil)
			began := time.Now()
			r.followEndpoints(ctx, model, l, tell)
			if time.Since(began) > retryCap {
				tries = 1 // it worked for a while
			}
			r.counts.resyncs.Add(1)
		}
		if !sleep(ctx, pause(tries)) {
			return
		}
	}
}

// endpointList is the endpoints of one model as of one revision of etcd.
type endpointList struct {
	r        *Registry
	byKey    map[string]Endpoint
	revision int64
}

func (r *Registry) listEndpoints(ctx context.Context, model string) (*endpointList, error) {
	l := &endpointList{r: r, byKey: map[string]Endpoint{}}
	from, end := r.keys.endpoints(model), clientv3.GetPrefixRangeEnd(r.keys.endpoints(model))
	for more := true; more; {
		err := r.link.call(ctx, func(ctx context.Context, c *clientv3.Client) error {
			answer, err := c.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithRev(l.revision))
			if err != nil {
				return err
			}
			if l.revision == 0 {
				l.revision = answer.Header.Revision
			}
			for _, kv := range answer.Kvs {
				l.put(string(kv.Key), kv.Value)
				from = string(kv.Key) + "\x00"
			}
			more = answer.More
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return l, nil
}

// followEndpoints returns when the watch breaks.
func (r *Registry) followEndpoints(ctx context.Context, model string, l *endpointList, tell func([]Endpoint, error)) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	limited, got := context.WithTimeout(ctx, callTimeout)
	c, err := r.link.get(limited)
	got()
	if err != nil {
		return
	}
	for answer := range c.Watch(ctx, r.keys.endpoints(model), clientv3.WithPrefix(), clientv3.WithRev(l.revision+1)) {
		if answer.Err() != nil {
			return
		}
		changed := false
		for _, e := range answer.Events {
			changed = l.apply(e) || changed
		}
		if changed {
			tell(l.endpoints(), nil)
		}
	}
}

// apply reports whether e changes the list.
func (l *endpointList) apply(e *clientv3.Event) bool {
	key := string(e.Kv.Key)
	was, known := l.byKey[key]
	if e.Type == clientv3.EventTypePut && l.put(key, e.Kv.Value) {
		return !known || was != l.byKey[key]
	}
	delete(l.byKey, key)
	return known
}

// put takes a record in, or skips it: whoever may write there cannot make a reader fail.
func (l *endpointList) put(key string, value []byte) bool {
	e, err := decodeEndpoint(value)
	if err != nil {
		l.r.counts.skipped.Add(1)
		return false
	}
	l.byKey[key] = e
	return true
}

// decodeEndpoint reads a record of etcd's naming package, whoever wrote it; its metadata, as far as it is ours.
func decodeEndpoint(value []byte) (Endpoint, error) {
	if len(value) > record.MaxBytes {
		return Endpoint{}, fmt.Errorf("record of %d bytes, want at most %d", len(value), record.MaxBytes)
	}
	var stock struct {
		Op       int
		Addr     string
		Metadata json.RawMessage
	}
	if err := json.Unmarshal(value, &stock); err != nil {
		return Endpoint{}, err
	}
	if stock.Op != 0 {
		return Endpoint{}, fmt.Errorf("field Op is %d, want 0", stock.Op)
	}
	if len(stock.Addr) > record.MaxText {
		return Endpoint{}, fmt.Errorf("field Addr has %d bytes, want at most %d", len(stock.Addr), record.MaxText)
	}
	if err := record.CheckAddress(stock.Addr); err != nil {
		return Endpoint{}, err
	}
	var about metadata
	if strings.HasPrefix(string(stock.Metadata), "{") {
		if err := json.Unmarshal(stock.Metadata, &about); err != nil {
			return Endpoint{}, fmt.Errorf("field Metadata: %w", err)
		}
	}
	if about.MaxBatch < 0 || about.MaxBatch > maxBatchSaid {
		return Endpoint{}, fmt.Errorf("field Metadata.max_batch is %d, want 0 to %d", about.MaxBatch, maxBatchSaid)
	}
	if len(about.Instance) > record.MaxText {
		return Endpoint{}, fmt.Errorf("field Metadata.instance has %d bytes, want at most %d", len(about.Instance), record.MaxText)
	}
	return Endpoint{Instance: about.Instance, Address: stock.Addr, MaxBatch: about.MaxBatch}, nil
}

// endpoints is the list by address, each address once: two records of one place do not make it two places.
func (l *endpointList) endpoints() []Endpoint {
	all := make([]Endpoint, 0, len(l.byKey))
	for _, e := range l.byKey {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b Endpoint) int {
		return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.Instance, b.Instance), cmp.Compare(a.MaxBatch, b.MaxBatch))
	})
	return slices.CompactFunc(all, func(a, b Endpoint) bool { return a.Address == b.Address })
}
