package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

// TLSOptions name the files of a server's transport. ClientCA "" asks no client for a certificate.
type TLSOptions struct {
	Cert, Key  string
	ClientCA   string
	Optional   bool   // clients may come without a certificate
	MinVersion uint16 // tls.VersionTLS12 or tls.VersionTLS13
	Poll       time.Duration
	Log        *slog.Logger
}

// TLS is a server's certificate and the authorities of its clients, as the files hold them now. Run keeps it so.
type TLS struct {
	o     TLSOptions
	state *reloaded[transport]
}

// transport is what one state of the files says.
type transport struct {
	config   *tls.Config
	notAfter time.Time // of the server's certificate

	mu       sync.Mutex
	verified map[[sha256.Size]byte]error // client certificates, by these authorities
}

// maxVerified bounds the certificates that are remembered. Only ones that were signed by an authority come here.
const maxVerified = 4096

// OpenTLS reads the files. The error tells what a client would find wrong.
func OpenTLS(o TLSOptions) (*TLS, error) {
	t := &TLS{o: o}
	var err error
	t.state, err = open("certificates", t.load)
	return t, err
}

// Run reads the files again when they change, until ctx ends.
func (t *TLS) Run(ctx context.Context) error { return t.state.run(ctx, t.o.Poll, t.o.Log) }

// Config is for listeners of any protocol, which add theirs. Each connection gets what the files held when it came.
func (t *TLS) Config(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: t.o.MinVersion,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			config := t.state.current.Load().config
			if len(protocols) > 0 {
				config = config.Clone()
				config.NextProtos = protocols
			}
			return config, nil
		},
	}
}

// verify says whether a client's certificate holds now: a connection may be older than the authorities, or outlive its certificate.
func (t *TLS) verify(state *tls.ConnectionState) error {
	current := t.state.current.Load()
	if current.config.ClientCAs == nil {
		return errors.New("no authority for client certificates")
	}
	leaf := state.PeerCertificates[0]
	if now := time.Now(); now.After(leaf.NotAfter) {
		return fmt.Errorf("certificate expired at %v", leaf.NotAfter)
	}
	key := sha256.Sum256(leaf.Raw)
	current.mu.Lock()
	defer current.mu.Unlock()
	err, known := current.verified[key]
	if known {
		return err
	}
	intermediates := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		intermediates.AddCert(c)
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: current.config.ClientCAs, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if len(current.verified) >= maxVerified {
		clear(current.verified)
	}
	current.verified[key] = err
	return err
}

func (t *TLS) load(f *files) (*transport, error) {
	var errs []error
	cert, certErr := f.read("tls-cert", t.o.Cert, public)
	key, keyErr := f.read("tls-key", t.o.Key, private)
	errs = append(errs, certErr, keyErr)
	config := &tls.Config{
		MinVersion: t.o.MinVersion,
		// Those of TLS 1.2 that HTTP/2 allows. TLS 1.3 has only good ones.
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		// Connections last; resuming one would only carry what an authority said that may be gone by now.
		SessionTicketsDisabled: true,
	}
	made := &transport{config: config, verified: map[[sha256.Size]byte]error{}}
	if certErr == nil && keyErr == nil {
		pair, err := serverPair(cert, key)
		if err != nil {
			errs = append(errs, err)
		} else {
			config.Certificates, made.notAfter = []tls.Certificate{pair}, pair.Leaf.NotAfter
		}
	}
	if t.o.ClientCA != "" {
		text, err := f.read("tls-client-ca", t.o.ClientCA, public)
		if err == nil {
			config.ClientCAs, err = authorities(text)
		}
		errs = append(errs, err)
		config.ClientAuth = tls.RequireAndVerifyClientCert
		if t.o.Optional {
			config.ClientAuth = tls.VerifyClientCertIfGiven
		}
	}
	return made, errors.Join(errs...)
}

// minRSA is the shortest RSA key in bits.
const minRSA = 2048

func serverPair(cert, key []byte) (tls.Certificate, error) {
	if block, _ := pem.Decode(key); block != nil && (block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "") {
		return tls.Certificate{}, errors.New("tls-key: the key is encrypted, want it in the clear")
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("tls-cert, tls-key: %w", err)
	}
	leaf := pair.Leaf
	now := time.Now()
	var errs []error
	if now.Before(leaf.NotBefore) {
		errs = append(errs, fmt.Errorf("tls-cert: valid from %v on", leaf.NotBefore))
	}
	if now.After(leaf.NotAfter) {
		errs = append(errs, fmt.Errorf("tls-cert: expired at %v", leaf.NotAfter))
	}
	if len(leaf.ExtKeyUsage) > 0 &&
		!slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		errs = append(errs, errors.New("tls-cert: its extended key usage is not that of a server"))
	}
	if len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.URIs) == 0 {
		errs = append(errs, errors.New("tls-cert: no subject alternative name: clients do not look at the common name"))
	}
	errs = append(errs, strongKey("tls-cert", leaf))
	return pair, errors.Join(errs...)
}

func strongKey(setting string, c *x509.Certificate) error {
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSA {
			return fmt.Errorf("%s: RSA key of %d bits, want at least %d", setting, bits, minRSA)
		}
		return nil
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return nil
	}
	return fmt.Errorf("%s: a key of type %T, want RSA, ECDSA or Ed25519", setting, c.PublicKey)
}

func authorities(text []byte) (*x509.CertPool, error) {
	const setting = "tls-client-ca"
	pool := x509.NewCertPool()
	n := 0
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		n++
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s: block %d is a %q, want certificates alone", setting, n, block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s: certificate %d: %w", setting, n, err)
		case !c.IsCA || c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
			return nil, fmt.Errorf("%s: certificate %d may not sign others: it is no authority", setting, n)
		case time.Now().After(c.NotAfter):
			return nil, fmt.Errorf("%s: certificate %d: expired at %v", setting, n, c.NotAfter)
		}
		if err := strongKey(setting, c); err != nil {
			return nil, err
		}
		pool.AddCert(c)
	}
	if n == 0 {
		return nil, errors.New(setting + ": no certificate in PEM form")
	}
	return pool, nil
}

// Listener is l behind TLS, for what does not speak gRPC.
func (t *TLS) Listener(l net.Listener) net.Listener {
	return tls.NewListener(l, t.Config("http/1.1"))
}
