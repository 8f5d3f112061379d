package config

import (
	"net"
	"strings"
	"time"
)

// Settings of the registry where they are not given.
const (
	DefaultEtcdPrefix = "inferno/v1"
	DefaultLeaseTTL   = 10 * time.Second
)

// maxEtcdPrefix is the longest prefix of keys, in bytes.
const maxEtcdPrefix = 256

// validateEtcd refuses what etcd would, what would have no effect, and a password or certificate that the connection would not be safe for.
func (c *Config) validateEtcd(fault func(string, ...any)) {
	if c.LeaseTTL < 2*time.Second || c.LeaseTTL > 10*time.Minute || c.LeaseTTL%time.Second != 0 {
		fault("lease-ttl: %v, want 2s to 10m0s in whole seconds", c.LeaseTTL)
	}
	if c.EtcdPrefix == "" || len(c.EtcdPrefix) > maxEtcdPrefix || strings.HasSuffix(c.EtcdPrefix, "/") ||
		strings.ContainsFunc(c.EtcdPrefix, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		fault("etcd-prefix: %q, want 1 to %d bytes without spaces, and no / at the end", c.EtcdPrefix, maxEtcdPrefix)
	}
	if len(c.EtcdEndpoints) == 0 {
		c.refuseWithoutEtcd(fault)
		return
	}
	encrypted := c.EtcdCA != "" || c.EtcdCert != "" || c.EtcdKey != ""
	for _, endpoint := range c.EtcdEndpoints {
		scheme, address, ok := strings.Cut(endpoint, "://")
		if !ok {
			scheme, address = "", endpoint
		}
		host, port, err := net.SplitHostPort(address)
		if err != nil || host == "" || port == "" || scheme != "" && scheme != "http" && scheme != "https" {
			fault("etcd-endpoints: %q, want HOST:PORT, http://HOST:PORT or https://HOST:PORT", endpoint)
		}
		if encrypted && scheme == "http" {
			fault("etcd-endpoints: %q is not encrypted, while etcd-ca, etcd-cert or etcd-key is given: want https://", endpoint)
		}
	}
	if (c.EtcdCert == "") != (c.EtcdKey == "") {
		fault("etcd-cert, etcd-key: %q, %q, want both or none", c.EtcdCert, c.EtcdKey)
	}
	if (c.EtcdUser == "") != (c.EtcdPasswordFile == "") {
		fault("etcd-user, etcd-password-file: %q, %q, want both or none", c.EtcdUser, c.EtcdPasswordFile)
	}
	if c.EtcdTokenFile != "" && c.EtcdUser != "" {
		fault("etcd-token-file: %q beside etcd-user %q, want one of them", c.EtcdTokenFile, c.EtcdUser)
	}
}

func (c *Config) refuseWithoutEtcd(fault func(string, ...any)) {
	for _, setting := range []struct{ key, value, unset string }{
		{"etcd-prefix", c.EtcdPrefix, DefaultEtcdPrefix}, {"etcd-user", c.EtcdUser, ""}, {"etcd-password-file", c.EtcdPasswordFile, ""},
		{"etcd-token-file", c.EtcdTokenFile, ""}, {"etcd-ca", c.EtcdCA, ""}, {"etcd-cert", c.EtcdCert, ""}, {"etcd-key", c.EtcdKey, ""},
	} {
		if setting.value != setting.unset {
			fault("%s: %q has no effect without etcd-endpoints", setting.key, setting.value)
		}
	}
	if c.LeaseTTL != DefaultLeaseTTL {
		fault("lease-ttl: %v has no effect without etcd-endpoints", c.LeaseTTL)
	}
	if c.RequireEtcd {
		fault("require-etcd: has no effect without etcd-endpoints")
	}
}
