// Package authtest makes certificates, keys and signed tokens for tests, with the standard library alone, so that what it makes is independent
// of what reads it.
package authtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority signs certificates.
type Authority struct {
	t    testing.TB
	Cert *x509.Certificate
	PEM  []byte
	key  crypto.Signer
}

// NewAuthority makes one that is valid for a day; edit may spoil it.
func NewAuthority(t testing.TB, name string, edit ...func(*x509.Certificate)) *Authority {
	t.Helper()
	key := ECKey(t)
	template := &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	for _, e := range edit {
		e(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &Authority{t: t, Cert: cert, PEM: certPEM(der), key: key}
}

// Pair is a certificate and its key, in PEM form.
type Pair struct{ Cert, Key []byte }

// Server makes a certificate for 127.0.0.1, localhost and server.test; edit may spoil it.
func (a *Authority) Server(edit ...func(*x509.Certificate)) Pair {
	a.t.Helper()
	return a.Sign(ECKey(a.t), append([]func(*x509.Certificate){func(c *x509.Certificate) {
		c.DNSNames, c.IPAddresses = []string{"localhost", "server.test"}, []net.IP{net.IPv4(127, 0, 0, 1)}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}}, edit...)...)
}

// Client makes a certificate of these names: URIs, or DNS names after "dns:".
func (a *Authority) Client(names []string, edit ...func(*x509.Certificate)) Pair {
	a.t.Helper()
	return a.Sign(ECKey(a.t), append([]func(*x509.Certificate){func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		for _, name := range names {
			if len(name) > 4 && name[:4] == "dns:" {
				c.DNSNames = append(c.DNSNames, name[4:])
				continue
			}
			u, err := url.Parse(name)
			if err != nil {
				a.t.Fatal(err)
			}
			c.URIs = append(c.URIs, u)
		}
	}}, edit...)...)
}

// Sign makes a certificate for a key, valid for a day.
func (a *Authority) Sign(key crypto.Signer, edit ...func(*x509.Certificate)) Pair {
	a.t.Helper()
	template := &x509.Certificate{
		SerialNumber: serial(a.t), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	for _, e := range edit {
		e(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return Pair{certPEM(der), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})}
}

// Write writes a file of mode 0600 by another name first, as whoever renews certificates should.
func Write(t testing.TB, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// Files writes a pair into a folder and returns the paths.
func (p Pair) Files(t testing.TB, dir string) (cert, key string) {
	t.Helper()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	Write(t, cert, p.Cert)
	Write(t, key, p.Key)
	return cert, key
}

// ECKey makes a key of P-256.
func ECKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// JWK is the public key as a JSON Web Key with more members.
func JWK(key crypto.PublicKey, more map[string]any) map[string]any {
	k := map[string]any{"use": "sig"}
	switch key := key.(type) {
	case *rsa.PublicKey:
		k["kty"], k["n"], k["e"] = "RSA", B64(key.N.Bytes()), B64(big.NewInt(int64(key.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := key.Bytes()
		if err != nil {
			panic(err)
		}
		size := (len(point) - 1) / 2
		k["kty"], k["crv"], k["x"], k["y"] = "EC", key.Params().Name, B64(point[1:1+size]), B64(point[1+size:])
	case ed25519.PublicKey:
		k["kty"], k["crv"], k["x"] = "OKP", "Ed25519", B64(key)
	}
	for name, value := range more {
		k[name] = value
	}
	return k
}

// JWKS is a set of keys.
func JWKS(keys ...map[string]any) []byte { return JSON(map[string]any{"keys": keys}) }

// JSON is v.
func JSON(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

// B64 is base64url without padding.
func B64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Token joins a header, claims and what sign makes of them.
func Token(header, claims any, sign func(signed []byte) []byte) string {
	signed := B64(JSON(header)) + "." + B64(JSON(claims))
	return signed + "." + B64(sign([]byte(signed)))
}

// ES256 signs by RFC 7518, section 3.4.
func ES256(key *ecdsa.PrivateKey) func([]byte) []byte {
	return func(signed []byte) []byte {
		hash := sha256.Sum256(signed)
		r, s, err := ecdsa.Sign(rand.Reader, key, hash[:])
		if err != nil {
			panic(err)
		}
		out := make([]byte, 64)
		r.FillBytes(out[:32])
		s.FillBytes(out[32:])
		return out
	}
}

// RS256 signs by RFC 7518, section 3.3.
func RS256(key *rsa.PrivateKey) func([]byte) []byte {
	return func(signed []byte) []byte {
		hash := sha256.Sum256(signed)
		out, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, hash[:])
		if err != nil {
			panic(err)
		}
		return out
	}
}

// EdDSA signs by RFC 8037.
func EdDSA(key ed25519.PrivateKey) func([]byte) []byte {
	return func(signed []byte) []byte { return ed25519.Sign(key, signed) }
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
