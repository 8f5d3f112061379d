package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/inferno-serve/inferno/client"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

type benchCommand struct {
	remote `embed:""`

	Model        string `help:"Name of the model; may be left out where the server has one only."`
	Concurrency  []int  `default:"1,4,16" placeholder:"N" help:"Numbers of requests at a time; each is a row of the table."`
	PromptTokens int    `default:"128" help:"Tokens of each prompt, all different."`
	MaxTokens    uint32 `default:"64" help:"New tokens of each request; end tokens do not end it."`
	Requests     int    `default:"0" help:"Requests of each row; 0 means four times its concurrency, at least 8."`
	Seed         uint64 `default:"1" help:"Fixes the prompts."`
}

// Validate finds what kong cannot.
func (b *benchCommand) Validate() error {
	for _, n := range b.Concurrency {
		if n < 1 || n > 4096 {
			return fmt.Errorf("--concurrency: %d, want 1 to 4096", n)
		}
	}
	switch {
	case len(b.Concurrency) == 0:
		return errors.New("--concurrency: empty, want at least one number")
	case b.PromptTokens < 1:
		return fmt.Errorf("--prompt-tokens: %d, want at least 1", b.PromptTokens)
	case b.MaxTokens < 1:
		return fmt.Errorf("--max-tokens: %d, want at least 1", b.MaxTokens)
	case b.Requests < 0:
		return fmt.Errorf("--requests: %d, want 0 or more", b.Requests)
	}
	return nil
}

// Run measures each concurrency in turn, after one request that does not count.
func (b *benchCommand) Run(ctx context.Context, c *console) error {
	server, err := b.dial()
	if err != nil {
		return err
	}
	defer server.Close()
	name, err := onlyModel(ctx, server, b.Model)
	if err != nil {
		return err
	}
	answer, err := server.Registry().GetModel(ctx, &infernov1.GetModelRequest{Name: name})
	if err != nil {
		return err
	}
	load := &load{
		server: server, model: answer.GetModel(), promptTokens: b.PromptTokens, maxTokens: b.MaxTokens,
		random: rand.New(rand.NewPCG(b.Seed, 0)),
	}
	if first := load.one(ctx, load.request()); first.err != nil {
		return first.err
	}
	var rows []benchRow
	for _, n := range b.Concurrency {
		row := load.run(ctx, n, b.requests(n), c.progress(fmt.Sprintf("concurrency %d", n), b.requests(n)))
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("interrupted at concurrency %d", n)
		}
		rows = append(rows, row)
		if b.JSON {
			if err := c.writeJSON(row); err != nil {
				return err
			}
		}
	}
	if !b.JSON {
		if err := printRows(c, rows); err != nil {
			return err
		}
	}
	return failures(rows)
}

func (b *benchCommand) requests(concurrency int) int {
	if b.Requests > 0 {
		return b.Requests
	}
	return max(8, 4*concurrency)
}

// load makes requests and measures them from the client's side.
type load struct {
	server       *client.Client
	model        *infernov1.Model
	promptTokens int
	maxTokens    uint32

	mu     sync.Mutex
	random *rand.Rand
}

// request is greedy, and its prompt random, so that no two share a prefix that a cache could hold.
func (l *load) request() *infernov1.GenerateRequest {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := make([]uint32, l.promptTokens)
	for i := range ids {
		ids[i] = l.random.Uint32N(l.model.GetVocabularySize())
	}
	return &infernov1.GenerateRequest{
		Model:    l.model.GetName(),
		Input:    &infernov1.GenerateRequest_TokenIds{TokenIds: &infernov1.TokenIds{Ids: ids}},
		Sampling: &infernov1.SamplingParameters{Temperature: new(float32(0))},
		Stopping: &infernov1.StoppingParameters{MaxTokens: &l.maxTokens, IgnoreEos: new(true)},
	}
}

// sample is what one request measured.
type sample struct {
	first  time.Duration   // call to first token
	gaps   []time.Duration // between tokens; those that come together share the gap before them
	tokens int
	err    error
}

