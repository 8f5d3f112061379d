package client

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestATokenCrossesNoNetworkInPlainText(t *testing.T) {
	for target, want := range map[string]bool{
		"127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true, "unix:///tmp/s": true, "dns:///127.0.0.1:1": true,
		"10.0.0.1:1": false, "inferno:1": false, "dns:///localhost.example.org:1": false, "0.0.0.0:1": false, "[::]:1": false, "x": false,
	} {
		if got := staysHere(target); got != want {
			t.Errorf("staysHere(%q) = %v", target, got)
		}
	}
	if _, err := New(Options{Addr: "inferno.example.org:443", Token: StaticToken("t")}); err == nil || !strings.Contains(err.Error(), "TLS") {
		t.Errorf("a token without TLS: %v", err)
	}
	c, err := New(Options{Addr: "127.0.0.1:1", Token: StaticToken("t")})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestATokenFileIsReadForEachCall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	source := TokenFile(path)
	if _, err := source(t.Context()); err == nil {
		t.Error("no file, and no error")
	}
	for _, want := range []string{"first", "second"} {
		if err := os.WriteFile(path, []byte(want+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := source(t.Context()); got != want || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
}

func TestTLSFilesThatCannotBeUsed(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, f := range []TLSFiles{{CA: empty + "x"}, {CA: empty}, {Cert: empty}, {Key: empty}, {Cert: empty, Key: empty}} {
		if _, err := f.Config(); err == nil {
			t.Errorf("%+v: no error", f)
		}
	}
	if config, err := (TLSFiles{ServerName: "s"}).Config(); err != nil || config.ServerName != "s" || config.RootCAs != nil {
		t.Errorf("the system's authorities: %+v, %v", config, err)
	}
}
