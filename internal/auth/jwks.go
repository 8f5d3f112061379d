package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
)

// Bounds of a set of keys.
const (
	maxKeys = 64
	maxRSA  = 8192 // bits; longer ones take too long to verify
)

// verifyKey is a public key and the algorithms that it may be used with.
type verifyKey struct {
	public     crypto.PublicKey
	algorithms []string
}

// parseJWKS reads a JSON Web Key Set, RFC 7517. A key without an id is for tokens that name none, and must be the only one.
func parseJWKS(text []byte) (map[string]verifyKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, err
	}
	if len(set.Keys) == 0 || len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("%d keys, want 1 to %d", len(set.Keys), maxKeys)
	}
	keys := map[string]verifyKey{}
	for i, raw := range set.Keys {
		id, key, err := parseJWK(raw)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		}
		if _, twice := keys[id]; twice {
			return nil, fmt.Errorf("key %d: kid %q is there twice", i+1, id)
		}
		if key.public != nil {
			keys[id] = key
		}
	}
	if _, unnamed := keys[""]; unnamed && len(keys) > 1 {
		return nil, errors.New("a key without kid beside others: tokens could not say which they mean")
	}
	if len(keys) == 0 {
		return nil, errors.New("no key that signs")
	}
	return keys, nil
}

// jwk is RFC 7517 and 7518, section 6; RFC 8037 for OKP.
type jwk struct {
	Kty    string   `json:"kty"`
	Kid    string   `json:"kid"`
	Use    string   `json:"use"`
	KeyOps []string `json:"key_ops"`
	Alg    string   `json:"alg"`
	Crv    string   `json:"crv"`
	N      string   `json:"n"`
	E      string   `json:"e"`
	X      string   `json:"x"`
	Y      string   `json:"y"`
	D      string   `json:"d"`
	K      string   `json:"k"`
}

// parseJWK returns a key without `public` for one that is not for signatures.
func parseJWK(raw []byte) (id string, key verifyKey, err error) {
	var k jwk
	if err := json.Unmarshal(raw, &k); err != nil {
		return "", key, err
	}
	if k.D != "" || k.K != "" {
		return "", key, fmt.Errorf("kid %q: a secret in a set of public keys", k.Kid)
	}
	if k.Use != "" && k.Use != "sig" {
		return k.Kid, key, nil
	}
	switch k.Kty {
	case "RSA":
		key, err = k.rsa()
	case "EC":
		key, err = k.ec()
	case "OKP":
		key, err = k.ed25519()
	default:
		err = fmt.Errorf("kty %q, want RSA, EC or OKP", k.Kty)
	}
	if err == nil && k.Alg != "" {
		err = fmt.Errorf("alg %q, want one of %q for this key", k.Alg, key.algorithms)
		for _, a := range key.algorithms {
			if a == k.Alg {
				key.algorithms, err = []string{a}, nil
				break
			}
		}
	}
	if err != nil {
		return "", verifyKey{}, fmt.Errorf("kid %q: %w", k.Kid, err)
	}
	return k.Kid, key, nil
}

func (k *jwk) rsa() (verifyKey, error) {
	n, err := unsigned("n", k.N)
	if err != nil {
		return verifyKey{}, err
	}
	e, err := unsigned("e", k.E)
	if err != nil {
		return verifyKey{}, err
	}
	if bits := n.BitLen(); bits < minRSA || bits > maxRSA {
		return verifyKey{}, fmt.Errorf("n has %d bits, want %d to %d", bits, minRSA, maxRSA)
	}
	if !e.IsInt64() || e.Int64() < 3 || e.Int64() >= 1<<31 || e.Int64()%2 == 0 {
		return verifyKey{}, fmt.Errorf("e is %v, want an odd number from 3 on below 2³¹", e)
	}
	return verifyKey{
		&rsa.PublicKey{N: n, E: int(e.Int64())}, []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"},
	}, nil
}

func (k *jwk) ec() (verifyKey, error) {
	var curve elliptic.Curve
	var algorithm string
	switch k.Crv {
	case "P-256":
		curve, algorithm = elliptic.P256(), "ES256"
	case "P-384":
		curve, algorithm = elliptic.P384(), "ES384"
	case "P-521":
		curve, algorithm = elliptic.P521(), "ES512"
	default:
		return verifyKey{}, fmt.Errorf("crv %q, want P-256, P-384 or P-521", k.Crv)
	}
	size := (curve.Params().BitSize + 7) / 8
	point := []byte{4} // uncompressed
	for _, c := range []struct{ name, text string }{{"x", k.X}, {"y", k.Y}} {
		b, err := base64.RawURLEncoding.DecodeString(c.text)
		if err != nil || len(b) != size {
			return verifyKey{}, fmt.Errorf("%s has %d bytes in base64url, want %d", c.name, len(b), size)
		}
		point = append(point, b...)
	}
	public, err := ecdsa.ParseUncompressedPublicKey(curve, point) // which asks for a point of the curve
	if err != nil {
		return verifyKey{}, err
	}
	return verifyKey{public, []string{algorithm}}, nil
}

func (k *jwk) ed25519() (verifyKey, error) {
	if k.Crv != "Ed25519" {
		return verifyKey{}, fmt.Errorf("crv %q, want Ed25519", k.Crv)
	}
	b, err := base64.RawURLEncoding.DecodeString(k.X)
	if err != nil || len(b) != ed25519.PublicKeySize {
		return verifyKey{}, fmt.Errorf("x has %d bytes in base64url, want %d", len(b), ed25519.PublicKeySize)
	}
	return verifyKey{ed25519.PublicKey(b), []string{"EdDSA"}}, nil
}

func unsigned(name, text string) (*big.Int, error) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) == 0 {
		return nil, fmt.Errorf("%s is no number in base64url", name)
	}
	return new(big.Int).SetBytes(b), nil
}
