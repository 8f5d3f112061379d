// Package balance spreads the calls of one gRPC channel over the replicas of a model. Of two replicas, drawn by their weights, a call goes
// to the less loaded one: by what the channel itself has under way there, and by what the replica reports (ORCA: with the trailer of each
// call, and on a stream beside them). Replicas that drain, that failed a call a moment ago, or whose reports have stopped get none while
// there are others. Calls with a key may be kept together: the same key goes to the same replica, until that one has more than its share.
//
// gRPC calls the balancer under a lock of its own; picks run on the goroutines of the calls, and read a snapshot.
package balance

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	_ "google.golang.org/grpc/health" // lets the channel ask replicas for their health
	"google.golang.org/grpc/orca"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"
)

// Name is the balancer's, in a service config: {"loadBalancingConfig": [{"inferno_least_loaded": {"affinity": true}}]}.
const Name = "inferno_least_loaded"

// reportEvery is how often replicas are asked to report.
const reportEvery = 250 * time.Millisecond

// Registered is true: gRPC knows balancers by one table, which is written at the start of a program alone.
var Registered = register()

func register() bool {
	balancer.Register(builder{})
	return true
}

// config is the balancer's part of a service config.
type config struct {
	serviceconfig.LoadBalancingConfig `json:"-"`

	Affinity bool `json:"affinity"`
}

type weightKey struct{}

// Endpoint is a replica at an address that can do so much, in requests at once. One without a weight, of another resolver, counts as 1.
func Endpoint(a resolver.Address, weight int) resolver.Endpoint {
	return resolver.Endpoint{Addresses: []resolver.Address{a}, Attributes: attributes.New(weightKey{}, weight)}
}

func weightOf(e resolver.Endpoint) float64 {
	weight, _ := e.Attributes.Value(weightKey{}).(int)
	return float64(max(weight, 1))
}

type builder struct{}

func (builder) Name() string { return Name }

func (builder) Build(cc balancer.ClientConn, o balancer.BuildOptions) balancer.Balancer {
	f := &fleet{replicas: map[balancer.SubConn]*replica{}, weights: map[string]float64{}}
	return &leastLoaded{Balancer: base.NewBalancerBuilder(Name, f, base.Config{HealthCheck: true}).Build(cc, o), fleet: f}
}

func (builder) ParseConfig(text json.RawMessage) (serviceconfig.LoadBalancingConfig, error) {
	c := &config{}
	if err := json.Unmarshal(text, c); err != nil {
		return nil, fmt.Errorf("%s: %w", Name, err)
	}
	return c, nil
}

// leastLoaded is gRPC's own keeper of connections, with an ear for what the resolver says beside addresses.
type leastLoaded struct {
	balancer.Balancer
	fleet *fleet
}

func (b *leastLoaded) UpdateClientConnState(s balancer.ClientConnState) error {
	b.fleet.configure(s)
	return b.Balancer.UpdateClientConnState(s)
}

func (b *leastLoaded) Close() {
	b.fleet.close()
	b.Balancer.Close()
}

// fleet makes a picker whenever a connection has come up or gone.
type fleet struct {
	mu       sync.Mutex
	affinity bool
	weights  map[string]float64 // by address
	replicas map[balancer.SubConn]*replica
}

func (f *fleet) configure(s balancer.ClientConnState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c, ok := s.BalancerConfig.(*config); ok {
		f.affinity = c.Affinity
	}
	clear(f.weights)
	for _, e := range s.ResolverState.Endpoints {
		for _, a := range e.Addresses {
			f.weights[a.Addr] = weightOf(e)
		}
	}
}

// Build is called with all connections that are ready and whose servers say that they serve.
func (f *fleet) Build(info base.PickerBuildInfo) balancer.Picker {
	f.mu.Lock()
	defer f.mu.Unlock()
	for sc, r := range f.replicas {
		if _, ready := info.ReadySCs[sc]; !ready {
			r.stop()
			delete(f.replicas, sc)
		}
	}
	if len(info.ReadySCs) == 0 {
		return base.NewErrPicker(balancer.ErrNoSubConnAvailable)
	}
	turn := f.turn()
	for sc, at := range info.ReadySCs {
		if f.replicas[sc] == nil {
			r := newReplica(sc, at.Address.Addr)
			r.picked.Store(int64(turn * f.weight(r)))
			r.stop = orca.RegisterOOBListener(sc, r, orca.OOBListenerOptions{ReportInterval: reportEvery})
			f.replicas[sc] = r
		}
	}
	all := make([]member, 0, len(f.replicas))
	for _, r := range f.replicas {
		all = append(all, member{replica: r, weight: f.weight(r)})
	}
	return newPicker(all, f.affinity)
}

func (f *fleet) weight(r *replica) float64 { return max(f.weights[r.address], 1) }

// turn is how often a replica has been picked for each unit of weight, on average. A newcomer begins there: it has nothing to catch up on.
func (f *fleet) turn() float64 {
	var picked, weight float64
	for _, r := range f.replicas {
		picked += float64(r.picked.Load())
		weight += f.weight(r)
	}
	if weight == 0 {
		return 0
	}
	return picked / weight
}

func (f *fleet) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.replicas {
		r.stop()
	}
	clear(f.replicas)
}
