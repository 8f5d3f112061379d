package auth

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferno-serve/inferno/internal/auth/authtest"
)

func entryOf(token string) string {
	hash := sha256.Sum256([]byte(token))
	return "sha256:" + hex.EncodeToString(hash[:])
}

func openAccess(t *testing.T, text string, known *TLS) (*Access, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "access.yaml")
	authtest.Write(t, path, []byte(text))
	a, err := OpenAccess(AccessOptions{File: path, TLS: known, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return a, path
}

// CVE-2026-48746: a header that does not hold.
func TestHeadersThatNameNobody(t *testing.T) {
	const good = "inferno_good"
	a, _ := openAccess(t, "identities: [{name: alice, roles: [infer], tokens: ['"+entryOf(good)+"']}]\nanonymous: {roles: [health, infer, read]}", nil)
	for _, header := range []string{"Bearer " + good, "bearer " + good, "BEARER " + good} {
		if c, err := a.Identify([]string{header}, nil, nil); err != nil || c.Name != "alice" {
			t.Errorf("%q: %v", header, err)
		}
	}
	for name, headers := range map[string][]string{
		"a wrong token":             {"Bearer inferno_bad"},
		"two values, one good":      {"Bearer " + good, "Bearer x"},
		"the same value twice":      {"Bearer " + good, "Bearer " + good},
		"empty":                     {""},
		"the scheme alone":          {"Bearer"},
		"the scheme and a space":    {"Bearer "},
		"the token alone":           {good},
		"another scheme":            {"Basic " + good},
		"two spaces":                {"Bearer  " + good},
		"a space behind":            {"Bearer " + good + " "},
		"a tab":                     {"Bearer\t" + good},
		"a prefix of the token":     {"Bearer " + good[:len(good)-1]},
		"more than the token":       {"Bearer " + good + "x"},
		"other case":                {"Bearer " + strings.ToUpper(good)},
		"the hash":                  {"Bearer " + entryOf(good)},
		"the hash's digits":         {"Bearer " + entryOf(good)[len(hashPrefix):]},
		"64 KiB":                    {"Bearer " + strings.Repeat("a", 64<<10)},
		"no ASCII":                  {"Bearer inferno_göod"},
		"bytes that are no text":    {"Bearer \xff\xfe"},
		"NUL":                       {"Bearer " + good + "\x00"},
		"a line end and the good":   {"Bearer x\nBearer " + good},
		"a signed token, unasked":   {"Bearer a.b.c"},
		"a look-alike letter":       {"Bearer inferno_gооd"},
		"the good one in a list":    {"Bearer x, Bearer " + good},
		"the good one behind Basic": {"Basic eA==, Bearer " + good},
	} {
		// Anonymous callers may do all this: a header that does not hold must not make one of them.
		if c, err := a.Identify(headers, nil, nil); !errors.Is(err, ErrUnauthenticated) || c.Identity != nil {
			t.Errorf("%s: %+v, %v", name, c.Identity, err)
		} else if strings.Contains(err.Error(), "good") || strings.Contains(err.Error(), "göod") {
			t.Errorf("%s: the reason quotes the header: %v", name, err)
		}
	}
	if c, err := a.Identify(nil, nil, nil); err != nil || c.Name != "anonymous" || c.Roles.Has(Admin) {
		t.Errorf("without a header: %+v, %v", c.Identity, err)
	}
}

func TestCertificatesName(t *testing.T) {
	p := startTLS(t, func(*TLSOptions) {})
	a, _ := openAccess(t, `
identities:
  - {name: gateway, roles: [infer], certificates: ["spiffe://test/ns/x/sa/gateway", "dns:gateway.test"]}
  - {name: ops, roles: [admin], certificates: ["dns:ops.test", "https://ops.test/id"]}
`, p.tls)
	for name, c := range map[string]struct {
		names []string
		want  string // "": unauthenticated
	}{
		"a SPIFFE id":                    {[]string{"spiffe://test/ns/x/sa/gateway"}, "gateway"},
		"a DNS name":                     {[]string{"dns:gateway.test"}, "gateway"},
		"another URI":                    {[]string{"https://ops.test/id"}, "ops"},
		"two names of one":               {[]string{"spiffe://test/ns/x/sa/gateway", "dns:gateway.test"}, "gateway"},
		"one known, one not":             {[]string{"dns:gateway.test", "dns:x.test"}, "gateway"},
		"names of two":                   {[]string{"dns:gateway.test", "dns:ops.test"}, ""},
		"a SPIFFE id beside another URI": {[]string{"spiffe://test/ns/x/sa/gateway", "https://ops.test/id"}, ""},
		"two SPIFFE ids":                 {[]string{"spiffe://test/ns/x/sa/gateway", "spiffe://test/x"}, ""},
		"another path":                   {[]string{"spiffe://test/ns/x/sa/gateway2"}, "certificate not in the access file"},
		"a path above":                   {[]string{"spiffe://test/ns/x/sa"}, "certificate not in the access file"},
		"another trust domain":           {[]string{"spiffe://other/ns/x/sa/gateway"}, "certificate not in the access file"},
		"a name below":                   {[]string{"dns:a.gateway.test"}, "certificate not in the access file"},
		"the DNS name as a URI":          {[]string{"dns://gateway.test/"}, "certificate not in the access file"},
		"no name":                        {nil, "certificate not in the access file"},
	} {
		state := &tls.ConnectionState{PeerCertificates: parsed(t, certificates(t, p.ca.Client(c.names))[0])}
		caller, err := a.Identify(nil, state, nil)
		switch {
		case c.want == "" && !errors.Is(err, ErrUnauthenticated):
			t.Errorf("%s: %+v, %v, want it refused", name, caller.Identity, err)
		case c.want != "" && (err != nil || caller.Name != c.want):
			t.Errorf("%s: %+v, %v, want %s", name, caller.Identity, err, c.want)
		case caller.Identity != nil && caller.Name == "certificate not in the access file":
			var denied *DeniedError
			if err := caller.Allow(Health); !errors.As(err, &denied) {
				t.Errorf("%s: %v, want it denied", name, err)
			}
		}
	}
}

func TestAccessFilesThatSayNothingGood(t *testing.T) {
	const id = "identities: [{name: a, roles: [infer], tokens: ["
	hash, other := entryOf("a"), entryOf("b")
	jwt := func(change string) string {
		return "jwt: {issuer: i, audience: a, algorithms: [ES256], keys: k, roles: [infer], " + change + "}"
	}
	for text, says := range map[string]string{
		"":                          "empty",
		"# nothing":                 "nothing in it",
		"[]":                        "",
		"identites: []":             "identites",
		"a: 1\n---\nb: 2":           "",
		"anonymous: {}\n---\n{}":    "more than one document",
		"anonymous: {}\nanonymous:": "already defined",
		id + "]}]":                  "neither tokens nor certificates",
		id + "'" + hash + "']}, {name: a, roles: [read], tokens: ['" + other + "']}]": "given twice",
		id + "'" + hash + "']}, {name: b, roles: [read], tokens: ['" + hash + "']}]":  "is that of a too",
		"identities: [{roles: [infer], tokens: ['" + hash + "']}]":                    "name",
		"identities: [{name: a, tokens: ['" + hash + "']}]":                           "roles",
		"identities: [{name: a, roles: [root], tokens: ['" + hash + "']}]":            `role "root"`,
		"identities: [{name: \"a\\nb\", roles: [read], tokens: ['" + hash + "']}]":    "printing",
		id + "secretsecret]}]":                                                        "no hash",
		id + "'sha256:abc']}]":                                                        "no hash",
		id + "'" + strings.ToUpper(hash) + "']}]":                                     "no hash",
		id + "'" + hash + "00']}]":                                                    "no hash",
		id + "'" + hash + "'], limits: {streams: -1}}]":                               "streams: -1",
		id + "'" + hash + "'], limits: {tokens_per_minute: -1}}]":                     "tokens_per_minute: -1",
		id + "'" + hash + "'], limits: {requests_per_second: .nan}}]":                 "requests_per_second: NaN",
		id + "'" + hash + "'], limits: {requests_per_second: .inf}}]":                 "requests_per_second: +Inf",
		"anonymous: {roles: [admin]}":                                                 "anonymous.roles",
		"identities: [{name: a, roles: [read], certificates: ['*.test']}]":            "spiffe",
		"identities: [{name: a, roles: [read], certificates: ['dns:*.test']}]":        "without *",
		"identities: [{name: a, roles: [read], certificates: ['dns:UPPER.test']}]":    "small letters",
		"identities: [{name: a, roles: [read], certificates: ['spiffe://test']}]":     "SPIFFE",
		"identities: [{name: a, roles: [read], certificates: ['spiffe://test/']}]":    "SPIFFE",
		"identities: [{name: a, roles: [read], certificates: ['spiffe://u@test/x']}]": "spiffe",
		"jwt: {}":                  "jwt.issuer",
		jwt("algorithms: [HS256]"): "",
		"jwt: {issuer: i, audience: a, algorithms: [HS256], keys: k, roles: [infer]}": `"HS256"`,
		"jwt: {issuer: i, audience: a, algorithms: [none], keys: k, roles: [infer]}":  `"none"`,
		"jwt: {issuer: i, audience: a, algorithms: [], keys: k, roles: [infer]}":      "algorithms: none",
		"jwt: {issuer: i, audience: a, algorithms: [ES256], keys: k}":                 "neither roles nor roles_claim",
		jwt("leeway: 1h"): "leeway: 1h0m0s",
		jwt("leeway: 0s"): "jwt.keys",
	} {
		path := filepath.Join(t.TempDir(), "access.yaml")
		authtest.Write(t, path, []byte(text))
		_, err := OpenAccess(AccessOptions{File: path, Log: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
		if err != nil && strings.Contains(err.Error(), "secretsecret") {
			t.Errorf("%q: the error quotes what may be a token: %v", text, err)
		}
	}
}

func TestAChangedAccessFileIsTakenAndABadOneIsNot(t *testing.T) {
	line := func(token string) string {
		return "identities: [{name: alice, roles: [infer], tokens: ['" + entryOf(token) + "'], limits: {requests_per_second: 1}}]"
	}
	a, path := openAccess(t, line("one"), nil)
	who := func(token string) error {
		_, err := a.Identify([]string{"Bearer " + token}, nil, nil)
		return err
	}
	look := func() { a.state.look(slog.New(slog.DiscardHandler)) }
	first, err := a.Identify([]string{"Bearer one"}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Begin(Infer); err != nil {
		t.Fatal(err)
	}
	authtest.Write(t, path, []byte(line("two")))
	look()
	if who("one") == nil || who("two") != nil {
		t.Errorf("after the change: one %v, two %v", who("one"), who("two"))
	}
	second, _ := a.Identify([]string{"Bearer two"}, nil, nil)
	var limit *LimitError
	if err := second.Begin(Infer); !errors.As(err, &limit) {
		t.Errorf("a change of the file gave a second more requests: %v", err)
	}
	authtest.Write(t, path, []byte("identities: 7"))
	look()
	if who("two") != nil {
		t.Errorf("a file that cannot be used locked callers out: %v", who("two"))
	}
	if a.state.counts.changed.Load() != 1 || a.state.counts.failed.Load() != 1 {
		t.Errorf("%d changes, %d failures, want 1 and 1", a.state.counts.changed.Load(), a.state.counts.failed.Load())
	}
}

func TestLimitsHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		caller := func(l Limits) Caller { return Caller{&Identity{Name: "a", Key: "a", Limits: l}, &use{}} }
		reached := func(err error, limit string, after time.Duration) {
			t.Helper()
			var e *LimitError
			if !errors.As(err, &e) || e.Limit != limit || e.RetryAfter > after || e.RetryAfter <= after-50*time.Millisecond {
				t.Errorf("%#v, want %s after %v", err, limit, after)
			}
		}
		taken := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		c := caller(Limits{RequestsPerSecond: 4})
		for range 4 {
			taken(c.Begin(Read))
		}
		reached(c.Begin(Read), "requests_per_second", 250*time.Millisecond)
		taken(c.Begin(Health)) // never limited
		time.Sleep(250 * time.Millisecond)
		taken(c.Begin(Infer))
		reached(c.Begin(Infer), "requests_per_second", 250*time.Millisecond)
		time.Sleep(time.Hour) // which saves up a second's worth
		for range 4 {
			taken(c.Begin(Read))
		}
		reached(c.Begin(Read), "requests_per_second", 250*time.Millisecond)

		c = caller(Limits{Streams: 2})
		taken(c.Begin(Infer))
		taken(c.Begin(Infer))
		reached(c.Begin(Infer), "streams", time.Second)
		taken(c.Begin(Read)) // is no stream
		c.End(Infer)
		taken(c.Begin(Infer))

		c = caller(Limits{TokensPerMinute: 600})
		taken(c.Begin(Infer))
		c.Charge(900) // more than there is: a debt of 300, half a minute
		reached(c.Begin(Infer), "tokens_per_minute", 30*time.Second+100*time.Millisecond)
		taken(c.Begin(Read))
		time.Sleep(30*time.Second + 100*time.Millisecond)
		taken(c.Begin(Infer))

		c = caller(Limits{RequestsPerSecond: 0.1}) // less than one a second: one at a time
		taken(c.Begin(Infer))
		reached(c.Begin(Infer), "requests_per_second", 10*time.Second)
	})
}

// Whoever comes by ever new addresses, or subjects, must not fill the memory.
func TestEverNewCallersTakeBoundedMemory(t *testing.T) {
	n := 4 * maxCallers
	if os.Getenv("INFERNO_ABUSE") == "full" {
		n = 1_000_000
	}
	synctest.Test(t, func(t *testing.T) {
		l := ledger{uses: map[string]*use{}}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range n {
			if l.of(fmt.Sprintf("jwt:https://issuer.test\x00subject-%07d", i)) == nil {
				t.Fatal("nil")
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 64<<20 {
			t.Errorf("%d MiB, want at most 64", grown>>20)
		}
		if l.size() != maxCallers {
			t.Errorf("%d entries, want %d", l.size(), maxCallers)
		}
		// Those who have a share of their own keep it, and places come free when others were silent.
		if l.of("new") != &l.rest {
			t.Error("an entry beyond the bound")
		}
		time.Sleep(forget + time.Second)
		if l.of("new") == &l.rest || l.size() != 1 {
			t.Errorf("%d entries after all were silent", l.size())
		}
	})
}

func TestAddressesOfOneHostAreOne(t *testing.T) {
	for address, want := range map[string]string{
		"10.0.0.1:5": "10.0.0.1", "[::ffff:10.0.0.1]:6": "10.0.0.1", "[2001:db8:1:2:3:4:5:6]:7": "2001:db8:1:2::/64", "[2001:db8:1:2::9]:8": "2001:db8:1:2::/64",
	} {
		tcp, err := net.ResolveTCPAddr("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if got := network(tcp); got != want {
			t.Errorf("%s: %q, want %q", address, got, want)
		}
	}
	if got := network(&net.UnixAddr{Net: "unix", Name: "@"}); got != "unix" {
		t.Errorf("a Unix socket: %q", got)
	}
}

func TestNewTokensAreLongAndFitTheFile(t *testing.T) {
	token, entry := NewToken()
	if again, _ := NewToken(); again == token || len(token) != len(tokenPrefix)+43 {
		t.Errorf("%q, then %q", token, again)
	}
	a, _ := openAccess(t, "identities: [{name: a, roles: [read], tokens: ['"+entry+"']}]", nil)
	if c, err := a.Identify([]string{"Bearer " + token}, nil, nil); err != nil || c.Name != "a" {
		t.Error(err)
	}
}

func BenchmarkIdentify(b *testing.B) {
	path := filepath.Join(b.TempDir(), "access.yaml")
	authtest.Write(b, path, []byte("identities: [{name: a, roles: [infer], tokens: ['"+entryOf("t")+"']}]"))
	a, err := OpenAccess(AccessOptions{File: path, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	header := []string{"Bearer t"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Identify(header, nil, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func TestTheExampleOfTheDocsIsAnAccessFile(t *testing.T) {
	page, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(page), "```yaml\n")
	example, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("no example")
	}
	a, err := parseAccess([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Identities) != 3 || a.JWT == nil || a.JWT.Leeway != 10*time.Second || a.Identities[0].Limits.Streams != 64 {
		t.Errorf("the example is read as %+v", a)
	}
}
