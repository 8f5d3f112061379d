package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/inferno-serve/inferno/client"
	"github.com/inferno-serve/inferno/internal/load"
)

type benchCommand struct {
	remote `embed:""`

	Model       string    `help:"Name of the model; may be left out where the server has one only."`
	Concurrency []int     `placeholder:"N" help:"Closed loop: numbers of requests at a time, each a point of the load; 1,4,16 where no --rate is given."`
	Rate        []float64 `placeholder:"R" help:"Open loop: requests a second, started as a Poisson process whatever became of those before; each a point of the load."`

	PromptTokens load.Lengths `default:"128" placeholder:"N" help:"Tokens of each prompt, all random: a number or lognormal:mean=M,stddev=S,max=X."`
	MaxTokens    load.Lengths `default:"64" placeholder:"N" help:"New tokens of each request, in the same words; end tokens do not end it."`
	Workload     string       `placeholder:"FILE" help:"Tokens of prompts and outputs in place of those: JSON, {\"requests\": [[prompt, output], …]}, taken in order."`
	PrefixTokens int          `default:"0" help:"Tokens of a prefix that each prompt has before its own."`
	Prefixes     int          `default:"1" help:"Different prefixes, of which each prompt has one at random."`

	Requests int           `default:"0" help:"Requests of each point; 0 means the length of the workload, or four times the concurrency and at least 8, or what the rate makes in 30 s."`
	Duration time.Duration `default:"0s" help:"Time of each point in place of a number of requests; those that run at its end are waited for."`
	WarmUp   time.Duration `default:"0s" help:"Time of each point before it counts."`

	CancelShare float64         `default:"0" help:"Share of requests that the client leaves early, 0 to 1."`
	CancelAfter load.CancelTime `default:"random" help:"When it leaves: random (a number of tokens below those asked for), a number of tokens, or a time such as 50ms."`
	Deadline    time.Duration   `default:"0s" help:"Deadline of each request; 0 means none."`

	TargetTTFT  time.Duration `name:"target-ttft" default:"0s" help:"A request is good whose first token comes within this time of its start; 0 means no bound."`
	TargetTPOT  time.Duration `name:"target-tpot" default:"0s" help:"… whose mean time between tokens is within this."`
	TargetPause time.Duration `default:"0s" help:"… whose messages are never further apart than this."`

	Connections          int `default:"0" help:"Connections to open first; 0 means as many as the requests need."`
	StreamsPerConnection int `default:"100" help:"Requests at a time on one connection; more open another one."`

	Metrics string `placeholder:"HOST:PORT" help:"The server's --admin-listen: adds its own figures, CPU time a token among them."`
	Plot    string `placeholder:"FILE.svg" help:"Draw latency and throughput against the load."`
	Seed    uint64 `default:"1" help:"Fixes prompts, lengths and arrivals."`
}

// Validate finds what kong cannot.
func (b *benchCommand) Validate() error {
	for _, n := range b.Concurrency {
		if n < 1 || n > load.MaxConcurrency {
			return fmt.Errorf("--concurrency: %d, want 1 to %d", n, load.MaxConcurrency)
		}
	}
	for _, r := range b.Rate {
		if !(r > 0 && r <= load.MaxRate) {
			return fmt.Errorf("--rate: %v requests a second, want more than 0 and up to %v", r, load.MaxRate)
		}
	}
	switch {
	case len(b.Concurrency) > 0 && len(b.Rate) > 0:
		return errors.New("--concurrency and --rate: want one of them")
	case b.Requests < 0:
		return fmt.Errorf("--requests: %d, want 0 or more", b.Requests)
	case b.Requests > 0 && b.Duration > 0:
		return errors.New("--requests and --duration: want one of them")
	case b.Duration < 0 || b.WarmUp < 0 || b.Deadline < 0 || b.TargetTTFT < 0 || b.TargetTPOT < 0 || b.TargetPause < 0:
		return errors.New("a time is negative, want 0 or more")
	case b.Prefixes < 1:
		return fmt.Errorf("--prefixes: %d, want at least 1", b.Prefixes)
	case b.Plot != "" && filepath.Ext(b.Plot) != ".svg":
		return fmt.Errorf("--plot: %q, want a name that ends in .svg", b.Plot)
	}
	return nil
}

