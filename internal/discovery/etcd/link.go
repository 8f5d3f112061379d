package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// link is the connection that all calls share. It is made when it is first needed, as a client with a password cannot be made while etcd is
// away, and made anew after drop.
type link struct {
	o      *Options
	failed lastFailure

	slot   chan struct{} // held by whoever touches client and closed: a lock that a deadline can give up
	client *clientv3.Client
	closed bool
}

var errClosed = errors.New("registry is closed")

// errNoAnswer is a call that was sent, as far as is known, and not answered in time.
var errNoAnswer = errors.New("no answer")

// Reconnecting is quick: the default waits up to two minutes. Of many instances each comes back at a moment of its own.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
	MinConnectTimeout: 3 * time.Second,
}

func newLink(o *Options) *link { return &link{o: o, slot: make(chan struct{}, 1)} }

// call runs f with the client and a deadline. Its error says what of etcd does not work.
func (l *link) call(ctx context.Context, f func(context.Context, *clientv3.Client) error) error {
	limited, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	c, err := l.get(limited)
	if err == nil {
		err = f(limited, c)
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if secretRefused(err) {
		l.drop(c) // the next one asks for the secret again
	}
	return l.explain(err)
}

func (l *link) get(ctx context.Context) (*clientv3.Client, error) {
	select {
	case l.slot <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-l.slot }()
	if l.closed {
		return nil, errClosed
	}
	if l.client != nil {
		return l.client, nil
	}
	var err error
	l.client, err = l.dial()
	return l.client, err
}

func (l *link) dial() (*clientv3.Client, error) {
	secret, err := l.o.Secret()
	if err != nil {
		return nil, err
	}
	return clientv3.New(clientv3.Config{
		Endpoints: l.o.Endpoints,
		TLS:       secret.TLS, Username: secret.User, Password: secret.Password, Token: secret.Token,
		DialTimeout: callTimeout, // of fetching a token
		// gRPC takes no less than ten seconds here. What a silent connection costs before that, the registration's own clock bounds.
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second,
		Logger:      zap.New(logCore{l.o.Log}),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(reconnect), grpc.WithChainUnaryInterceptor(l.failed.intercept)},
	})
}

// drop has the next call make a client of its own, where c is still the one in use. What runs on c ends.
func (l *link) drop(c *clientv3.Client) {
	if c == nil {
		return
	}
	l.slot <- struct{}{}
	if l.client == c {
		l.client = nil
	}
	<-l.slot
	_ = c.Close() // says that what ran on it was cut off
}

// abandon is drop of whatever client is in use.
func (l *link) abandon() {
	l.slot <- struct{}{}
	c := l.client
	<-l.slot
	l.drop(c)
}

func (l *link) close() error {
	l.slot <- struct{}{}
	defer func() { <-l.slot }()
	c := l.client
	l.client, l.closed = nil, true
	if c == nil {
		return nil
	}
	if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close the connection to etcd: %w", err)
	}
	return nil
}

// secretRefused tells a token or password that etcd does not take, or no longer.
func secretRefused(err error) bool {
	return errors.Is(err, rpctypes.ErrInvalidAuthToken) || errors.Is(err, rpctypes.ErrAuthFailed) || errors.Is(err, rpctypes.ErrUserEmpty) ||
		errors.Is(err, rpctypes.ErrAuthOldRevision)
}

// explain puts the cause in the place of a deadline that passed while the client tried again and again.
func (l *link) explain(err error) error {
	late := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || status.Code(err) == codes.DeadlineExceeded
	if !late {
		return fmt.Errorf("etcd: %w", err)
	}
	where := strings.Join(l.o.Endpoints, ", ")
	if why := l.failed.load(); why != "" {
		return fmt.Errorf("etcd at %s: %s", where, why)
	}
	return fmt.Errorf("etcd at %s: %w within %v", where, errNoAnswer, callTimeout)
}

// lastFailure is why the last call failed, in the words of the transport: the client turns it into a mere deadline.
type lastFailure struct{ text atomic.Pointer[string] }

func (f *lastFailure) intercept(
	ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	err := invoke(ctx, method, req, reply, conn, options...)
	text := "" // whatever else etcd says, it answers
	if code := status.Code(err); code == codes.Unavailable || code == codes.DeadlineExceeded {
		text = innermost(status.Convert(err).Message())
	}
	f.text.Store(&text)
	return err
}

func (f *lastFailure) load() string {
	if text := f.text.Load(); text != nil && !strings.Contains(*text, context.DeadlineExceeded.Error()) {
		return *text
	}
	return ""
}

// innermost is what stands in the quotes of `... desc = "transport: Error while dialing: dial tcp ..."`.
func innermost(message string) string {
	if _, inner, ok := strings.Cut(message, `desc = "`); ok {
		message = strings.TrimSuffix(inner, `"`)
	}
	for _, wrapper := range []string{"latest balancer error: ", "connection error: ", "transport: ", "Error while dialing: "} {
		message = strings.TrimPrefix(message, wrapper)
	}
	return message
}
