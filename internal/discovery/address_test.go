package discovery_test

import (
	"net"
	"testing"

	"github.com/inferno-serve/inferno/internal/discovery"
)

func TestAdvertisedAddressIsTheListenersUnlessItIsAllOfThem(t *testing.T) {
	for _, c := range []struct {
		listen   string
		registry []string
		want     string
	}{
		{"127.0.0.1:50051", []string{"http://127.0.0.1:2379"}, "127.0.0.1:50051"},
		{"10.1.2.3:1", nil, "10.1.2.3:1"},
		{"host.example:1", nil, "host.example:1"},
		{"unix:///run/inferno.sock", []string{"127.0.0.1:2379"}, "unix:///run/inferno.sock"},
		{"0.0.0.0:50051", []string{"https://127.0.0.1:2379"}, "127.0.0.1:50051"},
		{"[::]:50051", []string{"127.0.0.1:2379"}, "127.0.0.1:50051"},
		{":50051", []string{"no port", "127.0.0.1:2379"}, "127.0.0.1:50051"}, // the first that works
		{"0.0.0.0:50051", []string{"[::1]:2379"}, "[::1]:50051"},
	} {
		if c.want == "[::1]:50051" && !hasIPv6() {
			continue // a host without IPv6
		}
		if got := discovery.Reachable(c.listen, c.registry); got != c.want {
			t.Errorf("Reachable(%q, %q) = %q, want %q", c.listen, c.registry, got, c.want)
		}
	}
	// Without a registry it is one of this host's own.
	got := discovery.Reachable("0.0.0.0:7", nil)
	host, port, err := net.SplitHostPort(got)
	if err != nil || port != "7" {
		t.Fatalf("%q is no address", got)
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range own {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.String() == host && !ip.IP.IsLoopback() {
			return
		}
	}
	if got != "0.0.0.0:7" { // a host with loopback alone
		t.Errorf("%q is none of this host's addresses %v", got, own)
	}
}

func hasIPv6() bool {
	l, err := net.ListenPacket("udp", "[::1]:0")
	if err != nil {
		return false
	}
	return l.Close() == nil
}

func TestAddressThatOnlyThisHostReachesIsKnown(t *testing.T) {
	far, near := []string{"http://127.0.0.1:2379", "https://etcd.example:2379"}, []string{"localhost:2379", "https://[::1]:2379"}
	for _, address := range []string{"127.0.0.1:1", "localhost:1", "[::1]:1", "unix:///run/s"} {
		elsewhere, here, none := discovery.OnlyHere(address, far), discovery.OnlyHere(address, near), discovery.OnlyHere(address, nil)
		if !elsewhere || here || none {
			t.Errorf("%s: %t with a registry elsewhere, %t with one here, %t with none", address, elsewhere, here, none)
		}
	}
	if discovery.OnlyHere("10.0.0.1:1", far) || discovery.OnlyHere("host.example:1", far) {
		t.Error("addresses that others reach are taken for local ones")
	}
}
