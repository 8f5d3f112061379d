package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"
)

// maxToken is the longest token that is looked at, in bytes.
const maxToken = 8 << 10

// AccessOptions say whom a server knows.
type AccessOptions struct {
	File string
	TLS  *TLS             // whose client certificates count; nil: none
	Now  func() time.Time // by which tokens expire; nil: time.Now
	Poll time.Duration
	Log  *slog.Logger
}

// Access says who calls and what he may do. A nil *Access lets everybody do everything.
type Access struct {
	o      AccessOptions
	blind  [sha256.Size]byte // key of this process
	state  *reloaded[people]
	ledger ledger
}

// people is what one state of the files says.
type people struct {
	tokens       map[[sha256.Size]byte]*Identity // by blinded hash
	certificates map[string]*Identity            // by name
	anonymous    Identity                        // without a key
	issuer       *issuer                         // nil: signed tokens do not count
}

// OpenAccess reads the access file and what it names.
func OpenAccess(o AccessOptions) (*Access, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	a := &Access{o: o, ledger: ledger{uses: map[string]*use{}}}
	_, _ = rand.Read(a.blind[:]) // never fails
	var err error
	a.state, err = open("identities", a.load)
	return a, err
}

// Run reads the files again when they change, until ctx ends.
func (a *Access) Run(ctx context.Context) error { return a.state.run(ctx, a.o.Poll, a.o.Log) }

func (a *Access) load(f *files) (*people, error) {
	const setting = "access-file"
	text, err := f.read(setting, a.o.File, private)
	if err != nil {
		return nil, err
	}
	file, err := parseAccess(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", setting, a.o.File, err)
	}
	p := &people{tokens: map[[sha256.Size]byte]*Identity{}, certificates: map[string]*Identity{}}
	for _, entry := range file.Identities {
		id := &Identity{
			Name: entry.Name, Key: "file:" + entry.Name, Roles: RolesOf(entry.Roles...), Limits: entry.Limits, NamesTenants: entry.NamesTenants,
		}
		for _, t := range entry.Tokens {
			hash, err := parseHash(t)
			if err != nil {
				return nil, err
			}
			p.tokens[a.blinded(hash)] = id
		}
		for _, name := range entry.Certificates {
			p.certificates[name] = id
		}
	}
	p.anonymous = Identity{Name: "anonymous", Roles: RolesOf(file.Anonymous.Roles...), Limits: file.Anonymous.Limits}
	if file.JWT != nil {
		path := file.JWT.keysPath(a.o.File)
		text, err := f.read("jwt.keys", path, public)
		if err != nil {
			return nil, err
		}
		keys, err := parseJWKS(text)
		if err != nil {
			return nil, fmt.Errorf("jwt.keys: %s: %w", path, err)
		}
		p.issuer = newIssuer(file.JWT, keys, a.o.Now)
	}
	return p, nil
}

// blinded is by what a token is found. Tokens have 256 random bits, so that a plain hash cannot be guessed back and a slow one would only let
// callers burn the server's time. How long the search in a table takes tells at most of this value, which nobody outside can compute.
func (a *Access) blinded(hash [sha256.Size]byte) [sha256.Size]byte {
	mac := hmac.New(sha256.New, a.blind[:])
	mac.Write(hash[:])
	return [sha256.Size]byte(mac.Sum(nil))
}

// Identify says who calls: by the authorization header's values, else by the certificate, else nobody in particular from an address. A header
// that does not hold is an error, whatever else there is. The error is ErrUnauthenticated.
func (a *Access) Identify(authorization []string, state *tls.ConnectionState, address net.Addr) (Caller, error) {
	p := a.state.current.Load()
	id, err := p.identify(a, authorization, state, address)
	if err != nil {
		return Caller{}, err
	}
	return Caller{id, a.ledger.of(id.Key)}, nil
}

func (p *people) identify(a *Access, authorization []string, state *tls.ConnectionState, address net.Addr) (*Identity, error) {
	switch {
	case len(authorization) > 1:
		return nil, refused("%d authorization headers", len(authorization))
	case len(authorization) == 1:
		return p.ofToken(a, authorization[0])
	case state != nil && len(state.PeerCertificates) > 0:
		return p.ofCertificate(a.o.TLS, state)
	}
	if p.anonymous.Roles == 0 {
		return nil, refused("no token and no certificate")
	}
	id := p.anonymous
	id.Key = "address:" + network(address)
	return &id, nil
}

func (p *people) ofToken(a *Access, header string) (*Identity, error) {
	const scheme = "bearer "
	if len(header) > maxToken+len(scheme) {
		return nil, refused("authorization of %d bytes, at most %d are read", len(header), maxToken)
	}
	if len(header) <= len(scheme) || !strings.EqualFold(header[:len(scheme)], scheme) {
		return nil, refused("authorization is no bearer token")
	}
	token := header[len(scheme):]
	if id := p.tokens[a.blinded(sha256.Sum256([]byte(token)))]; id != nil {
		return id, nil
	}
	if p.issuer != nil && strings.Count(token, ".") == 2 {
		return p.issuer.identify(token)
	}
	return nil, refused("unknown token")
}

func (p *people) ofCertificate(t *TLS, state *tls.ConnectionState) (*Identity, error) {
	if t == nil {
		return nil, refused("no authority for client certificates")
	}
	if err := t.verify(state); err != nil {
		return nil, refused("client certificate: %v", err)
	}
	leaf := state.PeerCertificates[0]
	var found *Identity
	for _, uri := range leaf.URIs {
		if uri.Scheme == "spiffe" && len(leaf.URIs) > 1 {
			return nil, refused("client certificate: a SPIFFE id beside other URIs")
		}
		if id := p.certificates[uri.String()]; id != nil {
			if found != nil && found != id {
				return nil, refused("client certificate: names of two identities")
			}
			found = id
		}
	}
	for _, name := range leaf.DNSNames {
		if id := p.certificates["dns:"+strings.ToLower(name)]; id != nil {
			if found != nil && found != id {
				return nil, refused("client certificate: names of two identities")
			}
			found = id
		}
	}
	if found != nil {
		return found, nil
	}
	// An authority vouches for him, so he is somebody; the file has no role for him.
	return &Identity{Name: "certificate not in the access file", Key: "unlisted"}, nil
}

// Allow is a *DeniedError unless the caller has the role.
func (c Caller) Allow(role Role) error {
	if !c.Roles.Has(role) {
		return &DeniedError{c.Name, role}
	}
	return nil
}

// network is what an address has in common with others of the same host: an IPv6 host may choose among 2⁶⁴.
func network(address net.Addr) string {
	if address == nil {
		return ""
	}
	parsed, err := netip.ParseAddrPort(address.String())
	if err != nil {
		return address.Network() // a Unix socket
	}
	ip := parsed.Addr().Unmap()
	if ip.Is6() {
		if prefix, err := ip.Prefix(64); err == nil {
			return prefix.String()
		}
	}
	return ip.String()
}

// tokenPrefix lets people and scanners see what a token is for.
const tokenPrefix = "inferno_"

// NewToken makes a token, and what stands for it in an access file.
func NewToken() (token, entry string) {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	token = tokenPrefix + base64.RawURLEncoding.EncodeToString(secret[:])
	hash := sha256.Sum256([]byte(token))
	return token, hashPrefix + hex.EncodeToString(hash[:])
}
