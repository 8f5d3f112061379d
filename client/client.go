// Package client calls Inferno servers from Go. A Client owns one gRPC channel and may be used by any number of goroutines; every
// call ends with its context, and ending a call ends its work on the server.
//
// The channel leads to one server, or to all that serve a model: "inferno:///MODEL?etcd=HOST:PORT" follows the registry in etcd, and each
// call goes to a replica that has little to do. A replica that drains, fails or stands still is left alone within a second, and a call
// that it had not begun to answer goes to another one.
//
// Requests are the messages of package infernov1, so that every field of the API is at hand. Results are plain Go values: Stream yields
// a Start, then Tokens, then a Finish, and Generate collects them.
package client

import (
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Limits of one message in bytes. A server takes requests of up to 4 MiB and sends answers of up to 16 MiB.
const (
	maxRequestBytes  = 4 << 20
	maxResponseBytes = 16 << 20
	windowBytes      = 1 << 20 // of a stream, sent ahead of what is read
)

// Options says which server to call, and how.
type Options struct {
	// Addr is a gRPC target: "host:port", "dns:///host:port", "unix:///path"; or "inferno:///MODEL?etcd=HOST:PORT,HOST:PORT" for all
	// instances that serve the model, with prefix=KEYS where the servers' --etcd-prefix is not inferno/v1, and affinity=prefix for what
	// Affinity says. Must be set.
	Addr string
	// Balance spreads calls by load over all addresses that Addr has, as "inferno:///" does. A server that does not serve gets none then,
	// not even those that ask why.
	Balance bool
	// Affinity keeps prompts that begin alike on one replica, whose prefix cache holds them then, as long as that has no more than 1.25
	// times its share of the requests. It implies Balance.
	Affinity bool
	// Etcd is for "inferno:///".
	Etcd Etcd
	// TLS secures the connection. Nil means plain text.
	TLS *tls.Config
	// Token is sent with every call. Without TLS it is an error, unless the address is on this host. Nil means none.
	Token TokenSource
	// DisableRetries gives up on the first UNAVAILABLE, for a caller who retries in his own way.
	DisableRetries bool
	// DialOptions are applied last, after the ones that this package sets.
	DialOptions []grpc.DialOption
}

// Client calls one server, or a fleet. Make it with New or Dial, end it with Close.
type Client struct {
	conn      *grpc.ClientConn
	affinity  bool
	inference infernov1.InferenceServiceClient
	registry  infernov1.RegistryServiceClient
	health    infernov1.HealthServiceClient
}

// New makes a client. It does not connect: the first call does, and a server that cannot be reached is that call's error.
func New(o Options) (*Client, error) {
	if o.Addr == "" {
		return nil, errors.New("client: Options.Addr is empty, want an address such as 127.0.0.1:50051")
	}
	if o.Token != nil && o.TLS == nil && !staysHere(o.Addr) {
		return nil, fmt.Errorf("client: address %q: a token in plain text, want Options.TLS", o.Addr)
	}
	target, options := o.Addr, o.dialOptions()
	if l, ok, err := parseLookup(o.Addr); err != nil {
		return nil, err
	} else if ok {
		b := builder{lookup: l, access: o.Etcd}
		target, options = b.target(), append(options, grpc.WithResolvers(b))
		o.Balance, o.Affinity = true, o.Affinity || l.affinity
	}
	options = append(options, grpc.WithDefaultServiceConfig(serviceConfig(o.Balance || o.Affinity, o.Affinity)))
	conn, err := grpc.NewClient(target, append(options, o.DialOptions...)...)
	if err != nil {
		return nil, fmt.Errorf("client: address %q: %w", o.Addr, err)
	}
	return &Client{
		conn:      conn,
		affinity:  o.Affinity,
		inference: infernov1.NewInferenceServiceClient(conn),
		registry:  infernov1.NewRegistryServiceClient(conn),
		health:    infernov1.NewHealthServiceClient(conn),
	}, nil
}

// Dial is New with the address alone.
func Dial(addr string) (*Client, error) { return New(Options{Addr: addr}) }

// Close ends the connections and with it all calls that still run.
func (c *Client) Close() error { return c.conn.Close() }

// Inference gives the plain generated client, for Score, Embed, Tokenize, Detokenize, Abort and messages as they are on the wire.
func (c *Client) Inference() infernov1.InferenceServiceClient { return c.inference }

// Registry gives the generated client for models and instances.
func (c *Client) Registry() infernov1.RegistryServiceClient { return c.registry }

// Health gives the generated client for the state of the server's components.
func (c *Client) Health() infernov1.HealthServiceClient { return c.health }

func (o Options) dialOptions() []grpc.DialOption {
	secrecy := insecure.NewCredentials()
	if o.TLS != nil {
		secrecy = credentials.NewTLS(o.TLS)
	}
	reconnect := backoff.DefaultConfig
	reconnect.BaseDelay = 200 * time.Millisecond
	reconnect.MaxDelay = 2 * time.Second // a server that restarted should be found at once, whatever the outage before
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(secrecy),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: 5 * time.Second}),
		// Pings only while calls run; a server refuses them more often than every 10 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallSendMsgSize(maxRequestBytes),
			grpc.MaxCallRecvMsgSize(maxResponseBytes),
			// gRPC retries only what it still holds; by default that is 256 KiB, less than a long prompt.
			grpc.MaxRetryRPCBufferSize(maxRequestBytes+1<<10),
		),
		// Windows that do not grow: a client that measures what they should be answers every message of a stream with a ping, which costs the
		// server a read and a write a token.
		grpc.WithStaticStreamWindowSize(windowBytes),
		grpc.WithStaticConnWindowSize(4 * windowBytes),
	}
	if o.Token != nil {
		options = append(options, grpc.WithPerRPCCredentials(bearer{o.Token, o.TLS != nil}))
	}
	if o.DisableRetries {
		options = append(options, grpc.WithDisableRetry())
	}
	return options
}
