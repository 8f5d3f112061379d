package main

import (
	"crypto/tls"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/inferno-serve/inferno/internal/auth"
	"github.com/inferno-serve/inferno/internal/auth/authtest"
	"github.com/inferno-serve/inferno/internal/server"
)

func TestTheToolShowsCertificatesAndTokens(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		authtest.Write(t, path, text)
		return path
	}
	ca, clients := authtest.NewAuthority(t, "servers"), authtest.NewAuthority(t, "clients")
	cert, key := ca.Server().Files(t, t.TempDir())
	caFile := file("ca.pem", ca.PEM)
	mine, myKey := clients.Client([]string{"spiffe://test/tool"}).Files(t, dir)
	_, strangerKey := clients.Client(nil).Files(t, t.TempDir())
	token, entry := auth.NewToken()
	access := file("access.yaml", []byte("identities:\n  - {name: person, roles: [infer, read], tokens: ['"+entry+"']}\n"+
		"  - {name: tool, roles: [read], certificates: ['spiffe://test/tool']}\n"))
	log := slog.New(slog.DiscardHandler)
	transport, err := auth.OpenTLS(auth.TLSOptions{
		Cert: cert, Key: key, ClientCA: file("clients.pem", clients.PEM), Optional: true, MinVersion: tls.VersionTLS13, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	known, err := auth.OpenAccess(auth.AccessOptions{File: access, TLS: transport, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	f := startFake(t, false, func(o *server.Options) { o.TLS, o.Access = transport, known })
	tokenFile := file("token", []byte(token+"\n"))
	withTLS := " --tls-ca=" + caFile
	withCert := withTLS + " --tls-cert=" + mine + " --tls-key=" + myKey
	generate := "generate --model=echo --prompt=hi --max-tokens=2 --addr=" + f.addr
	for _, c := range []struct {
		args, variable string
		code           int
		says           string
	}{
		{generate + withTLS + " --token-file=" + tokenFile, "", 0, ""},
		{generate + withTLS, token, 0, ""},
		{generate + withTLS, "", 1, "UNAUTHENTICATED"},
		{generate + withTLS, "wrong", 1, "UNAUTHENTICATED"},
		{generate + withCert, "", 1, "PERMISSION_DENIED"},
		{"models --addr=" + f.addr + withCert, "", 0, ""},
		{generate + withTLS + " --tls-server-name=other.test", token, 1, "UNAVAILABLE"},
		{generate + " --tls", token, 1, "UNAVAILABLE"}, // the system's authorities do not know the server
		{generate, token, 1, "UNAVAILABLE"},            // in plain text
		{generate + withTLS + " --tls-cert=" + mine, token, 2, "want its file and that of its key"},
		{generate + withTLS + " --tls-cert=" + mine + " --tls-key=" + strangerKey, token, 2, "does not match"},
		{generate + " --tls-ca=" + filepath.Join(dir, "missing"), token, 2, "no such file"},
		{generate + withTLS + " --token-file=" + filepath.Join(dir, "missing"), "", 1, "no such file"},
		{"generate --model=echo --prompt=hi --addr=inferno.example.org:1", token, 1, "a token in plain text"},
	} {
		t.Setenv(tokenVariable, c.variable)
		code, _, stderr := tool(t.Context(), "", strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(stderr, c.says) {
			t.Errorf("%s with %s=%q: exit code %d, %q, want %d and %q", c.args, tokenVariable, c.variable, code, stderr, c.code, c.says)
		}
		if strings.Contains(stderr, token) {
			t.Errorf("%s: the token is told: %q", c.args, stderr)
		}
	}
}