func (l *load) one(ctx context.Context, req *infernov1.GenerateRequest) (s sample) {
	last := time.Now()
	for event, err := range l.server.Stream(ctx, req) {
		if err != nil {
			s.err = err
			return s
		}
		tokens, ok := event.(client.Tokens)
		n := len(tokens.IDs)
		if !ok || n == 0 {
			continue
		}
		now := time.Now()
		if s.tokens == 0 {
			s.first = now.Sub(last)
			n--
		}
		for range n {
			s.gaps = append(s.gaps, now.Sub(last)/time.Duration(len(tokens.IDs)))
		}
		s.tokens += len(tokens.IDs)
		last = now
	}
	return s
}

// run keeps `concurrency` requests going until `requests` are done.
func (l *load) run(ctx context.Context, concurrency, requests int, p *progress) benchRow {
	work := make(chan *infernov1.GenerateRequest)
	done := make(chan sample)
	var workers sync.WaitGroup
	begin := time.Now()
	for range min(concurrency, requests) {
		workers.Go(func() {
			for req := range work {
				done <- l.one(ctx, req)
			}
		})
	}
	go func() {
		defer close(done)
		defer workers.Wait()
		defer close(work)
		for range requests {
			select {
			case work <- l.request():
			case <-ctx.Done():
				return
			}
		}
	}()
	samples := make([]sample, 0, requests)
	for s := range done {
		samples = append(samples, s)
		p.step()
	}
	p.end(time.Since(begin))
	return newRow(concurrency, l.promptTokens, samples, time.Since(begin))
}

// benchRow is the result of one concurrency. Times are in milliseconds.
type benchRow struct {
	Concurrency     int        `json:"concurrency"`
	Requests        int        `json:"requests"`
	Failed          int        `json:"failed"`
	Error           string     `json:"error,omitempty"` // of the first that failed
	Seconds         float64    `json:"seconds"`
	OutputPerSecond float64    `json:"output_tokens_per_second"`
	PromptPerSecond float64    `json:"prompt_tokens_per_second"`
	FirstToken      percentile `json:"time_to_first_token_ms"`
	InterToken      percentile `json:"inter_token_ms"`
}

type percentile struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
}

func newRow(concurrency, promptTokens int, samples []sample, wall time.Duration) benchRow {
	row := benchRow{Concurrency: concurrency, Requests: len(samples), Seconds: wall.Seconds()}
	var first, gaps []time.Duration
	tokens := 0
	for _, s := range samples {
		if s.err != nil {
			if row.Failed++; row.Failed == 1 {
				row.Error = s.err.Error()
			}
			continue
		}
		first = append(first, s.first)
		gaps = append(gaps, s.gaps...)
		tokens += s.tokens
	}
	row.OutputPerSecond = float64(tokens) / wall.Seconds()
	row.PromptPerSecond = float64(len(first)*promptTokens) / wall.Seconds()
	row.FirstToken, row.InterToken = percentilesOf(first), percentilesOf(gaps)
	return row
}

// percentilesOf takes the nearest rank.
func percentilesOf(times []time.Duration) percentile {
	if len(times) == 0 {
		return percentile{}
	}
	slices.Sort(times)
	at := func(p int) float64 { return milliseconds(times[(len(times)*p+99)/100-1]) }
	return percentile{at(50), at(90), at(99)}
}

func printRows(c *console, rows []benchRow) error {
	table := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "concurrency\trequests\tfailed\tseconds\toutput tok/s\tprompt tok/s\tTTFT ms p50\tp90\tp99\tinter-token ms p50\tp90\tp99\t")
	for _, r := range rows {
		fmt.Fprintf(table, "%d\t%d\t%d\t%.2f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.2f\t%.2f\t%.2f\t\n",
			r.Concurrency, r.Requests, r.Failed, r.Seconds, r.OutputPerSecond, r.PromptPerSecond,
			r.FirstToken.P50, r.FirstToken.P90, r.FirstToken.P99, r.InterToken.P50, r.InterToken.P90, r.InterToken.P99)
	}
	return table.Flush()
}

func failures(rows []benchRow) error {
	for _, r := range rows {
		if r.Failed > 0 {
			return fmt.Errorf("concurrency %d: %d of %d requests failed, the first with: %s", r.Concurrency, r.Failed, r.Requests, r.Error)
		}
	}
	return nil
}
