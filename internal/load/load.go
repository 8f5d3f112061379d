// Package load puts a server under load over gRPC, and measures it from the client's side. Generator.Run makes the requests of one point, a
// concurrency or a rate, each on a goroutine of its own, and returns when the last has ended; points are run one after the other.
//
// Latency counts from the moment at which a request was to start. In an open loop that is the moment of a Poisson process that waits for
// nothing: where the server, or this machine, falls behind, the requests that came meanwhile have waited, and say so. In a closed loop it is
// the moment at which the request before has ended.
package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/inferno-serve/inferno/client"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Options are what all points of a run share.
type Options struct {
	Dial     func() (*client.Client, error) // opens a connection; must be set
	Model    string                         // must be set
	Workload Workload
	Targets  Targets

	Connections          int    // to open before the first request; 0: as many as StreamsPerConnection asks for
	StreamsPerConnection int    // from which on another connection is opened; 0: 100
	MetricsURL           string // of the server's metrics; empty: they are not read
}

// Targets are what a request must keep to be good; 0: no bound.
type Targets struct {
	FirstToken     time.Duration // start to first token
	PerOutputToken time.Duration // mean time between its tokens
	Pause          time.Duration // longest time between two of its messages
}

// Point is a load: one of Concurrency and Rate, and a bound on how much of it.
type Point struct {
	Concurrency int     // closed loop: so many requests are kept going
	Rate        float64 // open loop: requests a second, Poisson

	WarmUp   time.Duration // requests that start in it do not count
	Duration time.Duration // of what counts, behind it
	Requests int           // that count, where Duration is 0
}

// Limits of a point.
const (
	MaxConcurrency = 1 << 16
	MaxRate        = 1e6
)

// Validate reports every fault at once.
func (p Point) Validate() error {
	var faults []error
	switch {
	case p.Concurrency == 0 && p.Rate == 0:
		faults = append(faults, errors.New("neither a concurrency nor a rate"))
	case p.Concurrency != 0 && p.Rate != 0:
		faults = append(faults, errors.New("both a concurrency and a rate"))
	}
	if p.Concurrency < 0 || p.Concurrency > MaxConcurrency {
		faults = append(faults, fmt.Errorf("concurrency: %d, want 1 to %d", p.Concurrency, MaxConcurrency))
	}
	if !(p.Rate >= 0 && p.Rate <= MaxRate) {
		faults = append(faults, fmt.Errorf("rate: %v a second, want more than 0 and up to %v", p.Rate, MaxRate))
	}
	if p.WarmUp < 0 || p.Duration < 0 || p.Requests < 0 || (p.Duration > 0) == (p.Requests > 0) {
		faults = append(faults, fmt.Errorf("warm-up %v, duration %v, requests %d: want one of duration and requests, and none below 0",
			p.WarmUp, p.Duration, p.Requests))
	}
	return errors.Join(faults...)
}

// Generator is made by Open. It runs one point at a time.
type Generator struct {
	o     Options
	maker *maker
	pool  *pool
	http  http.Client // for the metrics
	made  int64       // requests of the points before, so that no prompt comes twice
}

// Open connects, and has one request served that counts nowhere.
func Open(ctx context.Context, o Options) (*Generator, error) {
	if err := o.Workload.Validate(); err != nil {
		return nil, err
	}
	if o.StreamsPerConnection < 0 || o.Connections < 0 || o.Connections > maxConnections {
		return nil, fmt.Errorf("connections: %d with %d streams each, want 0 to %d, and 0 or more",
			o.Connections, o.StreamsPerConnection, maxConnections)
	}
	if o.StreamsPerConnection == 0 {
		o.StreamsPerConnection = defaultStreamsEach
	}
	g := &Generator{o: o, http: http.Client{Transport: &http.Transport{DisableCompression: true}}, pool: &pool{dial: o.Dial, model: o.Model, streamsEach: o.StreamsPerConnection}}
	if err := g.begin(ctx); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

func (g *Generator) begin(ctx context.Context) error {
	if err := g.pool.open(ctx, max(g.o.Connections, 1)); err != nil {
		return err
	}
	first := g.pool.connections[0]
	answer, err := first.Registry().GetModel(ctx, &infernov1.GetModelRequest{Name: g.o.Model})
	if err != nil {
		return err
	}
	if answer.GetModel().GetVocabularySize() == 0 {
		return fmt.Errorf("model %s: the server says that its vocabulary is empty", g.o.Model)
	}
	if err := g.o.Workload.fits(answer.GetModel()); err != nil {
		return err
	}
	g.maker = newMaker(g.o.Workload, answer.GetModel())
	if g.o.MetricsURL != "" {
		if _, err := g.scrape(ctx); err != nil {
			return err
		}
	}
	_, err = first.Generate(ctx, g.maker.make(math.MinInt64, 0).message)
	return err
}

// Close ends the connections.
func (g *Generator) Close() error {
	g.http.CloseIdleConnections()
	return g.pool.close()
}

// Run makes the requests of one point. done, if not nil, is called at the end of each that counts, by any goroutine, one call at a time. When
// ctx ends first, so do the requests, and the result is of no use.
func (g *Generator) Run(ctx context.Context, p Point, done func()) (*Result, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if err := g.pool.open(ctx, (p.Concurrency+g.o.StreamsPerConnection-1)/g.o.StreamsPerConnection); err != nil {
		return nil, err
	}
	r := &run{Generator: g, point: p, first: g.made}
	r.record.targets, r.record.done = g.o.Targets, done
	r.record.begin, r.record.end = p.WarmUp, never
	if p.Duration > 0 {
		r.record.end = p.WarmUp + p.Duration
	}
	watch := r.watch(ctx)
	if p.Rate > 0 {
		r.openLoop(ctx)
	} else {
		r.closedLoop(ctx)
	}
	g.made += r.issued
	watch.stop()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return r.result(watch), nil
}
