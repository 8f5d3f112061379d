package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/inferno-serve/inferno/internal/auth"
	"github.com/inferno-serve/inferno/internal/auth/authtest"
	"github.com/inferno-serve/inferno/internal/discovery"
	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// identity is a line of an access file; its token is the name.
func identity(name, roles, more string) string { return identityBy(name, name, roles, more) }

func identityBy(name, token, roles, more string) string {
	hash := sha256.Sum256([]byte(token))
	return fmt.Sprintf("  - {name: %s, roles: [%s], tokens: ['sha256:%s']%s}\n", name, roles, hex.EncodeToString(hash[:]), more)
}

// withAccess has a server ask who calls.
func withAccess(t testing.TB, lines ...string) func(*Options) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "access.yaml")
	authtest.Write(t, path, []byte("identities:\n"+strings.Join(lines, "")))
	access, err := auth.OpenAccess(auth.AccessOptions{File: path, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return func(o *Options) { o.Access = access }
}

func as(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// registered are all methods of a server, by path.
func (f *fixture) registered() (all []string) {
	for service, info := range f.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			all = append(all, "/"+service+"/"+m.Name)
		}
	}
	slices.Sort(all)
	return all
}

// A method without a rule was reached by everybody, in other servers; here the build fails. CVE-2026-24206, CVE-2026-24207, CVE-2026-47481,
// CVE-2026-24254.
func TestEveryMethodHasARule(t *testing.T) {
	f := start(t, newScript(), func(o *Options) { o.Load = func() discovery.Load { return discovery.Load{} } }) // with all services there are
	all := f.registered()
	for _, method := range all {
		if _, ruled := methodRoles[method]; !ruled {
			t.Errorf("%s has no rule: add it to methodRoles, and say in docs/security.md who may call it", method)
		}
	}
	for method := range methodRoles {
		if !slices.Contains(all, method) {
			t.Errorf("%s has a rule, and no server has it", method)
		}
	}
}

// TestSecurityPageTellsTheRoles: the table of docs/security.md and that of the code say the same.
func TestSecurityPageTellsTheRoles(t *testing.T) {
	text, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(health|infer|read|admin)` \\| (.*) \\|$").FindAllStringSubmatch(string(text), -1) {
		rows[m[1]] = m[2]
	}
	names := regexp.MustCompile(`/(?:.*\.)?(\w+)/(\w+)$`)
	for method, role := range methodRoles {
		m := names.FindStringSubmatch(method)
		for name, row := range rows {
			told := strings.Contains(row, m[1]+"/*`") || strings.Contains(row, "`"+m[1]+"/") && strings.Contains(row, m[2]+"`")
			if told != (name == fmt.Sprint(role)) {
				t.Errorf("%s takes %v; the page has it in the row of %s: %v", method, role, name, told)
			}
		}
	}
	if len(rows) != 4 {
		t.Errorf("%d rows, want 4", len(rows))
	}
}

