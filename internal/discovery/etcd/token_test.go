package etcd_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/inferno-serve/inferno/internal/discovery/etcd"
)

// An instance that has a signed token in place of a password, which somebody renews: one that has expired is refused until there is another.
func TestSignedTokensAreReadAgainWhenTheyExpire(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	private, err := x509.MarshalECPrivateKey(key)
	check(t, err)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	check(t, err)
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		check(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	c := start(t, 1, "--auth-token", "jwt,sign-method=ES256,ttl=10m,pub-key="+write("public", "PUBLIC KEY", public)+
		",priv-key="+write("private", "EC PRIVATE KEY", private))
	root := withUsers(t, c)
	auth, err := root.AuthStatus(t.Context())
	check(t, err)
	sign := func(life time.Duration) string {
		text, err := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
			"username": "inferno", "revision": auth.AuthRevision, "exp": time.Now().Add(life).Unix(),
		}).SignedString(key)
		check(t, err)
		return text
	}
	var token atomic.Value
	token.Store(sign(-time.Minute))
	r := open(t, c, secret(func() etcd.Secret { return etcd.Secret{Token: token.Load().(string)} }))
	i := instance("a", "m")
	if _, err := r.Register(t.Context(), i); err == nil || !strings.Contains(err.Error(), "token") {
		t.Errorf("with a token that has expired: %v, want that etcd refuses it", err)
	}
	token.Store(sign(3 * time.Second))
	g := register(t, r, i)
	came := created(t, root)
	eventually(t, "the token is refused", func() bool { return g.Update(t.Context(), i) != nil || tick(&i.Load.Running) })
	t.Logf("while it lasts: %v", g.Held())
	token.Store(sign(time.Hour))
	back := eventually(t, "held by the new one", func() bool { return g.Update(t.Context(), i) == nil && g.Held() == nil })
	figure(t, "an update is taken after the token was renewed", back, 2*time.Second)
	if now := created(t, root); now != came {
		t.Error("the key was gone")
	}
	check(t, g.Withdraw(t.Context()))
	eventually(t, "no lease left", func() bool {
		leases, err := root.Leases(t.Context())
		return err == nil && len(leases.Leases) == 0
	})
}

// tick makes the next update one of something.
func tick(n *int) bool {
	*n++
	return false
}
