package auth

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/inferno-serve/inferno/internal/auth/authtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTLSFilesThatCannotBeServed(t *testing.T) {
	ca := authtest.NewAuthority(t, "ca")
	good := ca.Server()
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	past := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	future := func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }
	forClients := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }
	nameless := func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil }
	pair := func(p authtest.Pair) func(string) {
		return func(dir string) {
			authtest.Write(t, filepath.Join(dir, "cert.pem"), p.Cert)
			authtest.Write(t, filepath.Join(dir, "key.pem"), p.Key)
		}
	}
	file := func(name string, text []byte) func(string) {
		return func(dir string) { authtest.Write(t, filepath.Join(dir, name), text) }
	}
	mode := func(name string, mode os.FileMode) func(string) {
		return func(dir string) {
			if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	gone := func(name string) func(string) {
		return func(dir string) {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	folder := func(name string) func(string) {
		return func(dir string) {
			gone(name)(dir)
			if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		spoil func(dir string)
		says  string
	}{
		"certificate missing":            {gone("cert.pem"), "tls-cert"},
		"key missing":                    {gone("key.pem"), "tls-key"},
		"certificate a folder":           {folder("cert.pem"), "no regular file"},
		"key a folder":                   {folder("key.pem"), "no regular file"},
		"certificate empty":              {file("cert.pem", nil), "is empty"},
		"certificate no PEM":             {file("cert.pem", []byte("x")), "tls-cert"},
		"certificate cut":                {file("cert.pem", good.Cert[:len(good.Cert)/2]), "tls-cert"},
		"key where the certificate goes": {file("cert.pem", good.Key), "tls-cert"},
		"certificate too large":          {file("cert.pem", make([]byte, maxFile+1)), "larger than"},
		"key of another certificate":     {file("key.pem", ca.Server().Key), "does not match"},
		"key encrypted, PKCS 8":          {file("key.pem", pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte{1}})), "encrypted"},
		"key encrypted, by headers": {file("key.pem", pem.EncodeToMemory(&pem.Block{
			Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"}, Bytes: []byte{1},
		})), "encrypted"},
		"key that all may read":         {mode("key.pem", 0o644), "mode 0644, want at most 0640"},
		"key that a group may write":    {mode("key.pem", 0o660), "mode 0660"},
		"certificate that all may edit": {mode("cert.pem", 0o666), "mode 0666"},
		"expired":                       {pair(ca.Server(past)), "expired"},
		"not yet valid":                 {pair(ca.Server(future)), "valid from"},
		"for clients":                   {pair(ca.Server(forClients)), "usage"},
		"without a name":                {pair(ca.Server(nameless)), "alternative name"},
		"RSA of 1024 bits":              {pair(ca.Sign(weak, func(c *x509.Certificate) { c.DNSNames = []string{"x"} })), "1024"},
		"authority missing":             {gone("ca.pem"), "tls-client-ca"},
		"authority no PEM":              {file("ca.pem", []byte("x")), "no certificate"},
		"authority a key":               {file("ca.pem", good.Key), "certificates alone"},
		"authority that is none":        {file("ca.pem", good.Cert), "no authority"},
		"authority that may not sign": {file("ca.pem", authtest.NewAuthority(t, "x", func(c *x509.Certificate) {
			c.KeyUsage = x509.KeyUsageDigitalSignature
		}).PEM), "no authority"},
		"authority expired":     {file("ca.pem", authtest.NewAuthority(t, "x", past).PEM), "expired"},
		"authority that is cut": {file("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Cert.Raw[:100]})), "certificate 1"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			cert, key := good.Files(t, dir)
			clients := filepath.Join(dir, "ca.pem")
			authtest.Write(t, clients, ca.PEM)
			o := TLSOptions{Cert: cert, Key: key, ClientCA: clients, MinVersion: tls.VersionTLS13, Log: slog.New(slog.DiscardHandler)}
			if _, err := OpenTLS(o); err != nil {
				t.Fatalf("before it was spoilt: %v", err)
			}
			c.spoil(dir)
			_, err := OpenTLS(o)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
			if err != nil && strings.Contains(err.Error(), "PRIVATE KEY-----") {
				t.Errorf("the error quotes a key: %v", err)
			}
		})
	}
}

// peers are a server and what its clients trust.
type peers struct {
	t      *testing.T
	dir    string
	ca     *authtest.Authority // of the server and its clients
	tls    *TLS
	listen net.Listener
	roots  *x509.CertPool
}

func startTLS(t *testing.T, edit func(*TLSOptions)) *peers {
	t.Helper()
	p := &peers{t: t, dir: t.TempDir(), ca: authtest.NewAuthority(t, "ca"), roots: x509.NewCertPool()}
	p.roots.AddCert(p.ca.Cert)
	cert, key := p.ca.Server().Files(t, p.dir)
	authtest.Write(t, filepath.Join(p.dir, "ca.pem"), p.ca.PEM)
	o := TLSOptions{Cert: cert, Key: key, ClientCA: filepath.Join(p.dir, "ca.pem"), MinVersion: tls.VersionTLS13, Log: slog.New(slog.DiscardHandler)}
	edit(&o)
	var err error
	if p.tls, err = OpenTLS(o); err != nil {
		t.Fatal(err)
	}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.listen = tls.NewListener(plain, p.tls.Config("h2"))
	done := make(chan struct{})
	go func() { // each connection is told its handshake went well, and closed
		defer close(done)
		for {
			conn, err := p.listen.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("ok"))
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		p.listen.Close()
		<-done
	})
	return p
}

// connect is what a client with this configuration hears: "ok", or the error of either side.
func (p *peers) connect(c *tls.Config) (*tls.ConnectionState, error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	dialer := tls.Dialer{Config: c}
	conn, err := dialer.DialContext(ctx, "tcp", p.listen.Addr().String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	if err == nil && string(text) != "ok" {
		err = errors.New("connection closed without an answer")
	}
	state := conn.(*tls.Conn).ConnectionState()
	return &state, err
}

func certificates(t *testing.T, pairs ...authtest.Pair) (all []tls.Certificate) {
	t.Helper()
	for _, p := range pairs {
		c, err := tls.X509KeyPair(p.Cert, p.Key)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

func TestWhichHandshakesSucceed(t *testing.T) {
	stranger := authtest.NewAuthority(t, "stranger")
	past := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	future := func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }
	forServers := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	const me = "spiffe://test/me"
	mutual := func(*TLSOptions) {}
	optional := func(o *TLSOptions) { o.Optional = true }
	oneWay := func(o *TLSOptions) { o.ClientCA = "" }
	old := func(o *TLSOptions) { o.ClientCA, o.MinVersion = "", tls.VersionTLS12 }
	for name, c := range map[string]struct {
		server func(*TLSOptions)
		client func(p *peers, c *tls.Config)
		good   bool
	}{
		"TLS 1.3":                    {oneWay, func(*peers, *tls.Config) {}, true},
		"TLS 1.2 where 1.3 is asked": {oneWay, func(_ *peers, c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, false},
		"TLS 1.2 where allowed":      {old, func(_ *peers, c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, true},
		"TLS 1.1":                    {old, func(_ *peers, c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, false},
		"TLS 1.0":                    {old, func(_ *peers, c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 }, false},
		"a CBC suite": {old, func(_ *peers, c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
		}, false},
		"a suite without forward secrecy": {old, func(_ *peers, c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}
		}, false},
		"another protocol":                 {oneWay, func(_ *peers, c *tls.Config) { c.NextProtos = []string{"smtp"} }, false},
		"another name":                     {oneWay, func(_ *peers, c *tls.Config) { c.ServerName = "other.test" }, false},
		"another authority of the server":  {oneWay, func(_ *peers, c *tls.Config) { c.RootCAs = x509.NewCertPool(); c.RootCAs.AddCert(stranger.Cert) }, false},
		"a certificate nobody asked for":   {oneWay, func(p *peers, c *tls.Config) { c.Certificates = certificates(t, stranger.Client([]string{me})) }, true},
		"mutual":                           {mutual, func(p *peers, c *tls.Config) { c.Certificates = certificates(t, p.ca.Client([]string{me})) }, true},
		"no certificate":                   {mutual, func(*peers, *tls.Config) {}, false},
		"no certificate where optional":    {optional, func(*peers, *tls.Config) {}, true},
		"another authority of the client":  {mutual, func(_ *peers, c *tls.Config) { show(t, c, stranger, me) }, false},
		"another authority where optional": {optional, func(_ *peers, c *tls.Config) { show(t, c, stranger, me) }, false},
		"an authority of the same name":    {mutual, func(_ *peers, c *tls.Config) { show(t, c, authtest.NewAuthority(t, "ca"), me) }, false},
		"client expired":                   {mutual, func(p *peers, c *tls.Config) { c.Certificates = certificates(t, p.ca.Client([]string{me}, past)) }, false},
		"client not yet valid":             {mutual, func(p *peers, c *tls.Config) { c.Certificates = certificates(t, p.ca.Client([]string{me}, future)) }, false},
		"client with a server's usage":     {mutual, func(p *peers, c *tls.Config) { c.Certificates = certificates(t, p.ca.Client([]string{me}, forServers)) }, false},
		"client expired where optional":    {optional, func(p *peers, c *tls.Config) { c.Certificates = certificates(t, p.ca.Client([]string{me}, past)) }, false},
		"a key that is not the certificate's": {mutual, func(p *peers, c *tls.Config) {
			a, b := certificates(t, p.ca.Client([]string{me})), certificates(t, p.ca.Client([]string{me}))
			a[0].PrivateKey = b[0].PrivateKey
			c.Certificates = a
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := startTLS(t, c.server)
			config := &tls.Config{RootCAs: p.roots, NextProtos: []string{"h2"}}
			c.client(p, config)
			state, err := p.connect(config)
			if (err == nil) != c.good {
				t.Errorf("%v, want success %v", err, c.good)
			}
			if err == nil && state.NegotiatedProtocol != "h2" {
				t.Errorf("protocol %q", state.NegotiatedProtocol)
			}
		})
	}
}

// show shows a certificate whatever authorities the server asks for, where crypto/tls would show none.
func show(t *testing.T, c *tls.Config, a *authtest.Authority, name string) {
	mine := certificates(t, a.Client([]string{name}))[0]
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &mine, nil }
}

func TestChangedCertificatesAreTaken(t *testing.T) {
	p := startTLS(t, func(o *TLSOptions) { o.ClientCA = "" })
	serial := func() string {
		t.Helper()
		state, err := p.connect(&tls.Config{RootCAs: p.roots, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		return state.PeerCertificates[0].SerialNumber.String()
	}
	look := func() { p.tls.state.look(slog.New(slog.DiscardHandler)) }
	first := serial()
	look()
	if changed := p.tls.state.counts.changed.Load(); changed != 0 {
		t.Errorf("%d changes where there was none", changed)
	}

	// Only half of a pair has come: the old one stays.
	next := p.ca.Server()
	authtest.Write(t, filepath.Join(p.dir, "cert.pem"), next.Cert)
	look()
	look()
	if got := serial(); got != first || p.tls.state.counts.failed.Load() != 1 {
		t.Errorf("half a pair: serial %s, %d failures, want %s and 1", got, p.tls.state.counts.failed.Load(), first)
	}
	authtest.Write(t, filepath.Join(p.dir, "key.pem"), next.Key)
	look()
	second := serial()
	if second == first || p.tls.state.counts.changed.Load() != 1 {
		t.Error("a whole pair was not taken")
	}

	// A certificate that is not valid yet is tried again, though its file does not change any more.
	valid := time.Now().Add(2 * time.Second)
	soon := p.ca.Server(func(c *x509.Certificate) { c.NotBefore = valid })
	soon.Files(t, p.dir)
	look()
	if serial() != second && time.Now().Before(valid.Truncate(time.Second)) { // certificates have whole seconds
		t.Error("a certificate was taken before it was valid")
	}
	for start := time.Now(); serial() == second && time.Since(start) < 30*time.Second; look() {
		time.Sleep(50 * time.Millisecond) // the clock of crypto/x509 cannot be set
	}
	if serial() == second {
		t.Error("a certificate was not taken when it became valid")
	}
}

// CVE-2025-68121: a session that the old authority let in was resumed under the new one.
func TestAnAuthorityThatIsGoneLetsNobodyIn(t *testing.T) {
	p := startTLS(t, func(*TLSOptions) {})
	config := &tls.Config{
		RootCAs: p.roots, NextProtos: []string{"h2"}, ClientSessionCache: tls.NewLRUClientSessionCache(8),
		Certificates: certificates(t, p.ca.Client([]string{"spiffe://test/me"})),
	}
	if _, err := p.connect(config); err != nil {
		t.Fatal(err)
	}
	if again, err := p.connect(config); err != nil || again.DidResume {
		t.Errorf("a session was resumed, or failed: %v", err)
	}
	server := &tls.ConnectionState{PeerCertificates: parsed(t, config.Certificates[0])}
	if err := p.tls.verify(server); err != nil {
		t.Errorf("while its authority is there: %v", err)
	}
	authtest.Write(t, filepath.Join(p.dir, "ca.pem"), authtest.NewAuthority(t, "new").PEM)
	p.tls.state.look(slog.New(slog.DiscardHandler))
	if _, err := p.connect(config); err == nil {
		t.Error("a new connection of the old authority was let in")
	}
	for range 2 { // the second is answered from what is remembered
		if err := p.tls.verify(server); err == nil {
			t.Error("a call on a connection of the old authority was let in")
		}
	}
}

func parsed(t *testing.T, c tls.Certificate) (all []*x509.Certificate) {
	t.Helper()
	for _, der := range c.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, cert)
	}
	return all
}
