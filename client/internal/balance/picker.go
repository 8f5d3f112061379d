package balance

import (
	"cmp"
	"context"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"time"

	"google.golang.org/grpc/balancer"
)

// member is a replica and its weight at the time of the picker.
type member struct {
	*replica
	weight float64
	hash   uint64 // of the address
}

// picker is a snapshot of the replicas that are connected; what changes with each call is in the replicas themselves.
type picker struct {
	members  []member  // by address
	upTo     []float64 // [members] sum of the weights up to and with each
	affinity bool
}

func newPicker(all []member, affinity bool) *picker {
	slices.SortFunc(all, func(a, b member) int { return cmp.Compare(a.address, b.address) })
	p := &picker{members: all, upTo: make([]float64, len(all)), affinity: affinity}
	sum := 0.0
	for i := range all {
		all[i].hash = hash(all[i].address)
		sum += all[i].weight
		p.upTo[i] = sum
	}
	return p
}

func (p *picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	now := time.Now()
	var m *member
	if key, ok := info.Ctx.Value(keyOfCall{}).(uint64); ok && p.affinity {
		m = p.kept(key, now)
	} else {
		m = p.leastLoaded(now)
	}
	return balancer.PickResult{SubConn: m.sc, Done: m.begin()}, nil
}

// leastLoaded is the less loaded of two, drawn by weight.
func (p *picker) leastLoaded(now time.Time) *member {
	a, b := p.draw(now), p.draw(now)
	requestsA, kvA := a.load(now)
	requestsB, kvB := b.load(now)
	// Where both are as busy, it is the turn of the one that was picked less often: two idle replicas share calls by weight.
	less := cmp.Or(
		cmp.Compare(requestsA/a.weight+kvA, requestsB/b.weight+kvB),
		cmp.Compare(float64(a.picked.Load())/a.weight, float64(b.picked.Load())/b.weight),
	)
	if less <= 0 {
		return a
	}
	return b
}

// draws is how often chance may hit a replica that is not usable, before all are looked at.
const draws = 4

// draw is a usable member by weight, or any where none is usable.
func (p *picker) draw(now time.Time) *member {
	var m *member
	for range draws {
		if m = p.any(); m.usable(now) {
			return m
		}
	}
	begin := rand.IntN(len(p.members))
	for i := range p.members {
		if other := &p.members[(begin+i)%len(p.members)]; other.usable(now) {
			return other
		}
	}
	return m
}

func (p *picker) any() *member {
	at := rand.Float64() * p.upTo[len(p.upTo)-1]
	i := sort.Search(len(p.upTo), func(i int) bool { return p.upTo[i] > at })
	return &p.members[min(i, len(p.members)-1)]
}

// slack is how much more than its share of all requests a replica may have before keys that belong to it go elsewhere.
const slack = 0.25

// kept is the member that key belongs to: the first, in an order that depends on key and address alone (rendezvous hashing by weight),
// that is usable and has no more than its share. So a replica that comes or goes moves the keys of one replica alone.
func (p *picker) kept(key uint64, now time.Time) *member {
	var requests, weight float64
	for i := range p.members {
		if m := &p.members[i]; m.usable(now) {
			n, _ := m.load(now)
			requests += n
			weight += m.weight
		}
	}
	var best *member
	highest := math.Inf(-1)
	for i := range p.members {
		m := &p.members[i]
		if !m.usable(now) {
			continue
		}
		n, _ := m.load(now)
		if share := (requests + 1) * m.weight / weight; n+1 > math.Ceil(share*(1+slack)) {
			continue
		}
		if score := -m.weight / math.Log(unit(mix(key^m.hash))); score > highest {
			best, highest = m, score
		}
	}
	if best == nil { // no replica is usable, or loads changed under the sum
		return p.leastLoaded(now)
	}
	return best
}

// unit maps h into (0, 1).
func unit(h uint64) float64 { return (float64(h>>11) + 0.5) / (1 << 53) }

// mix spreads the bits of h (the finalizer of MurmurHash3): addresses and keys may differ in few.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

type keyOfCall struct{}

// WithKey is a context whose calls are kept with all calls of the same key, in every process.
func WithKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, keyOfCall{}, hash(key))
}

// HasKey tells whether the calls of ctx have a key.
func HasKey(ctx context.Context) bool {
	_, ok := ctx.Value(keyOfCall{}).(uint64)
	return ok
}

func hash(text string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text)) // never fails
	return mix(h.Sum64())
}
