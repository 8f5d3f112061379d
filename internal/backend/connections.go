package backend

import (
	"net"
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// connections bounds those of a listener, in all and from one address. What is too much is closed at once, rather than left to wait: a flood of
// silent connections would keep everybody else waiting with it.
type connections struct {
	net.Listener
	most, mostOfOne int
	refused         prometheus.Counter

	mu        sync.Mutex
	open      int
	byAddress map[netip.Addr]int
}

func limitConnections(l net.Listener, most, mostOfOne int, refused prometheus.Counter) *connections {
	if mostOfOne == 0 {
		mostOfOne = most
	}
	return &connections{Listener: l, most: most, mostOfOne: mostOfOne, refused: refused, byAddress: map[netip.Addr]int{}}
}

// Accept returns the next connection within the bounds.
func (c *connections) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := addressOfPeer(conn)
		if c.take(from) {
			return &counted{Conn: conn, all: c, from: from}, nil
		}
		c.refused.Inc()
		_ = conn.Close()
	}
}

func (c *connections) take(from netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open >= c.most || c.byAddress[from] >= c.mostOfOne {
		return false
	}
	c.open++
	c.byAddress[from]++
	return true
}

func (c *connections) give(from netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
	if c.byAddress[from]--; c.byAddress[from] == 0 {
		delete(c.byAddress, from)
	}
}

// addressOfPeer is without its port; those who come by a Unix socket have one in common.
func addressOfPeer(conn net.Conn) netip.Addr {
	parsed, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return parsed.Addr().Unmap()
}

// counted is a connection that gives its place back when it is closed.
type counted struct {
	net.Conn
	all  *connections
	from netip.Addr
	once sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() { c.all.give(c.from) })
	return c.Conn.Close()
}
