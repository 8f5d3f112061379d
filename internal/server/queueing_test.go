package server

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Tenant, priority and what the cache may do reach the engine, of every call that computes.
func TestTheEngineHearsWhoAsksAndHow(t *testing.T) {
	s := newScript()
	s.begin = func(r *scripted) {
		r.parts <- part{finish: &engine.Finish{Reason: engine.PromptDone, Token: -1, Vector: []float32{1}}}
	}
	f := start(t, s)
	type heard struct {
		tenant   string
		priority int
		cache    engine.Cache
	}
	for name, c := range map[string]struct {
		metadata []string
		call     func(ctx context.Context) error
		want     heard
	}{
		"nothing": {call: f.generates(t, `model:"m" text:"hi"`)},
		"everything": {
			[]string{tenantKey, "acme"}, f.generates(t, `model:"m" text:"hi" priority:-7 cache{salt:"s" bypass:true}`),
			heard{"acme", -7, engine.Cache{Salt: "s", Bypass: true}},
		},
		"a tenant of 128 bytes": {
			[]string{tenantKey, strings.Repeat("t", 128)}, f.generates(t, `model:"m" text:"hi" cache{}`), heard{tenant: strings.Repeat("t", 128)},
		},
		"Embed": {[]string{tenantKey, "acme"}, func(ctx context.Context) error {
			_, err := f.api.Embed(ctx, parse(t, `model:"m" inputs{text:"hi"}`, &infernov1.EmbedRequest{}))
			return err
		}, heard{tenant: "acme"}},
		"Score": {[]string{tenantKey, "acme"}, func(ctx context.Context) error {
			_, err := f.api.Score(ctx, parse(t, `model:"m" tokens:false inputs{text:"hi"}`, &infernov1.ScoreRequest{}))
			return err
		}, heard{tenant: "acme"}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.call(metadata.AppendToOutgoingContext(t.Context(), c.metadata...)); err != nil {
				t.Fatal(err)
			}
			r := <-s.requests
			if got := (heard{r.Tenant, r.Priority, r.Cache}); got != c.want {
				t.Errorf("the engine heard %+v, want %+v", got, c.want)
			}
		})
	}
}

func (f *fixture) generates(t *testing.T, request string) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		_, err := f.api.Generate(ctx, parse(t, request, &infernov1.GenerateRequest{}))
		return err
	}
}

func TestBadTenantsAreRefused(t *testing.T) {
	f := start(t, newScript())
	for name, c := range map[string]struct {
		values []string
		says   string
	}{
		"129 bytes": {[]string{strings.Repeat("t", 129)}, "has 129 bytes, want at most 128"},
		"two":       {[]string{"a", "b"}, "is given 2 times"},
	} {
		ctx := t.Context()
		for _, v := range c.values {
			ctx = metadata.AppendToOutgoingContext(ctx, tenantKey, v)
		}
		_, generate := f.api.Generate(ctx, parse(t, `model:"m" text:"hi"`, &infernov1.GenerateRequest{}))
		_, embed := f.api.Embed(ctx, parse(t, `model:"m" inputs{text:"hi"}`, &infernov1.EmbedRequest{}))
		for _, err := range []error{generate, embed} {
			found := faultsOf(wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD"))
			if !strings.Contains(found[tenantKey], c.says) {
				t.Errorf("%s: violations %q, want one that says %q", name, found, c.says)
			}
		}
	}
}
