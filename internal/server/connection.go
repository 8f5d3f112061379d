package server

import (
	"context"
	"net"
	"sync"

	"google.golang.org/grpc/peer"
)

// connection is a client's, with writes that can be held back. gRPC writes what it has as soon as a core is free for that: while a step's tokens
// are still being handed to it, so that each would cost a call into the kernel here and a wake at the client.
type connection struct {
	net.Conn
	hold   sync.Mutex // by who is about to send several messages
	sender *sender
}

// Write waits while writes are held back. Nobody waits for it.
func (c *connection) Write(p []byte) (int, error) {
	c.hold.Lock()
	c.hold.Unlock() //nolint:staticcheck // a writer that held it would hold up the sender for as long as its client does not read
	return c.Conn.Write(p)
}

// RemoteAddr is the client's, by which its calls find the connection.
func (c *connection) RemoteAddr() net.Addr { return peerAddress{c.Conn.RemoteAddr(), c} }

type peerAddress struct {
	net.Addr
	connection *connection
}

// senderOf is that of the connection which a call came by; nil: it came otherwise.
func senderOf(ctx context.Context) *sender {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	address, ok := p.Addr.(peerAddress)
	if !ok {
		return nil
	}
	return address.connection.sender
}

// listener makes connections of what it accepts.
type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &connection{Conn: conn}
	c.sender = newSender(&c.hold)
	return c, nil
}
