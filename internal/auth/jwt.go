package auth

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Bounds of signed tokens.
const (
	maxLeeway  = 5 * time.Minute
	maxSubject = 256 // bytes
)

// jwtAlgorithms are those that may be configured: only ones whose verifying key is public. A shared secret would let each server sign.
var jwtAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// issuer verifies the tokens of one issuer. RFC 7519, and what RFC 8725 advises: algorithms are fixed by configuration and key, never by the
// token alone; issuer, audience and expiry are asked for; a header says nothing that leads elsewhere (jku, x5u, jwk).
type issuer struct {
	keys       map[string]verifyKey
	algorithms []string
	roles      Roles
	claim      string // that holds further roles; "": none
	limits     Limits
	name       string
	parser     *jwt.Parser
}

func newIssuer(s *jwtSettings, keys map[string]verifyKey, now func() time.Time) *issuer {
	return &issuer{
		keys: keys, algorithms: s.Algorithms, roles: RolesOf(s.Roles...), claim: s.RolesClaim, limits: s.Limits, name: s.Issuer,
		parser: jwt.NewParser(
			jwt.WithValidMethods(s.Algorithms), jwt.WithIssuer(s.Issuer), jwt.WithAudience(s.Audience), jwt.WithExpirationRequired(),
			jwt.WithIssuedAt(), jwt.WithLeeway(s.Leeway), jwt.WithStrictDecoding(), jwt.WithTimeFunc(now),
		),
	}
}

// identify returns whom a token names.
func (i *issuer) identify(token string) (*Identity, error) {
	if err := uniqueMembers(token); err != nil {
		return nil, err
	}
	claims := jwt.MapClaims{}
	if _, err := i.parser.ParseWithClaims(token, claims, i.key); err != nil {
		return nil, refused("signed token: %s", reasonOf(err))
	}
	subject, err := claims.GetSubject()
	if err != nil || subject == "" || len(subject) > maxSubject || strings.ContainsFunc(subject, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, refused("signed token: its subject is not 1 to %d printing characters", maxSubject)
	}
	roles := i.roles
	if i.claim != "" {
		for _, name := range claimed(claims[i.claim]) {
			var r Role
			if r.UnmarshalText([]byte(name)) == nil { // others are another service's
				roles |= RolesOf(r)
			}
		}
	}
	return &Identity{Name: subject, Key: "jwt:" + i.name + "\x00" + subject, Roles: roles, Limits: i.limits}, nil
}

// key is what a token must be signed by. The library has looked at the algorithm already.
func (i *issuer) key(t *jwt.Token) (any, error) {
	if _, critical := t.Header["crit"]; critical {
		return nil, errors.New("an extension that has to be understood")
	}
	if typ, has := t.Header["typ"]; has {
		if name, _ := typ.(string); !strings.EqualFold(name, "JWT") && !strings.EqualFold(name, "at+jwt") {
			return nil, errors.New("typ is not that of an access token")
		}
	}
	id := ""
	if kid, has := t.Header["kid"]; has {
		var ok bool
		if id, ok = kid.(string); !ok || id == "" {
			return nil, errors.New("kid is no text")
		}
	}
	key, known := i.keys[id]
	if !known && id == "" && len(i.keys) == 1 {
		for _, only := range i.keys {
			key, known = only, true
		}
	}
	if !known {
		return nil, errors.New("no such key")
	}
	if !slices.Contains(key.algorithms, t.Method.Alg()) {
		return nil, errors.New("the key is for another algorithm")
	}
	return key.public, nil
}

// reasonOf is the kind of a failure: the library's text may quote the token.
func reasonOf(err error) string {
	for _, kind := range []error{
		jwt.ErrTokenMalformed, jwt.ErrTokenExpired, jwt.ErrTokenNotValidYet, jwt.ErrTokenUsedBeforeIssued, jwt.ErrTokenInvalidAudience,
		jwt.ErrTokenInvalidIssuer, jwt.ErrTokenRequiredClaimMissing, jwt.ErrTokenSignatureInvalid, jwt.ErrTokenUnverifiable,
	} {
		if errors.Is(err, kind) {
			return kind.Error()
		}
	}
	return "not valid"
}

// claimed are the texts of a list, or of one text that spaces divide, as `scope` is.
func claimed(value any) (names []string) {
	switch v := value.(type) {
	case string:
		return strings.Fields(v)
	case []any:
		for _, e := range v {
			if s, ok := e.(string); ok {
				names = append(names, s)
			}
		}
	}
	return names
}

// uniqueMembers refuses a header or claims in which a name stands twice, or twice but for case: readers differ in which they take.
func uniqueMembers(token string) error {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return refused("signed token: %d parts, want 3", len(parts))
	}
	for _, part := range parts[:2] {
		text, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil {
			return refused("signed token: not base64url")
		}
		d := json.NewDecoder(bytes.NewReader(text))
		if first, err := d.Token(); err != nil || first != json.Delim('{') {
			return refused("signed token: no JSON object")
		}
		seen := map[string]bool{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return refused("signed token: no JSON object")
			}
			key := strings.ToLower(fmt.Sprint(name))
			if seen[key] {
				return refused("signed token: a name stands twice")
			}
			seen[key] = true
			var skip json.RawMessage
			if err := d.Decode(&skip); err != nil {
				return refused("signed token: no JSON object")
			}
		}
	}
	return nil
}
