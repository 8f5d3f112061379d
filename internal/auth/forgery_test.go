package auth

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/inferno-serve/inferno/internal/auth/authtest"
)

// signers are an issuer's keys, and what knows them.
type signers struct {
	access  *Access
	rsa     *rsa.PrivateKey
	ed      ed25519.PrivateKey
	sign    map[string]func([]byte) []byte // by kid
	now     time.Time
	stolen  func([]byte) []byte // of a key that the server does not know
	rsaPEM  []byte
	jwkText []byte // of the key "r", as the set has it
}

func newSigners(t *testing.T) *signers {
	t.Helper()
	dir := t.TempDir()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec := authtest.ECKey(t)
	der, err := x509.MarshalPKIXPublicKey(rsaKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	jwkOfRSA := authtest.JWK(rsaKey.Public(), map[string]any{"kid": "r"})
	authtest.Write(t, filepath.Join(dir, "keys.json"), authtest.JWKS(
		jwkOfRSA, authtest.JWK(ec.Public(), map[string]any{"kid": "e", "alg": "ES256"}), authtest.JWK(public, map[string]any{"kid": "d"}),
	))
	file := filepath.Join(dir, "access.yaml")
	authtest.Write(t, file, []byte(`
jwt:
  issuer: https://issuer.test
  audience: inferno
  algorithms: [RS256, ES256, EdDSA]
  keys: keys.json
  roles: [infer]
  roles_claim: inferno_roles
  leeway: 10s
`))
	s := &signers{now: time.Unix(2_000_000_000, 0), rsa: rsaKey, ed: private, jwkText: authtest.JSON(jwkOfRSA)}
	s.access, err = OpenAccess(AccessOptions{File: file, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return s.now }})
	if err != nil {
		t.Fatal(err)
	}
	s.sign = map[string]func([]byte) []byte{"r": authtest.RS256(rsaKey), "e": authtest.ES256(ec), "d": authtest.EdDSA(private)}
	s.stolen = authtest.ES256(authtest.ECKey(t))
	s.rsaPEM = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	return s
}

