package config

import (
	"net"
	"net/netip"
	"strings"
)

// validateSecurity refuses settings that would have no effect, and listeners beyond this host that would not know who calls.
func (c *Config) validateSecurity(fault func(string, ...any)) {
	oneOf(fault, "tls-client-auth", c.TLSClientAuth, "require", "optional")
	oneOf(fault, "tls-min-version", c.TLSMinVersion, "1.2", "1.3")
	within(fault, "max-connections", c.MaxConnections, 1, 1<<20)
	within(fault, "max-address-connections", c.MaxAddressConnections, 0, 1<<20)
	if (c.TLSCert == "") != (c.TLSKey == "") {
		fault("tls-cert, tls-key: %q, %q, want both or neither", c.TLSCert, c.TLSKey)
	}
	if c.TLSClientCA != "" && !c.TLS() {
		fault("tls-client-ca: %q has no effect without tls-cert and tls-key", c.TLSClientCA)
	}
	if c.TLSClientCA == "" && c.TLSClientAuth != "require" {
		fault("tls-client-auth: %q has no effect without tls-client-ca", c.TLSClientAuth)
	}
	if c.Insecure {
		return
	}
	for _, l := range []struct{ key, address string }{{"listen", c.Listen}, {"admin-listen", c.AdminListen}} {
		switch {
		case l.address == "" || staysHere(l.address):
		case !c.TLS():
			fault("%s: %q is reached from other hosts in plain text: want tls-cert and tls-key, or a loopback address or Unix socket, or insecure",
				l.key, l.address)
		case c.AccessFile == "" && (c.TLSClientCA == "" || c.TLSClientAuth != "require"):
			fault("%s: %q is reached from other hosts and nobody is asked who he is: want access-file, or tls-client-ca, or insecure", l.key, l.address)
		}
	}
}

// TLS says whether the listeners speak it.
func (c *Config) TLS() bool { return c.TLSCert != "" && c.TLSKey != "" }

// staysHere says whether an address is reached from this host alone. A host that is no address of the loopback is not looked up.
func staysHere(address string) bool {
	if _, ok := SocketPath(address); ok {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return true // which is a fault of its own
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
