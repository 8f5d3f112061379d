package backend

import (
	"cmp"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/inferno-serve/inferno/internal/auth"
	"github.com/inferno-serve/inferno/internal/config"
)

// security is how the listeners are kept: nil parts are not asked for.
type security struct {
	tls    *auth.TLS
	access *auth.Access
}

// openSecurity reads the certificates and the access file.
func openSecurity(o Options) (s security, err error) {
	c, log, poll := o.Config, o.Log, cmp.Or(o.Reload, auth.DefaultPoll)
	if c.TLS() {
		version := uint16(tls.VersionTLS13)
		if c.TLSMinVersion == "1.2" {
			version = tls.VersionTLS12
		}
		s.tls, err = auth.OpenTLS(auth.TLSOptions{
			Cert: c.TLSCert, Key: c.TLSKey, ClientCA: c.TLSClientCA, Optional: c.TLSClientAuth == "optional", MinVersion: version,
			Poll: poll, Log: log,
		})
		if err != nil {
			return s, err
		}
	}
	if c.AccessFile != "" {
		s.access, err = auth.OpenAccess(auth.AccessOptions{File: c.AccessFile, TLS: s.tls, Poll: poll, Log: log})
	}
	return s, err
}

// run keeps both as their files are, until ctx ends.
func (s security) run(ctx context.Context, group *errgroup.Group) {
	if s.tls != nil {
		group.Go(func() error { return s.tls.Run(ctx) })
	}
	if s.access != nil {
		group.Go(func() error { return s.access.Run(ctx) })
	}
}

// admin is the admin listener behind TLS, where there is.
func (s security) admin(l net.Listener) net.Listener {
	if s.tls == nil {
		return l
	}
	return s.tls.Listener(l)
}

// guard asks who calls the admin listener: reading metrics takes the role read, everything else admin.
func (s security) guard(next http.Handler) http.Handler {
	if s.access == nil {
		return next
	}
	return s.access.HTTP(func(r *http.Request) auth.Role {
		if r.URL.Path == "/metrics" {
			return auth.Read
		}
		return auth.Admin
	}, next)
}

// describe says for the log how callers are kept out.
func (s security) describe() string {
	switch {
	case s.tls != nil && s.access != nil:
		return "tls, access file"
	case s.tls != nil:
		return "tls"
	case s.access != nil:
		return "access file"
	}
	return "none"
}

func newRefusedConnections(registry *prometheus.Registry) prometheus.Counter {
	refused := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "inferno_connections_refused_total", Help: "Connections that were closed at once, being too many.",
	})
	registry.MustRegister(refused)
	return refused
}

// warnOpen tells an operator what --insecure gave up.
func warnOpen(c *config.Config, log *slog.Logger) {
	if c.Insecure {
		log.Warn("insecure: other hosts may be served in plain text, or without being asked who they are", "listen", c.Listen,
			"admin_listen", c.AdminListen, "tls", c.TLS(), "access_file", c.AccessFile != "")
	}
}
