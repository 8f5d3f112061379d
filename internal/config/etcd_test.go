package config

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestEtcdEndpointsAreAListWhereverTheyStand(t *testing.T) {
	want := []string{"https://a:2379", "b:2379"}
	load := func(args ...string) {
		t.Helper()
		c, err := Load(append([]string{"--model=a=b"}, args...), "v", new(bytes.Buffer))
		if err != nil || !slices.Equal(c.EtcdEndpoints, want) || c.EtcdPrefix != DefaultEtcdPrefix || c.LeaseTTL != DefaultLeaseTTL {
			t.Errorf("%q: %+v, %v", args, c, err)
		}
	}
	load("--etcd-endpoints", "https://a:2379,b:2379")
	load("--etcd-endpoints", "https://a:2379", "--etcd-endpoints", "b:2379")
	for _, text := range []string{"etcd-endpoints: 'https://a:2379,b:2379'\n", "etcd-endpoints: ['https://a:2379', 'b:2379']\n"} {
		load("--config", write(t, text))
	}
	t.Setenv("INFERNO_ETCD_ENDPOINTS", "https://a:2379,b:2379")
	load()
}

func TestRegistrySettingsNameTheirFaults(t *testing.T) {
	for _, test := range []struct {
		args []string
		want []string // all in the error
	}{
		{[]string{"--etcd-endpoints=http://a,b,:1,ftp://c:1,d:"}, []string{
			`etcd-endpoints: "http://a", want HOST:PORT`, `"b"`, `":1"`, `"ftp://c:1"`, `"d:"`,
		}},
		{[]string{"--etcd-endpoints=http://a:1", "--etcd-ca=f"}, []string{`"http://a:1" is not encrypted`}},
		{[]string{"--etcd-endpoints=a:1", "--etcd-cert=f"}, []string{`etcd-cert, etcd-key: "f", "", want both or none`}},
		{[]string{"--etcd-endpoints=a:1", "--etcd-user=u"}, []string{`etcd-user, etcd-password-file: "u", "", want both or none`}},
		{
			[]string{"--etcd-endpoints=a:1", "--etcd-user=u", "--etcd-password-file=f", "--etcd-token-file=g"},
			[]string{`etcd-token-file: "g" beside etcd-user "u"`},
		},
		{[]string{"--etcd-endpoints=a:1", "--etcd-prefix=x/"}, []string{`etcd-prefix: "x/", want`}},
		{[]string{"--etcd-endpoints=a:1", "--etcd-prefix="}, []string{`etcd-prefix: "", want`}},
		{[]string{"--etcd-endpoints=a:1", "--lease-ttl=1s"}, []string{"lease-ttl: 1s, want 2s to 10m"}},
		{[]string{"--etcd-endpoints=a:1", "--lease-ttl=2500ms"}, []string{"lease-ttl: 2.5s, want 2s to 10m0s in whole seconds"}},
		{[]string{"--etcd-endpoints=a:1", "--lease-ttl=11m"}, []string{"lease-ttl: 11m0s"}},
		{[]string{"--instance-id=a b"}, []string{`instance-id: "a b", want 1 to 128 characters`}},
		{[]string{"--instance-id=" + strings.Repeat("a", 129)}, []string{"want 1 to 128 characters"}},
		{
			[]string{
				"--require-etcd", "--etcd-prefix=x", "--etcd-user=u", "--etcd-password-file=f", "--etcd-token-file=f", "--etcd-ca=f",
				"--etcd-cert=f", "--etcd-key=f", "--lease-ttl=5s",
			},
			[]string{
				"require-etcd: has no effect without etcd-endpoints", "etcd-prefix: ", "etcd-user: ", "etcd-password-file: ", "etcd-token-file: ",
				"etcd-ca: ", "etcd-cert: ", "etcd-key: ", "lease-ttl: 5s has no effect without etcd-endpoints",
			},
		},
	} {
		_, err := Load(append([]string{"--model=a=b"}, test.args...), "v", new(bytes.Buffer))
		for _, want := range test.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %q", test.args, err, want)
			}
		}
	}
	for _, prefix := range []string{"/inferno", "a", "x y"} {
		_, err := Load([]string{"--model=a=b", "--etcd-endpoints=a:1", "--lease-ttl=2s", "--etcd-prefix", prefix}, "v", new(bytes.Buffer))
		if (err == nil) != (prefix != "x y") {
			t.Errorf("prefix %q: %v", prefix, err)
		}
	}
}