// empty makes a call with an empty message and returns what it is answered: nil for a message or an end.
func (f *fixture) empty(ctx context.Context, method string) error {
	f.t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := f.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&emptypb.Empty{}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if err := stream.RecvMsg(&emptypb.Empty{}); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// Calls that load, and others meant for few, were open to all. CVE-2025-63389, CVE-2023-31036, CVE-2024-0087.
func TestPathMatrix(t *testing.T) {
	roles := []auth.Role{auth.Health, auth.Infer, auth.Read, auth.Admin}
	var lines []string
	for _, r := range roles {
		lines = append(lines, identity(r.String(), r.String(), ""))
	}
	lines = append(lines, identity("all", "health, infer, read, admin", ""))
	s := newScript()
	f := start(t, s, withAccess(t, lines...))
	cells := 0
	for _, method := range f.registered() {
		want := methodRoles[method]
		for _, r := range roles {
			err := f.empty(as(t.Context(), r.String()), method)
			denied := status.Code(err) == codes.PermissionDenied
			if denied == (r == want) || status.Code(err) == codes.Unauthenticated {
				t.Errorf("%s as %v: %v, and it takes %v", method, r, err, want)
			}
			if denied {
				wantStatus(t, err, codes.PermissionDenied, "ROLE_MISSING")
			}
			cells++
		}
		if err := f.empty(as(t.Context(), "all"), method); status.Code(err) == codes.PermissionDenied || status.Code(err) == codes.Unauthenticated {
			t.Errorf("%s with every role: %v", method, err)
		}
		for name, ctx := range map[string]context.Context{
			"nobody": t.Context(), "an unknown token": as(t.Context(), "unknown"), "two tokens": as(as(t.Context(), "all"), "all"),
			"a token elsewhere": metadata.AppendToOutgoingContext(t.Context(), "x-authorization", "Bearer all", "token", "all", "cookie", "authorization=Bearer all"),
			"a binary header":   metadata.AppendToOutgoingContext(t.Context(), "authorization-bin", "Bearer all"),
		} {
			err := f.empty(ctx, method)
			if s := status.Convert(err); s.Code() != codes.Unauthenticated || reasonOf(s) != "UNAUTHENTICATED" || s.Message() != "no valid credentials" {
				t.Errorf("%s as %s: %v, want UNAUTHENTICATED and no more", method, name, err)
			}
			cells++
		}
	}
	if len(s.requests) > 0 {
		t.Errorf("the engine got %d requests", len(s.requests))
	}
	t.Logf("%d cells", cells)
}

// Paths that only look like those of methods came past the rules of other servers. CVE-2026-33186.
func TestNoOtherPathReachesAMethod(t *testing.T) {
	s := play(part{ids: []int32{'x'}, finish: finished(engine.MaxTokens, 'x')})
	f := start(t, s, withAccess(t, identity("health", "health", "")))
	const path = "inferno.v1.InferenceService/Generate"
	raw := f.rawConn()
	for _, p := range []string{
		path, "//" + path, "/" + path + "/", "/" + path + "//", "/./" + path, "/x/../" + path, "/" + strings.ToUpper(path), "/" + strings.ToLower(path),
		"/inferno.v1.InferenceService/generate", "/inferno.v1.InferenceService//Generate", "/inferno.v1.InferenceService%2fGenerate",
		"/inferno%2ev1.InferenceService/Generate", "/%69nferno.v1.InferenceService/Generate", "/" + path + "?x=1", "/" + path + "#x", "/" + path + ";x",
		"/" + path + "\x00", "/" + path + " ", " /" + path, "\t/" + path, "/inferno.v1.InferenceService\\Generate", "\\" + path,
		"http://x/" + path, "/grpc.health.v1.Health/Check/../../" + path, "/grpc.health.v1.Health/Check/" + path, "*", "/", "",
		"/inferno.v1.InferenceServicе/Generate", "/.inferno.v1.InferenceService/Generate", "/inferno.v1.InferenceService.Generate",
	} {
		for _, token := range []string{"", "health"} {
			got := raw.call(p, token)
			if got == "0" || got == "3" { // OK, or a message that was looked at
				t.Errorf("path %q with token %q: status %s", p, token, got)
			}
			if _, ok := methodRoles[p]; ok {
				t.Fatalf("%q is a method", p)
			}
		}
	}
	if got := raw.call("/"+path, "health"); got != "7" { // PERMISSION_DENIED
		t.Errorf("the path itself: status %s, want 7", got)
	}
	if len(s.requests) > 0 {
		t.Errorf("the engine got %d requests", len(s.requests))
	}
}

func TestACallersRequestsAreItsOwn(t *testing.T) {
	s := newScript()
	f := start(t, s, withAccess(t, identity("alice", "infer", ""), identity("bob", "infer", ""), identity("ops", "infer, admin", "")))
	open := func(who, id string) *scripted {
		t.Helper()
		req := textRequest("hi")
		req.RequestId = id
		if _, err := f.api.GenerateStream(as(t.Context(), who), req); err != nil {
			t.Fatal(err)
		}
		return <-s.requests
	}
	abort := func(who string, req *infernov1.AbortRequest) []string {
		t.Helper()
		answer, err := f.api.Abort(as(t.Context(), who), req)
		if err != nil {
			t.Fatal(err)
		}
		return answer.GetAbortedRequestIds()
	}
	a, b := open("alice", "a"), open("bob", "b")
	if got := abort("bob", &infernov1.AbortRequest{RequestIds: []string{"a", "none"}}); len(got) > 0 {
		t.Errorf("bob aborted %q", got)
	}
	if got := abort("bob", &infernov1.AbortRequest{All: true}); !slices.Equal(got, []string{"b"}) {
		t.Errorf("bob aborted %q, want his own", got)
	}
	<-b.ctx.Done()
	if a.ctx.Err() != nil {
		t.Error("alice's request ended with bob's")
	}
	if got := abort("ops", &infernov1.AbortRequest{RequestIds: []string{"a"}}); !slices.Equal(got, []string{"a"}) {
		t.Errorf("an administrator aborted %q", got)
	}
	<-a.ctx.Done()
}

func TestLimitsOfACallerAreHisAlone(t *testing.T) {
	s := play(part{ids: byteIDs("xyz"), finish: finished(engine.MaxTokens, 'z')})
	f := start(t, s, withAccess(t,
		identity("tokens", "infer, health", ", limits: {tokens_per_minute: 5}"), identity("calls", "infer, health", ", limits: {requests_per_second: 0.01}"),
		identity("streams", "infer, health", ", limits: {streams: 1}"), identity("free", "infer", ""),
	))
	call := func(who string) error {
		_, err := f.api.Generate(as(t.Context(), who), textRequest("hi")) // h i, then x y z: 5 tokens
		return err
	}
	for _, who := range []string{"tokens", "calls"} {
		if err := call(who); err != nil {
			t.Fatalf("%s, first: %v", who, err)
		}
		err := call(who)
		if delay, ok := retryDelay(wantStatus(t, err, codes.ResourceExhausted, "CALLER_LIMIT")); !ok || delay <= 0 || delay > 101*time.Second {
			t.Errorf("%s: retry after %v", who, delay)
		}
		if _, err := healthgrpc.NewHealthClient(f.conn).Check(as(t.Context(), who), &healthgrpc.HealthCheckRequest{}); err != nil {
			t.Errorf("%s: health: %v", who, err)
		}
	}
	s.begin = nil
	ctx, cancel := context.WithCancel(as(t.Context(), "streams"))
	defer cancel()
	for len(s.requests) > 0 {
		<-s.requests
	}
	stream, err := f.api.GenerateStream(ctx, textRequest("hi"))
	if err != nil {
		t.Fatal(err)
	}
	running := <-s.requests
	wantStatus(t, call("streams"), codes.ResourceExhausted, "CALLER_LIMIT")
	running.parts <- part{ids: byteIDs("x"), finish: finished(engine.MaxTokens, 'x')}
	if _, err := readAll(stream); err != nil {
		t.Fatal(err)
	}
	s.begin = func(r *scripted) { r.parts <- part{ids: byteIDs("y"), finish: finished(engine.MaxTokens, 'y')} }
	for try := 0; ; try++ { // the client hears of the end before the server has counted it
		if err := call("streams"); err == nil {
			break
		} else if try > 1000 {
			t.Fatalf("the place of a stream that ended: %v", err)
		}
	}
	for range 10 {
		if err := call("free"); err != nil {
			t.Errorf("another caller: %v", err)
		}
	}
}

func TestRefusedCallsAreCountedAndLogged(t *testing.T) {
	f := start(t, newScript(), withAccess(t, identity("alice", "infer", "")))
	_ = f.empty(as(t.Context(), "wrong-token-value"), "/inferno.v1.RegistryService/ListModels")
	_ = f.empty(as(t.Context(), "alice"), "/inferno.v1.RegistryService/UnloadModel")
	if n := len(f.log.with("call refused", "ListModels", "Unauthenticated", "unknown token")); n != 1 {
		t.Errorf("%d lines tell of the wrong token:\n%s", n, f.log.with())
	}
	if n := len(f.log.with("call refused", "UnloadModel", "PermissionDenied", "identity=alice")); n != 1 {
		t.Errorf("%d lines tell of the missing role:\n%s", n, f.log.with())
	}
	if n := len(f.log.with("wrong-token-value")); n > 0 {
		t.Error("a token is in the log")
	}
	families, err := f.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := map[string]float64{}
	for _, family := range families {
		if family.GetName() == "inferno_auth_refused_total" {
			for _, m := range family.GetMetric() {
				counted[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	if counted["UNAUTHENTICATED"] != 1 || counted["ROLE_MISSING"] != 1 {
		t.Errorf("counted %v", counted)
	}
}

// Blocks of the prefix cache are not shared between tenants: who could name another's could time its prompts. CVE-2025-46570.
func TestTenantsAreThoseOfCallers(t *testing.T) {
	s := play(part{ids: byteIDs("x"), finish: finished(engine.MaxTokens, 'x')})
	f := start(t, s, withAccess(t, identity("alice", "infer", ""), identity("bob", "infer", ""), identity("proxy", "infer", ", names_tenants: true")))
	seen := map[string]string{}
	for _, c := range [][2]string{{"alice", ""}, {"bob", ""}, {"proxy", ""}, {"proxy", "alice"}, {"proxy", "file:alice"}, {"proxy", "bob"}} {
		ctx := as(t.Context(), c[0])
		if c[1] != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, tenantKey, c[1])
		}
		if _, err := f.api.Generate(ctx, textRequest("hi")); err != nil {
			t.Fatal(err)
		}
		tenant := (<-s.requests).Tenant
		if other, twice := seen[tenant]; twice || tenant == "" {
			t.Errorf("%q is tenant %q, as is %s", c, tenant, other)
		}
		seen[tenant] = fmt.Sprint(c)
	}
	_, err := f.api.Generate(metadata.AppendToOutgoingContext(as(t.Context(), "bob"), tenantKey, "alice"), textRequest("hi"))
	wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")
}
