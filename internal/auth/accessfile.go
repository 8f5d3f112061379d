package auth

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Bounds of an access file.
const (
	maxIdentities = 100_000
	maxName       = 128 // bytes
)

// accessFile is the file that --access-file names, in YAML or JSON: who may do what. docs/security.md has an example.
type accessFile struct {
	Identities []struct {
		Name         string   `yaml:"name"`
		Tokens       []string `yaml:"tokens"`       // sha256: and the hash of each, in hexadecimal
		Certificates []string `yaml:"certificates"` // names in client certificates: spiffe://…, another URI, or dns:NAME
		Roles        []Role   `yaml:"roles"`
		Limits       Limits   `yaml:"limits"`
		NamesTenants bool     `yaml:"names_tenants"` // its calls may say, in their metadata, for whom they are made
	} `yaml:"identities"`
	Anonymous struct {
		Roles  []Role `yaml:"roles"`
		Limits Limits `yaml:"limits"` // of each address
	} `yaml:"anonymous"`
	JWT *jwtSettings `yaml:"jwt"`
}

// jwtSettings are whose signed tokens count, and for what.
type jwtSettings struct {
	Issuer     string        `yaml:"issuer"`
	Audience   string        `yaml:"audience"`
	Algorithms []string      `yaml:"algorithms"`
	Keys       string        `yaml:"keys"`  // file of a JSON Web Key Set; a relative path begins at the access file
	Roles      []Role        `yaml:"roles"` // of every valid token
	RolesClaim string        `yaml:"roles_claim"`
	Leeway     time.Duration `yaml:"leeway"`
	Limits     Limits        `yaml:"limits"` // of each subject
}

// parseAccess reads an access file. Every fault is told.
func parseAccess(text []byte) (*accessFile, error) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	var a accessFile
	if err := d.Decode(&a); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("nothing in it: nobody could call")
		}
		return nil, err
	}
	var second yaml.Node
	if err := d.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one document")
	}
	return &a, a.check()
}

func (a *accessFile) check() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if len(a.Identities) > maxIdentities {
		fault("identities: %d, want at most %d", len(a.Identities), maxIdentities)
	}
	names, shown := map[string]bool{}, map[string]string{}
	for i, id := range a.Identities {
		path := fmt.Sprintf("identities[%d]", i)
		switch {
		case id.Name == "" || len(id.Name) > maxName || strings.ContainsFunc(id.Name, func(r rune) bool { return r < ' ' || r == 0x7f }):
			fault("%s.name: %q, want 1 to %d printing characters", path, id.Name, maxName)
		case names[id.Name]:
			fault("%s.name: %q is given twice", path, id.Name)
		}
		names[id.Name] = true
		if len(id.Tokens)+len(id.Certificates) == 0 {
			fault("%s (%s): neither tokens nor certificates: nobody could be it", path, id.Name)
		}
		if len(id.Roles) == 0 {
			fault("%s.roles (%s): none, want one at least", path, id.Name)
		}
		for j, t := range id.Tokens {
			if _, err := parseHash(t); err != nil {
				fault("%s.tokens[%d] (%s): %w", path, j, id.Name, err)
				t = fmt.Sprint(path, j)
			}
			if other, twice := shown[t]; twice {
				fault("%s.tokens[%d] (%s): the token is that of %s too", path, j, id.Name, other)
			}
			shown[t] = id.Name
		}
		for j, c := range id.Certificates {
			if err := checkCertificateName(c); err != nil {
				fault("%s.certificates[%d] (%s): %w", path, j, id.Name, err)
			}
			if other, twice := shown[c]; twice {
				fault("%s.certificates[%d] (%s): %q is a name of %s too", path, j, id.Name, c, other)
			}
			shown[c] = id.Name
		}
		id.Limits.check(path+".limits", fault)
	}
	a.Anonymous.Limits.check("anonymous.limits", fault)
	if slices.Contains(a.Anonymous.Roles, Admin) {
		fault("anonymous.roles: admin for whoever can connect, want a named identity")
	}
	if a.JWT != nil {
		a.JWT.check(fault)
	}
	return errors.Join(faults...)
}

func (s *jwtSettings) check(fault func(string, ...any)) {
	for _, f := range []struct{ name, value string }{{"issuer", s.Issuer}, {"audience", s.Audience}, {"keys", s.Keys}} {
		if f.value == "" {
			fault("jwt.%s: not given", f.name)
		}
	}
	if len(s.Algorithms) == 0 {
		fault("jwt.algorithms: none, want some of %s", strings.Join(jwtAlgorithms, ", "))
	}
	for _, a := range s.Algorithms {
		if !slices.Contains(jwtAlgorithms, a) {
			fault("jwt.algorithms: %q, want some of %s", a, strings.Join(jwtAlgorithms, ", "))
		}
	}
	if len(s.Roles) == 0 && s.RolesClaim == "" {
		fault("jwt: neither roles nor roles_claim: no token would give any")
	}
	if s.Leeway < 0 || s.Leeway > maxLeeway {
		fault("jwt.leeway: %v, want 0s to %v", s.Leeway, maxLeeway)
	}
	s.Limits.check("jwt.limits", fault)
}

func (l *Limits) check(path string, fault func(string, ...any)) {
	const most = 1e12
	if !(l.RequestsPerSecond >= 0) || l.RequestsPerSecond > most || math.IsInf(l.RequestsPerSecond, 0) {
		fault("%s.requests_per_second: %v, want 0 to %g", path, l.RequestsPerSecond, most)
	}
	if l.TokensPerMinute < 0 || l.TokensPerMinute > most {
		fault("%s.tokens_per_minute: %d, want 0 to %g", path, l.TokensPerMinute, most)
	}
	if l.Streams < 0 || l.Streams > 1<<30 {
		fault("%s.streams: %d, want 0 to %d", path, l.Streams, 1<<30)
	}
}

const hashPrefix = "sha256:"

// parseHash reads "sha256:HEX". What is no hash is not quoted: it may be the token itself.
func parseHash(text string) (hash [sha256.Size]byte, err error) {
	digits, ok := strings.CutPrefix(text, hashPrefix)
	b, bad := hex.DecodeString(digits)
	if !ok || bad != nil || len(b) != len(hash) || strings.ToLower(digits) != digits {
		return hash, fmt.Errorf("no hash, want %s and %d small hexadecimal digits; `inferno-server token` makes both", hashPrefix, 2*len(hash))
	}
	return [sha256.Size]byte(b), nil
}

func checkCertificateName(name string) error {
	if host, ok := strings.CutPrefix(name, "dns:"); ok {
		if host == "" || strings.ContainsAny(host, "* /") || strings.ToLower(host) != host {
			return fmt.Errorf("%q, want dns: and one name in small letters, without *", name)
		}
		return nil
	}
	u, err := url.Parse(name)
	if err != nil || u.Scheme == "" || u.Host == "" || u.User != nil {
		return fmt.Errorf("%q, want spiffe://…, another URI with a host, or dns:NAME", name)
	}
	if u.Scheme == "spiffe" && (u.Path == "" || u.Path == "/" || u.RawQuery != "" || u.Fragment != "" || u.Port() != "") {
		return fmt.Errorf("%q, want a SPIFFE id of a workload: spiffe://DOMAIN/PATH", name)
	}
	return nil
}

// keysPath is where the file of keys lies.
func (s *jwtSettings) keysPath(accessFile string) string {
	if filepath.IsAbs(s.Keys) {
		return s.Keys
	}
	return filepath.Join(filepath.Dir(accessFile), s.Keys)
}