// Run measures each point in turn. An interrupt ends it, with what has been measured until then.
func (b *benchCommand) Run(ctx context.Context, c *console) error {
	o, err := b.workOn(ctx)
	if err != nil {
		return err
	}
	plot := func([]*load.Result) error { return nil }
	if b.Plot != "" { // found out now, not after an hour
		f, err := os.Create(b.Plot)
		if err != nil {
			return err
		}
		plot = func(results []*load.Result) error {
			return errors.Join(load.Plot(f, o.Model+" at "+b.Addr, results), f.Close())
		}
	}
	generator, err := load.Open(ctx, o)
	if err != nil {
		return err
	}
	defer generator.Close()
	results, err := b.measure(ctx, c, generator, b.points(len(o.Workload.Sizes)))
	if !b.JSON && len(results) > 0 {
		err = errors.Join(err, printResults(c.out, results))
	}
	return errors.Join(err, plot(results), failures(results, &o.Workload))
}

func (b *benchCommand) measure(ctx context.Context, c *console, g *load.Generator, points []load.Point) (results []*load.Result, err error) {
	for _, point := range points {
		name := pointName(point.Concurrency, point.Rate)
		p := c.progress(name, point.Requests)
		p.every = 100 * time.Millisecond
		result, err := g.Run(ctx, point, p.step)
		if ctx.Err() != nil {
			return results, fmt.Errorf("interrupted at %s", name)
		}
		if err != nil {
			return results, err
		}
		p.end(time.Duration(result.Seconds * float64(time.Second)))
		results = append(results, result)
		if b.JSON {
			if err := c.writeJSON(result); err != nil {
				return results, err
			}
		}
	}
	return results, nil
}

// workOn is what the flags say, for the model that the server has.
func (b *benchCommand) workOn(ctx context.Context) (o load.Options, err error) {
	dial, err := b.options()
	if err != nil {
		return o, err
	}
	dial.DisableRetries = true
	o = load.Options{
		Dial: func() (*client.Client, error) { return client.New(dial) },
		Workload: load.Workload{
			Prompt: b.PromptTokens, Output: b.MaxTokens,
			Cancel: load.Cancel{Share: b.CancelShare, After: b.CancelAfter}, Deadline: b.Deadline, Seed: b.Seed,
		},
		Targets:     load.Targets{FirstToken: b.TargetTTFT, PerOutputToken: b.TargetTPOT, Pause: b.TargetPause},
		Connections: b.Connections, StreamsPerConnection: b.StreamsPerConnection,
	}
	if b.PrefixTokens != 0 {
		o.Workload.PrefixTokens, o.Workload.Prefixes = b.PrefixTokens, b.Prefixes
	}
	if b.Metrics != "" {
		o.MetricsURL = "http://" + b.Metrics + "/metrics"
	}
	if b.Workload != "" {
		if o.Workload.Sizes, err = load.ReadSizes(b.Workload); err != nil {
			return o, err
		}
	}
	server, err := b.dial()
	if err != nil {
		return o, err
	}
	defer server.Close()
	o.Model, err = onlyModel(ctx, server, b.Model)
	return o, err
}

// points are the loads, with how much of each.
func (b *benchCommand) points(sizes int) []load.Point {
	var points []load.Point
	add := func(p load.Point, requests int) {
		p.WarmUp, p.Duration, p.Requests = b.WarmUp, b.Duration, b.Requests
		if p.Duration == 0 && p.Requests == 0 {
			p.Requests = requests
			if sizes > 0 {
				p.Requests = sizes
			}
		}
		points = append(points, p)
	}
	for _, rate := range b.Rate {
		add(load.Point{Rate: rate}, max(8, int(math.Ceil(30*rate))))
	}
	concurrency := b.Concurrency
	if len(points) == 0 && len(concurrency) == 0 {
		concurrency = []int{1, 4, 16}
	}
	for _, n := range concurrency {
		add(load.Point{Concurrency: n}, max(8, 4*n))
	}
	return points
}

func pointName(concurrency int, rate float64) string {
	if rate > 0 {
		return fmt.Sprintf("rate %g", rate)
	}
	return fmt.Sprintf("concurrency %d", concurrency)
}
