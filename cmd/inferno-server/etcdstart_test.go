package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/inferno-serve/inferno/internal/discovery/etcd/etcdtest"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

func TestServesWithoutEtcdUnlessItIsRequired(t *testing.T) {
	c := etcdtest.Start(t, 1)
	c.Members[0].Kill()
	c.Members[0].Proxy.Set(etcdtest.Fault{Cut: true})

	code, out := runServer(t, "--model", "tiny="+tiny, "--device=cpu", "--etcd-endpoints", c.Endpoints()[0], "--require-etcd")
	if code != 2 || !strings.Contains(out, "require-etcd: etcd at "+c.Endpoints()[0]) {
		t.Errorf("exit code %d, want 2, and the reason:\n%s", code, out)
	}

	p := startInstance(t, c)
	p.waitServing()
	reason := p.waitRegistration(infernov1.HealthState_HEALTH_STATE_DEGRADED)
	if !strings.Contains(reason, "etcd at "+c.Endpoints()[0]) {
		t.Errorf("the reason is %q, want one that names etcd", reason)
	}
	if _, err := infernov1.NewInferenceServiceClient(p.dial()).Generate(t.Context(), generate(1)); err != nil {
		t.Errorf("without etcd: %v", err)
	}
	c.Members[0].Start()
	c.Members[0].WaitReady()
	c.Members[0].Proxy.Set(etcdtest.Fault{})
	p.waitRegistration(infernov1.HealthState_HEALTH_STATE_SERVING)
	p.waitInstances(1)
}

func TestConfiguredIDOutlivesItsProcess(t *testing.T) {
	c := etcdtest.Start(t, 1)
	first := startInstance(t, c, "--instance-id", "a")
	first.waitServing()
	old := first.waitInstances(1)[0]
	code, out := runServer(t, "--model", "tiny="+tiny, "--device=cpu", "--etcd-endpoints", c.Endpoints()[0], "--lease-ttl", "2s",
		"--instance-id", "a")
	if code != 2 || !strings.Contains(out, "registered by another process") || !strings.Contains(out, first.grpc) {
		t.Errorf("beside a live one: exit code %d, want 2 and who holds the id:\n%s", code, out)
	}
	first.signal(syscall.SIGKILL)
	first.exit()
	second := startInstance(t, c, "--instance-id", "a")
	second.waitServing()
	now := second.waitInstances(1)[0]
	second.waitFor("its own record", func() bool { now = second.waitInstances(1)[0]; return now.GetAddress() == second.grpc })
	if now.GetGeneration() <= old.GetGeneration() {
		t.Errorf("generation %d after %d, want it to grow", now.GetGeneration(), old.GetGeneration())
	}
}

func TestEtcdSecretsComeFromFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	base := []string{"--model", "tiny=" + tiny, "--device=cpu", "--etcd-endpoints", "127.0.0.1:1"}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--etcd-user=u", "--etcd-password-file=" + filepath.Join(dir, "none")}, "etcd-password-file: open "},
		{[]string{"--etcd-user=u", "--etcd-password-file=" + write("empty", "\n")}, "want one line that is not empty"},
		{[]string{"--etcd-token-file=" + write("two", "a\nb\n")}, "want one line that is not empty"},
		{[]string{"--etcd-ca=" + write("ca", "none")}, "no certificate in PEM form"},
		{[]string{"--etcd-cert=" + write("cert", "x"), "--etcd-key=" + write("key", "y")}, "etcd-cert, etcd-key: "},
	} {
		if code, out := runServer(t, append(base, c.args...)...); code != 2 || !strings.Contains(out, c.want) {
			t.Errorf("%q: exit code %d, want 2 and %q:\n%s", c.args, code, c.want, out)
		}
	}
}

func TestEtcdBehindTLS(t *testing.T) {
	a := etcdtest.NewAuthority(t)
	c := etcdtest.StartTLS(t, a)
	endpoint := "https://" + c.Endpoints()[0]
	base := []string{"--model", "tiny=" + tiny, "--device=cpu", "--require-etcd", "--etcd-endpoints", endpoint}

	stranger := etcdtest.NewAuthority(t)
	cert, key := a.Issue("instance")
	for _, test := range []struct {
		what string
		args []string
		want string
	}{
		{"unknown authority", []string{"--etcd-cert", cert, "--etcd-key", key}, "tls: "},
		{"certificate is not ours", []string{"--etcd-ca", stranger.File, "--etcd-cert", cert, "--etcd-key", key}, "tls: "},
		// In TLS 1.3 a server refuses a client after the handshake: how the connection ends, chance says.
		{"no certificate", []string{"--etcd-ca", a.File}, "require-etcd: etcd at " + endpoint},
	} {
		code, out := runServer(t, append(base, test.args...)...)
		if code != 2 || !strings.Contains(out, test.want) {
			t.Errorf("%s: exit code %d, want 2 and %q:\n%s", test.what, code, test.want, out)
		}
	}

	p := startServer(t, append(base, "--lease-ttl", "2s", "--etcd-ca", a.File, "--etcd-cert", cert, "--etcd-key", key)...)
	p.waitServing()
	p.waitInstances(1)
	// The files are read for each connection: what is wrong with them shows, and is right again once they are.
	if err := os.WriteFile(cert, []byte("half a certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Members[0].Kill()
	c.Members[0].Start()
	c.Members[0].WaitReady()
	p.waitFor("the reason names the files", func() bool {
		return strings.Contains(p.waitRegistration(infernov1.HealthState_HEALTH_STATE_DEGRADED), "etcd-cert, etcd-key: ")
	})
	a.Issue("instance")
	p.waitRegistration(infernov1.HealthState_HEALTH_STATE_SERVING)
	p.waitInstances(1)
}
