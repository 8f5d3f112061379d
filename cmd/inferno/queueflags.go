package main

import (
	"context"

	"google.golang.org/grpc/metadata"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// queueFlags are a request's place among others, and what it shares with them.
type queueFlags struct {
	Tenant      string `help:"Whom the request is made for: sent as the metadata x-inferno-tenant."`
	Priority    *int32 `help:"Order in the tenant's queue, -100 to 100: higher goes first."`
	CacheSalt   string `placeholder:"SALT" help:"Share the prefix cache only with requests of the same salt."`
	BypassCache bool   `help:"Neither use nor fill the prefix cache."`
}

// queue adds them to a request, and to the context of its call.
func (f *queueFlags) queue(ctx context.Context, req *infernov1.GenerateRequest) context.Context {
	req.Priority = f.Priority
	if f.CacheSalt != "" || f.BypassCache {
		req.Cache = &infernov1.CacheOptions{Salt: f.CacheSalt}
		if f.BypassCache {
			req.Cache.Bypass = &f.BypassCache
		}
	}
	if f.Tenant == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "x-inferno-tenant", f.Tenant)
}
