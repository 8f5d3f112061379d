package discovery

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Reachable is the address that other hosts reach a listener by: its own, or, where it listens on all addresses of this host, the one that
// this host uses on its way to the registry, else the first that is not loopback. No packet is sent. An address without such a reading
// is returned as it is.
func Reachable(listen string, registry []string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip, err := netip.ParseAddr(host); err != nil && host != "" || err == nil && !ip.IsUnspecified() {
		return listen
	}
	for _, endpoint := range registry {
		if ip, ok := onTheWayTo(endpoint); ok {
			return net.JoinHostPort(ip, port)
		}
	}
	if ip, ok := firstOfInterfaces(); ok {
		return net.JoinHostPort(ip, port)
	}
	return listen
}

// onTheWayTo is this host's address on the route to an endpoint, as a socket is given it that is never written to.
func onTheWayTo(endpoint string) (string, bool) {
	if _, address, ok := strings.Cut(endpoint, "://"); ok {
		endpoint = address
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // a name may have to be looked up
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", endpoint)
	if err != nil {
		return "", false
	}
	defer conn.Close()
	host, _, err := net.SplitHostPort(conn.LocalAddr().String())
	return host, err == nil
}

func firstOfInterfaces() (string, bool) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "", false
	}
	for _, a := range addresses {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() {
			return ip.IP.String(), true
		}
	}
	return "", false
}

// OnlyHere tells an address that no other host can connect to, while the registry is not of this host alone.
func OnlyHere(address string, registry []string) bool {
	return isLocal(address) && slices.ContainsFunc(registry, func(endpoint string) bool { return !isLocal(endpoint) })
}

func isLocal(address string) bool {
	if strings.HasPrefix(address, "unix:") {
		return true
	}
	if _, rest, ok := strings.Cut(address, "://"); ok {
		address = rest
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
