package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"time"

	"google.golang.org/grpc/resolver"

	"github.com/inferno-serve/inferno/client/internal/balance"
	"github.com/inferno-serve/inferno/internal/discovery/etcd"
)

// Etcd says how to reach the registry of an "inferno:///" target, beside its addresses, which the target names.
type Etcd struct {
	// TLS secures the connection. Nil means plain text, or for https:// addresses the system's certificates.
	TLS *tls.Config
	// Credentials is asked before each connection, so that a new password needs no restart. Nil means none.
	Credentials func() (user, password string, err error)
}

func (e Etcd) secret() (etcd.Secret, error) {
	s := etcd.Secret{TLS: e.TLS}
	if e.Credentials == nil {
		return s, nil
	}
	var err error
	s.User, s.Password, err = e.Credentials()
	return s, err
}

// registryLease is what the registry's reader would register for; it registers nothing.
const registryLease = 10 * time.Second

// builder makes the resolvers of one client: gRPC makes one anew whenever a channel wakes from idleness.
type builder struct {
	lookup lookup
	access Etcd
}

func (builder) Scheme() string { return scheme }

// target is what gRPC is given: the rest of it is in lookup.
func (b builder) target() string { return scheme + ":///" + url.PathEscape(b.lookup.model) }

// Build starts to follow the registry. It waits for nothing.
func (b builder) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	registry, err := etcd.Open(etcd.Options{
		Endpoints: b.lookup.etcd, Prefix: b.lookup.prefix, LeaseTTL: registryLease, Secret: b.access.secret,
		Log: slog.New(slog.DiscardHandler), // what goes wrong is the calls' error
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &follower{model: b.lookup.model, cc: cc, registry: registry, cancel: cancel}
	r.running.Go(func() { registry.FollowEndpoints(ctx, b.lookup.model, r.tell) })
	return r, nil
}

// follower is the resolver: it hands the registry's list on as it changes. One goroutine runs tell.
type follower struct {
	model    string
	cc       resolver.ClientConn
	registry *etcd.Registry
	cancel   context.CancelFunc
	running  sync.WaitGroup
	told     bool // of a list that was not empty
}

// tell hands a list on. A registry that is away, or that has lost every instance at once, takes no replica from the client: the last list
// stays, and whether its replicas serve is for the connections to find out.
func (f *follower) tell(all []etcd.Endpoint, err error) {
	if err != nil {
		if !f.told {
			f.cc.ReportError(fmt.Errorf("the registry does not answer: %w", err))
		}
		return
	}
	if len(all) == 0 && f.told {
		return
	}
	endpoints := make([]resolver.Endpoint, 0, len(all))
	addresses := make([]resolver.Address, 0, len(all)) // the same, for gRPC's keeper of connections
	for _, e := range all {
		host, _, _ := net.SplitHostPort(e.Address) // fails for a Unix socket, whose certificate is for no host
		address := resolver.Address{Addr: e.Address, ServerName: host}
		endpoints = append(endpoints, balance.Endpoint(address, e.MaxBatch))
		addresses = append(addresses, address)
	}
	if len(endpoints) == 0 {
		f.cc.ReportError(fmt.Errorf("no instance serves model %q", f.model))
		return
	}
	f.told = true
	_ = f.cc.UpdateState(resolver.State{Endpoints: endpoints, Addresses: addresses}) // an error asks to resolve again, which goes on anyway
}

// ResolveNow does nothing: changes are followed as they happen.
func (*follower) ResolveNow(resolver.ResolveNowOptions) {}

// Close ends the following and waits for it.
func (f *follower) Close() {
	f.cancel()
	f.running.Wait()
	_ = f.registry.Close() // it was read from alone
}
