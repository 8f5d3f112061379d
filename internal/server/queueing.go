package server

import (
	"context"

	"google.golang.org/grpc/metadata"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// tenantKey is the metadata that says for whom a call is made. Nobody vouches for it: a proxy that knows its clients sets it. Where the server
// knows callers, each is a tenant, and one that the access file lets name tenants has them to itself.
const tenantKey = "x-inferno-tenant"

const (
	maxTenantLen = 128
	maxSaltLen   = 128
)

// queueing checks what a request says of its place in the queue and of the prefix cache.
func (f *faults) queueing(req *infernov1.GenerateRequest) {
	if p := req.GetPriority(); p < -engine.MaxPriority || p > engine.MaxPriority {
		f.add("priority", "is %d, want %d to %d", p, -engine.MaxPriority, engine.MaxPriority)
	}
	if n := len(req.GetCache().GetSalt()); n > maxSaltLen {
		f.add("cache.salt", "has %d bytes, want at most %d", n, maxSaltLen)
	}
}

// tenant is whom a call is made for; empty where nobody is named or known.
func (f *faults) tenant(ctx context.Context) string {
	values := metadata.ValueFromIncomingContext(ctx, tenantKey)
	caller, known := callerOf(ctx)
	switch {
	case len(values) == 0:
		return ownerOf(ctx)
	case known && !caller.NamesTenants:
		f.add(tenantKey, "is given, want none: the access file does not let this caller name tenants (names_tenants)")
	case len(values) > 1:
		f.add(tenantKey, "is given %d times in the metadata, want once", len(values))
	case len(values[0]) > maxTenantLen:
		f.add(tenantKey, "has %d bytes, want at most %d", len(values[0]), maxTenantLen)
	}
	if known {
		return caller.Key + "\x00" + values[0]
	}
	return values[0]
}

func cacheOf(o *infernov1.CacheOptions) engine.Cache {
	return engine.Cache{Salt: o.GetSalt(), Bypass: o.GetBypass()}
}
