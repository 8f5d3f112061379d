package backend

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"github.com/inferno-serve/inferno/internal/config"
)

// listen opens the gRPC listener, and the admin one where it is wanted.
func listen(c *config.Config) (grpc, admin net.Listener, err error) {
	if path, ok := config.SocketPath(c.Listen); ok {
		grpc, err = listenSocket(path)
	} else {
		grpc, err = net.Listen("tcp", c.Listen)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("listen: %w", err)
	}
	if c.AdminListen == "" {
		return grpc, nil, nil
	}
	if admin, err = net.Listen("tcp", c.AdminListen); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("admin-listen: %w", err), grpc.Close())
	}
	return grpc, admin, nil
}

// listenSocket listens at a path that only this user may connect to. A socket that a killed server left behind is replaced; one that
// answers, or a file that is no socket, is an error. Closing the listener removes the file.
func listenSocket(path string) (net.Listener, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s exists and is no socket", path)
	default:
		if conn, err := net.Dial("unix", path); err == nil {
			return nil, errors.Join(fmt.Errorf("%s: a server answers there", path), conn.Close())
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// addressOf is how clients name the listener.
func addressOf(l net.Listener) string {
	switch {
	case l == nil:
		return "none"
	case l.Addr().Network() == "unix":
		return "unix://" + l.Addr().String()
	}
	return l.Addr().String()
}

// isLocal says whether only users of this host can reach an address, as addressOf names it.
func isLocal(address string) bool {
	if _, isSocket := config.SocketPath(address); isSocket {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && ip != nil && ip.IsLoopback()
}
