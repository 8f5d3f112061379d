package auth

import (
	"net"
	"net/http"
	"net/netip"
)

// HTTP lets requests to next that may be made: roleOf says which role one takes.
func (a *Access) HTTP(roleOf func(*http.Request) Role, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var address net.Addr
		if parsed, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
			address = net.TCPAddrFromAddrPort(parsed)
		}
		role := roleOf(r)
		caller, err := a.Identify(r.Header["Authorization"], r.TLS, address)
		if err != nil {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, ErrUnauthenticated.Error(), http.StatusUnauthorized)
			return
		}
		if err := caller.Allow(role); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		if err := caller.Begin(role); err != nil {
			http.Error(w, err.Error(), http.StatusTooManyRequests)
			return
		}
		defer caller.End(role)
		next.ServeHTTP(w, r)
	})
}
