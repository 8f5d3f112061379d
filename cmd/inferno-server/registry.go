package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/discovery"
	"github.com/inferno-serve/inferno/internal/discovery/etcd"
	"github.com/inferno-serve/inferno/internal/discovery/static"
)

// openRegistry opens the registry that c names: etcd, or this process's memory. Whether etcd is there shows later; a file that cannot be
// used is an error now.
func openRegistry(c *config.Config, log *slog.Logger) (registry discovery.Provider, closeIt func() error, err error) {
	if len(c.EtcdEndpoints) == 0 {
		return static.New(), func() error { return nil }, nil
	}
	secret := func() (etcd.Secret, error) { return etcdSecret(c) }
	if _, err := secret(); err != nil {
		return nil, nil, err
	}
	r, err := etcd.Open(etcd.Options{
		Endpoints: c.EtcdEndpoints, Prefix: c.EtcdPrefix, LeaseTTL: c.LeaseTTL, Secret: secret, Log: log,
	})
	if err != nil {
		return nil, nil, err
	}
	return r, r.Close, nil
}

// etcdSecret reads what a connection to etcd is made with, as it is now.
func etcdSecret(c *config.Config) (etcd.Secret, error) {
	s := etcd.Secret{User: c.EtcdUser}
	var err error
	if c.EtcdPasswordFile != "" {
		if s.Password, err = readSecret("etcd-password-file", c.EtcdPasswordFile); err != nil {
			return s, err
		}
	}
	if c.EtcdTokenFile != "" {
		if s.Token, err = readSecret("etcd-token-file", c.EtcdTokenFile); err != nil {
			return s, err
		}
	}
	s.TLS, err = etcdTLS(c)
	return s, err
}

// maxSecret bounds a file with a secret, a token with many claims included, or with certificates, in bytes.
const maxSecret = 1 << 20

func readSecret(setting, name string) (string, error) {
	text, err := readBounded(setting, name)
	if err != nil {
		return "", err
	}
	text = bytes.TrimRight(text, "\r\n")
	if len(text) == 0 || bytes.ContainsAny(text, "\r\n\x00") {
		return "", fmt.Errorf("%s: %s: want one line that is not empty", setting, name)
	}
	return string(text), nil
}

func readBounded(setting, name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxSecret+1))
	if err == nil && len(text) > maxSecret {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxSecret)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	return text, nil
}

// etcdTLS is nil where no certificates are given: an https endpoint is then held to the system's.
func etcdTLS(c *config.Config) (*tls.Config, error) {
	if c.EtcdCA == "" && c.EtcdCert == "" {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.EtcdCA != "" {
		text, err := readBounded("etcd-ca", c.EtcdCA)
		if err != nil {
			return nil, err
		}
		if t.RootCAs = x509.NewCertPool(); !t.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("etcd-ca: %s: no certificate in PEM form", c.EtcdCA)
		}
	}
	if c.EtcdCert != "" {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(c.EtcdCert, c.EtcdKey)
			if err != nil {
				return nil, fmt.Errorf("etcd-cert, etcd-key: %w", err)
			}
			return &pair, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		// Read for each connection: certificates are renewed while servers run.
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return t, nil
}