func (s *signers) claims(change map[string]any) map[string]any {
	c := map[string]any{"iss": "https://issuer.test", "aud": "inferno", "sub": "alice", "exp": s.now.Unix() + 60, "iat": s.now.Unix() - 60}
	maps.Copy(c, change)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func TestSignedTokensName(t *testing.T) {
	s := newSigners(t)
	for name, c := range map[string]struct {
		alg, kid string
		typ      any
		claims   map[string]any
		roles    Roles
	}{
		"RSA":                 {"RS256", "r", nil, nil, RolesOf(Infer)},
		"ECDSA":               {"ES256", "e", "JWT", nil, RolesOf(Infer)},
		"Ed25519":             {"EdDSA", "d", "at+jwt", nil, RolesOf(Infer)},
		"several audiences":   {"ES256", "e", nil, map[string]any{"aud": []string{"x", "inferno"}}, RolesOf(Infer)},
		"roles as a list":     {"ES256", "e", nil, map[string]any{"inferno_roles": []string{"read", "other"}}, RolesOf(Infer, Read)},
		"roles as a text":     {"ES256", "e", nil, map[string]any{"inferno_roles": "read admin openid"}, RolesOf(Infer, Read, Admin)},
		"expired within 10 s": {"ES256", "e", nil, map[string]any{"exp": s.now.Unix() - 5}, RolesOf(Infer)},
	} {
		header := map[string]any{"alg": c.alg, "kid": c.kid}
		if c.typ != nil {
			header["typ"] = c.typ
		}
		caller, err := s.access.Identify([]string{"Bearer " + authtest.Token(header, s.claims(c.claims), s.sign[c.kid])}, nil, nil)
		if err != nil || caller.Name != "alice" || caller.Roles != c.roles {
			t.Errorf("%s: %+v, %v, want alice with roles %b", name, caller.Identity, err, c.roles)
		}
	}
}

// Each case is a token that differs from a good one in what its name says.
func TestForgedTokensAreRefused(t *testing.T) {
	s := newSigners(t)
	good := func(header map[string]any, claims map[string]any) string {
		h := map[string]any{"alg": "ES256", "kid": "e", "typ": "JWT"}
		maps.Copy(h, header)
		maps.DeleteFunc(h, func(_ string, v any) bool { return v == nil })
		return authtest.Token(h, s.claims(claims), s.sign["e"])
	}
	if _, err := s.access.Identify([]string{"Bearer " + good(nil, nil)}, nil, nil); err != nil {
		t.Fatal(err) // else all would be refused for another reason
	}
	macOf := func(secret []byte) func([]byte) []byte {
		return func(signed []byte) []byte {
			mac := hmac.New(sha256.New, secret)
			mac.Write(signed)
			return mac.Sum(nil)
		}
	}
	none := func([]byte) []byte { return nil }
	hmacToken := func(kid string, secret []byte) string {
		return authtest.Token(map[string]any{"alg": "HS256", "kid": kid}, s.claims(nil), macOf(secret))
	}
	token := good(nil, nil)
	parts := strings.Split(token, ".")
	now := s.now.Unix()
	raw := func(header, claims string) string {
		signed := authtest.B64([]byte(header)) + "." + authtest.B64([]byte(claims))
		return signed + "." + authtest.B64(s.sign["e"]([]byte(signed)))
	}
	claimsText := string(authtest.JSON(s.claims(nil)))
	spoiled := []byte(parts[2])
	if spoiled[10]++; spoiled[10] == 'Z'+1 || spoiled[10] == 'z'+1 || spoiled[10] == '9'+1 {
		spoiled[10] = 'A'
	}
	unused := bytes.Clone([]byte(parts[2])) // 64 bytes end in a character of which two bits count
	unused[len(unused)-1]++

	forgeries := map[string]string{
		"alg none":                            authtest.Token(map[string]any{"alg": "none"}, s.claims(nil), none),
		"alg None, kid of a key":              authtest.Token(map[string]any{"alg": "None", "kid": "e"}, s.claims(nil), none),
		"alg nONE with a signature":           good(map[string]any{"alg": "nONE"}, nil),
		"alg missing":                         good(map[string]any{"alg": nil}, nil),
		"alg a number":                        good(map[string]any{"alg": 256}, nil),
		"alg a list":                          good(map[string]any{"alg": []string{"ES256"}}, nil),
		"alg in small letters":                good(map[string]any{"alg": "es256"}, nil),
		"HMAC by the RSA key in PEM":          hmacToken("r", s.rsaPEM),
		"HMAC by the RSA key in DER":          hmacToken("r", x509.MarshalPKCS1PublicKey(&s.rsa.PublicKey)),
		"HMAC by the modulus":                 hmacToken("r", s.rsa.N.Bytes()),
		"HMAC by the key as JSON":             hmacToken("r", s.jwkText),
		"HMAC by the Ed25519 key":             hmacToken("d", s.ed.Public().(ed25519.PublicKey)),
		"HMAC by nothing":                     hmacToken("", nil),
		"algorithm of another key":            authtest.Token(map[string]any{"alg": "RS256", "kid": "e"}, s.claims(nil), s.sign["r"]),
		"algorithm not configured":            authtest.Token(map[string]any{"alg": "PS256", "kid": "r"}, s.claims(nil), s.sign["r"]),
		"signed by a stranger's key":          authtest.Token(map[string]any{"alg": "ES256", "kid": "e"}, s.claims(nil), s.stolen),
		"signed by another of the keys":       authtest.Token(map[string]any{"alg": "EdDSA", "kid": "e"}, s.claims(nil), s.sign["d"]),
		"signature of zeros":                  authtest.Token(map[string]any{"alg": "ES256", "kid": "e"}, s.claims(nil), func([]byte) []byte { return make([]byte, 64) }),
		"signature missing":                   parts[0] + "." + parts[1] + ".",
		"signature of another token":          parts[0] + "." + authtest.B64(authtest.JSON(s.claims(map[string]any{"sub": "root"}))) + "." + parts[2],
		"one bit of the signature":            parts[0] + "." + parts[1] + "." + string(spoiled),
		"bits of the signature that none use": parts[0] + "." + parts[1] + "." + string(unused),
		"signature in DER":                    authtest.Token(map[string]any{"alg": "ES256", "kid": "e"}, s.claims(nil), func(b []byte) []byte { return append([]byte{0x30, 0x44}, s.sign["e"](b)...) }),
		"padding":                             token + "==",
		"four parts":                          token + ".x",
		"two parts":                           parts[0] + "." + parts[1],
		"encrypted, five parts":               token + ".x.y",
		"kid unknown":                         good(map[string]any{"kid": "x"}, nil),
		"kid missing among several":           good(map[string]any{"kid": nil}, nil),
		"kid empty":                           good(map[string]any{"kid": ""}, nil),
		"kid a path":                          hmacToken("../../../../dev/null", nil),
		"kid an injection":                    hmacToken("x' UNION SELECT 'secret", []byte("secret")),
		"kid a number":                        good(map[string]any{"kid": 1}, nil),
		"key in the header":                   authtest.Token(map[string]any{"alg": "EdDSA", "jwk": authtest.JWK(s.ed.Public(), nil)}, s.claims(nil), s.sign["d"]),
		"key by an address":                   good(map[string]any{"kid": "x", "jku": "https://attacker.test/keys"}, nil),
		"crit unknown":                        good(map[string]any{"crit": []string{"exp2"}, "exp2": 1}, nil),
		"crit empty":                          good(map[string]any{"crit": []string{}}, nil),
		"crit b64":                            good(map[string]any{"crit": []string{"b64"}, "b64": false}, nil),
		"typ of another use":                  good(map[string]any{"typ": "secevent+jwt"}, nil),
		"typ of a proof":                      good(map[string]any{"typ": "dpop+jwt"}, nil),
		"expired":                             good(nil, map[string]any{"exp": now - 11}),
		"exp missing":                         good(nil, map[string]any{"exp": nil}),
		"exp a text":                          good(nil, map[string]any{"exp": "9999999999"}),
		"exp zero":                            good(nil, map[string]any{"exp": 0}),
		"not yet valid":                       good(nil, map[string]any{"nbf": now + 11}),
		"issued in the future":                good(nil, map[string]any{"iat": now + 11}),
		"audience another":                    good(nil, map[string]any{"aud": "other"}),
		"audience missing":                    good(nil, map[string]any{"aud": nil}),
		"audience empty":                      good(nil, map[string]any{"aud": []string{}}),
		"audience in capitals":                good(nil, map[string]any{"aud": "INFERNO"}),
		"issuer another":                      good(nil, map[string]any{"iss": "https://attacker.test"}),
		"issuer with more":                    good(nil, map[string]any{"iss": "https://issuer.test/"}),
		"issuer missing":                      good(nil, map[string]any{"iss": nil}),
		"subject missing":                     good(nil, map[string]any{"sub": nil}),
		"subject empty":                       good(nil, map[string]any{"sub": ""}),
		"subject with a line end":             good(nil, map[string]any{"sub": "alice\nadmin"}),
		"subject too long":                    good(nil, map[string]any{"sub": strings.Repeat("a", maxSubject+1)}),
		"alg twice":                           raw(`{"alg":"none","kid":"e","alg":"ES256"}`, claimsText),
		"alg twice but for case":              raw(`{"alg":"ES256","kid":"e","ALG":"none"}`, claimsText),
		"sub twice":                           raw(`{"alg":"ES256","kid":"e"}`, `{"sub":"root",`+claimsText[1:]),
		"claims a list":                       raw(`{"alg":"ES256","kid":"e"}`, `[1]`),
		"claims null":                         raw(`{"alg":"ES256","kid":"e"}`, `null`),
		"header null":                         raw(`null`, claimsText),
		"claims cut":                          raw(`{"alg":"ES256","kid":"e"}`, claimsText[:20]),
		"very long":                           good(nil, map[string]any{"x": strings.Repeat("a", maxToken)}),
		"many dots":                           strings.Repeat(".", maxToken),
	}
	for name, forged := range forgeries {
		if forged == token {
			t.Fatalf("%s: the token is the good one", name)
		}
		caller, err := s.access.Identify([]string{"Bearer " + forged}, nil, nil)
		if !errors.Is(err, ErrUnauthenticated) || caller.Identity != nil {
			t.Errorf("%s: %+v, %v, want it refused", name, caller.Identity, err)
		}
		if err != nil && (strings.Contains(err.Error(), parts[1][:16]) || strings.Contains(err.Error(), "alice")) {
			t.Errorf("%s: the reason quotes the token: %v", name, err)
		}
	}
	t.Logf("%d forgeries", len(forgeries))
}

func TestKeySetsThatCannotBeTrusted(t *testing.T) {
	ec := authtest.ECKey(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	key := func(more map[string]any) map[string]any { return authtest.JWK(ec.Public(), more) }
	many := make([]map[string]any, maxKeys+1)
	for i := range many {
		many[i] = key(map[string]any{"kid": strings.Repeat("k", i+1)})
	}
	rsaKey := func(n, e string) map[string]any {
		return map[string]any{"kty": "RSA", "kid": "r", "n": n, "e": e}
	}
	long := authtest.B64(bytes.Repeat([]byte{0xff}, 256))
	for name, c := range map[string]struct {
		text []byte
		says string
	}{
		"no JSON":            {[]byte("{"), "JSON"},
		"no keys":            {authtest.JWKS(), "0 keys"},
		"too many":           {authtest.JWKS(many...), "65 keys"},
		"a shared secret":    {authtest.JWKS(map[string]any{"kty": "oct", "k": "c2VjcmV0"}), "a secret"},
		"a private key":      {authtest.JWKS(key(map[string]any{"kid": "p", "d": "c2VjcmV0"})), "a secret"},
		"one id twice":       {authtest.JWKS(key(map[string]any{"kid": "a"}), key(map[string]any{"kid": "a"})), "twice"},
		"one without id":     {authtest.JWKS(key(nil), key(map[string]any{"kid": "a"})), "without kid"},
		"for encryption":     {authtest.JWKS(key(map[string]any{"use": "enc"})), "no key that signs"},
		"another algorithm":  {authtest.JWKS(key(map[string]any{"alg": "RS256"})), "alg"},
		"alg none":           {authtest.JWKS(key(map[string]any{"alg": "none"})), "alg"},
		"a weak RSA key":     {authtest.JWKS(authtest.JWK(weak.Public(), nil)), "1024 bits"},
		"a huge RSA key":     {authtest.JWKS(rsaKey(authtest.B64(bytes.Repeat([]byte{0xff}, 2048)), "AQAB")), "16384 bits"},
		"e is 1":             {authtest.JWKS(rsaKey(long, "AQ")), "e is 1"},
		"e is even":          {authtest.JWKS(rsaKey(long, "BA")), "e is 4"},
		"e is huge":          {authtest.JWKS(rsaKey(long, long)), "2³¹"},
		"n missing":          {authtest.JWKS(rsaKey("", "AQAB")), "n is no number"},
		"off the curve":      {authtest.JWKS(key(map[string]any{"x": authtest.B64(make([]byte, 32))})), ""},
		"x short":            {authtest.JWKS(key(map[string]any{"x": "AA"})), "x has 1 bytes"},
		"an unknown curve":   {authtest.JWKS(key(map[string]any{"crv": "secp256k1"})), "secp256k1"},
		"an unknown type":    {authtest.JWKS(key(map[string]any{"kty": "AKP"})), "AKP"},
		"X25519":             {authtest.JWKS(map[string]any{"kty": "OKP", "crv": "X25519", "x": "AA"}), "X25519"},
		"Ed25519 of 31 byte": {authtest.JWKS(map[string]any{"kty": "OKP", "crv": "Ed25519", "x": authtest.B64(make([]byte, 31))}), "31 bytes"},
	} {
		if _, err := parseJWKS(c.text); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	if keys, err := parseJWKS(authtest.JWKS(key(nil))); err != nil || len(keys) != 1 {
		t.Errorf("one key without id: %v", err)
	}
}
