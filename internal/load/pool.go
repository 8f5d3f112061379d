package load

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/inferno-serve/inferno/client"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

const (
	maxConnections     = 4096
	dialsAtOnce        = 64
	defaultStreamsEach = 100 // fewer than any server's limit, behind which streams would wait unseen
)

// A pool gives each request the connection that has the fewest, and opens another one where that has its fill.
type pool struct {
	dial        func() (*client.Client, error)
	model       string
	streamsEach int

	mu          sync.Mutex
	connections []*connection
}

type connection struct {
	*client.Client
	streams int // under way
}

// open has at least n connections, and waits until a call has gone through each new one.
func (p *pool) open(ctx context.Context, n int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(dialsAtOnce)
	for range min(n, maxConnections) - len(p.connections) {
		c, err := p.dial()
		if err != nil {
			return errors.Join(err, group.Wait())
		}
		p.connections = append(p.connections, &connection{Client: c})
		group.Go(func() error {
			_, err := c.Registry().GetModel(ctx, &infernov1.GetModelRequest{Name: p.model})
			return err
		})
	}
	return group.Wait()
}

// take is for one request; give takes it back.
func (p *pool) take() (*connection, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	least := p.connections[0]
	for _, c := range p.connections {
		if c.streams < least.streams {
			least = c
		}
	}
	if least.streams >= p.streamsEach {
		if len(p.connections) == maxConnections {
			return nil, fmt.Errorf("%w: %d connections with %d requests each", errTooMany, maxConnections, p.streamsEach)
		}
		c, err := p.dial()
		if err != nil {
			return nil, err
		}
		least = &connection{Client: c}
		p.connections = append(p.connections, least)
	}
	least.streams++
	return least, nil
}

// errTooMany: the generator itself can hold no more.
var errTooMany = errors.New("load: too many requests at once")

func (p *pool) give(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.streams--
}

func (p *pool) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.connections)
}

func (p *pool) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var faults []error
	for _, c := range p.connections {
		faults = append(faults, c.Close())
	}
	return errors.Join(faults...)
}
