// Package client calls an Inferno server from Go. A Client owns one gRPC connection and may be used by any number of goroutines; every
// call ends with its context, and ending a call ends its work on the server.
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

// retries says which calls gRPC sends again by itself: those that a server answered with UNAVAILABLE before it sent any header. A server
// sends nothing before the first token, so a stream that has not begun may move to another instance; one that has begun never does.
const retries = `{
	"methodConfig": [{
		"name": [
			{"service": "inferno.v1.InferenceService"},
			{"service": "inferno.v1.RegistryService"},
			{"service": "inferno.v1.HealthService"}
		],
		"retryPolicy": {
			"maxAttempts": 4,
			"initialBackoff": "0.1s",
			"maxBackoff": "2s",
			"backoffMultiplier": 2,
			"retryableStatusCodes": ["UNAVAILABLE"]
		}
	}]
}`

// Options says which server to call, and how.
type Options struct {
	// Addr is a gRPC target: "host:port", "dns:///host:port", "unix:///path". Must be set.
	Addr string
	// TLS secures the connection. Nil means plain text.
	TLS *tls.Config
	// Token is sent with every call. Without TLS it is an error, unless the address is on this host. Nil means none.
	Token TokenSource
	// DisableRetries gives up on the first UNAVAILABLE, for a caller who retries in his own way.
	DisableRetries bool
	// DialOptions are applied last, after the ones that this package sets.
	DialOptions []grpc.DialOption
}

// Client calls one server. Make it with New, end it with Close.
type Client struct {
	conn      *grpc.ClientConn
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
	conn, err := grpc.NewClient(o.Addr, o.dialOptions()...)
	if err != nil {
		return nil, fmt.Errorf("client: address %q: %w", o.Addr, err)
	}
	return &Client{
		conn:      conn,
		inference: infernov1.NewInferenceServiceClient(conn),
		registry:  infernov1.NewRegistryServiceClient(conn),
		health:    infernov1.NewHealthServiceClient(conn),
	}, nil
}

// Close ends the connection and with it all calls that still run.
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
		grpc.WithDefaultServiceConfig(retries),
	}
	if o.Token != nil {
		options = append(options, grpc.WithPerRPCCredentials(bearer{o.Token, o.TLS != nil}))
	}
	if o.DisableRetries {
		options = append(options, grpc.WithDisableRetry())
	}
	return append(options, o.DialOptions...)
}
