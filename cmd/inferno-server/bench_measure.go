package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/inferno-serve/inferno/internal/backend"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/engine"
)

// minDecodeTokens leaves some steps in which all requests decode, and prompts are over.
const minDecodeTokens = 8

// size is a request's, in tokens.
type size struct{ prompt, output int }

// measurement drives an engine and looks at its steps.
type measurement struct {
	*backend.Loaded
	steps  *stepLog
	random *rand.Rand
	next   int // request id
}

func newMeasurement(l *backend.Loaded, steps *stepLog, f *benchFlags) *measurement {
	return &measurement{Loaded: l, steps: steps, random: rand.New(rand.NewPCG(f.Seed, 0))}
}

// stepLog is an engine.Observer that keeps when each step ended and what it computed.
type stepLog struct {
	mu    sync.Mutex
	steps []stepEnd
}

type stepEnd struct {
	at              time.Time
	decode, prefill int           // tokens
	took, host      time.Duration // its length; the loop's own work for it
	idle            time.Duration // that the device waited for it
}

// ObserveStep implements engine.Observer.
func (l *stepLog) ObserveStep(s *engine.StepInfo) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.steps = append(l.steps, stepEnd{now, s.DecodeTokens, s.PrefillTokens, s.Duration, s.Host, s.Idle})
}

// ObserveRequest implements engine.Observer.
func (*stepLog) ObserveRequest(*engine.RequestInfo) {}

// take returns the steps since the last take.
func (l *stepLog) take() []stepEnd {
	l.mu.Lock()
	defer l.mu.Unlock()
	steps := l.steps
	l.steps = nil
	return steps
}

// submit has a request of random ids under way.
func (m *measurement) submit(ctx context.Context, s size) (*engine.Stream, error) {
	prompt := make([]int32, s.prompt)
	for i := range prompt {
		prompt[i] = m.random.Int32N(int32(m.Config.Vocab))
	}
	m.next++
	streams, err := m.Engine.Submit(ctx, &engine.Request{
		ID: fmt.Sprint("bench-", m.next), Prompt: prompt, Stop: engine.Stopping{MaxTokens: s.output, IgnoreEOS: true},
	})
	if err != nil {
		return nil, err
	}
	return streams[0], nil
}

// runAll submits all at once and waits for their ends. Streams hold what nobody has read yet, so one reader after the other will do.
func (m *measurement) runAll(ctx context.Context, sizes []size) (outputTokens int, err error) {
	streams := make([]*engine.Stream, len(sizes))
	for i, s := range sizes {
		if streams[i], err = m.submit(ctx, s); err != nil {
			return 0, fmt.Errorf("request of %d + %d tokens: %w", s.prompt, s.output, err)
		}
	}
	for i, stream := range streams {
		for {
			_, finish, err := stream.Next(ctx)
			if err != nil {
				return 0, fmt.Errorf("request of %d + %d tokens: %w", sizes[i].prompt, sizes[i].output, err)
			}
			if finish != nil {
				outputTokens += finish.Usage.CompletionTokens
				break
			}
		}
	}
	return outputTokens, nil
}

// decodeRow is what decoding a batch measured, over the steps in which all of it decoded and no prompt was computed.
type decodeRow struct {
	Batch           int     `json:"batch"`
	Context         int     `json:"context_tokens"` // mean of the measured steps
	Steps           int     `json:"steps"`
	Milliseconds    float64 `json:"step_ms"` // from the end of a step to the end of the next: median
	P99             float64 `json:"step_ms_p99"`
	TokensPerSecond float64 `json:"output_tokens_per_second"`
	Gigabytes       float64 `json:"gigabytes_per_step"` // weights, keys and values read
	Rate            float64 `json:"gigabytes_per_second"`
	Share           float64 `json:"share_of_bandwidth"`
	Host            float64 `json:"host_us_per_step"` // the engine's loop's own work: median
	CPU             float64 `json:"cpu_us_per_token"` // of all threads and the whole run, prompts included
}

func (m *measurement) decode(ctx context.Context, batch int, s size, bandwidth float64) (row decodeRow, err error) {
	m.steps.take()
	before := usage()
	tokens, err := m.runAll(ctx, slices.Repeat([]size{s}, batch))
	if err != nil {
		return row, err
	}
	row = decodeRow{Batch: batch, CPU: usage().cpuSince(before) / float64(tokens)}
	gaps, host, generated := fullSteps(m.steps.take(), batch)
	if len(gaps) == 0 {
		return row, fmt.Errorf("batch %d: no step decoded all of it at once: more --max-tokens, or more --kv-memory than for %d tokens, "+
			"would help", batch, m.Info.KVBlocks*m.Info.KVBlockSize)
	}
	row.Steps, row.Context = len(gaps), s.prompt+generated
	total := time.Duration(0)
	for _, gap := range gaps {
		total += gap
	}
	row.TokensPerSecond = float64(batch*len(gaps)) / total.Seconds()
	median := percentile(gaps, 50)
	row.Host = microseconds(percentile(host, 50))
	row.Milliseconds, row.P99 = milliseconds(median), milliseconds(percentile(gaps, 99))
	bytes := float64(stepWeightBytes(m.Loaded)) + float64(batch*row.Context)*kvTokenBytes(m.Loaded)
	row.Gigabytes = bytes / 1e9
	row.Rate = row.Gigabytes / median.Seconds()
	row.Share = row.Rate / bandwidth
	return row, nil
}

// fullSteps are the times between the ends of successive full decode steps, the loop's own work for them, and how many tokens a request
// had by then on average.
func fullSteps(steps []stepEnd, batch int) (gaps, host []time.Duration, generated int) {
	full := func(s stepEnd) bool { return s.decode == batch && s.prefill == 0 }
	decoded, sum := 0, 0
	for i, s := range steps {
		decoded += s.decode
		if i > 0 && full(s) && full(steps[i-1]) {
			gaps, host = append(gaps, s.at.Sub(steps[i-1].at)), append(host, s.host)
			sum += decoded / batch
		}
	}
	return gaps, host, sum / max(len(gaps), 1)
}

// stepWeightBytes is what a decode step reads of the weights: all but an embedding that is not the head too, of which it looks up rows.
// Where types are mixed it takes the embedding's for the average.
func stepWeightBytes(l *backend.Loaded) int64 {
	if l.Config.Tied || l.Info.Parameters == 0 {
		return l.Info.WeightBytes
	}
	embedding := float64(l.Config.Vocab) * float64(l.Config.Dim) / float64(l.Info.Parameters)
	return int64(float64(l.Info.WeightBytes) * (1 - embedding))
}

func kvTokenBytes(l *backend.Loaded) float64 {
	return float64(l.Info.KVBytes) / float64(l.Info.KVBlocks*l.Info.KVBlockSize)
}

// prefillRow is the time to first token of prompts, one at a time.
type prefillRow struct {
	Prompt          int     `json:"prompt_tokens"`
	Repeat          int     `json:"repeat"`
	Milliseconds    float64 `json:"first_token_ms"` // median
	Slowest         float64 `json:"first_token_ms_max"`
	TokensPerSecond float64 `json:"prompt_tokens_per_second"` // of the median
}

func (m *measurement) prefill(ctx context.Context, prompt, repeat int) (row prefillRow, err error) {
	times := make([]time.Duration, repeat)
	for i := range times {
		began := time.Now()
		if _, err := m.runAll(ctx, []size{{prompt, 1}}); err != nil {
			return row, err
		}
		times[i] = time.Since(began)
	}
	median := percentile(times, 50)
	return prefillRow{prompt, repeat, milliseconds(median), milliseconds(slices.Max(times)), float64(prompt) / median.Seconds()}, nil
}

// mixedRow is a load of requests of all sizes, all submitted at once.
type mixedRow struct {
	Requests        int     `json:"requests"`
	PromptTokens    int     `json:"prompt_tokens"`
	OutputTokens    int     `json:"output_tokens"`
	Seconds         float64 `json:"seconds"`
	TokensPerSecond float64 `json:"output_tokens_per_second"`
	CPU             float64 `json:"cpu_us_per_token"`
	Steps           int     `json:"steps"`
	Preemptions     uint64  `json:"preemptions"`

	DecodeStep  float64 `json:"decode_step_ms"` // median of the steps that decode alone, and
	MixedSteps  int     `json:"mixed_steps"`    // those with tokens of prompts beside that:
	MixedStep   float64 `json:"mixed_step_ms"`  // median
	MixedPrompt float64 `json:"mixed_prompt_tokens"`
	Waited      int     `json:"steps_waited_for"` // by the device, as they were launched after the end of the one before
	Idle        float64 `json:"idle_us"`          // for how long in these: median
}

func (m *measurement) mixed(ctx context.Context, sizes []size) (row mixedRow, err error) {
	m.steps.take()
	before, preempted, began := usage(), m.Engine.Stats().Preemptions, time.Now()
	row.Requests = len(sizes)
	for _, s := range sizes {
		row.PromptTokens += s.prompt
	}
	if row.OutputTokens, err = m.runAll(ctx, sizes); err != nil {
		return row, err
	}
	row.Seconds = time.Since(began).Seconds()
	row.TokensPerSecond = float64(row.OutputTokens) / row.Seconds
	row.CPU = usage().cpuSince(before) / float64(row.OutputTokens)
	row.Preemptions = m.Engine.Stats().Preemptions - preempted
	row.addSteps(m.steps.take())
	return row, nil
}

func (row *mixedRow) addSteps(steps []stepEnd) {
	var decode, mixed, idle []time.Duration
	prompt := 0
	for i, s := range steps {
		switch {
		case s.prefill == 0:
			decode = append(decode, s.took)
		case s.decode > 0:
			mixed = append(mixed, s.took)
			prompt += s.prefill
		}
		if s.idle > 0 && i > 0 { // before the first there was nothing to do
			idle = append(idle, s.idle)
		}
	}
	row.Steps, row.MixedSteps, row.Waited = len(steps), len(mixed), len(idle)
	if len(decode) > 0 {
		row.DecodeStep = milliseconds(percentile(decode, 50))
	}
	if len(mixed) > 0 {
		row.MixedStep, row.MixedPrompt = milliseconds(percentile(mixed, 50)), float64(prompt)/float64(len(mixed))
	}
	if len(idle) > 0 {
		row.Idle = microseconds(percentile(idle, 50))
	}
}

// profileRow is an op's share of a decode step.
type profileRow struct {
	Op           string  `json:"op"`
	Shape        string  `json:"shape,omitempty"`
	Calls        int     `json:"calls_per_step"`
	Microseconds float64 `json:"us_per_call"`
	Step         float64 `json:"us_per_step"`
	Rate         float64 `json:"gigabytes_per_second,omitempty"`
}

// profile times the ops of decode steps of a batch. The engine is idle when it asks the device, as another goroutine may then.
func (m *measurement) profile(ctx context.Context, batch int, s size) ([]profileRow, error) {
	p := m.Device.(device.Profiler)
	p.Profile() // what came before
	if _, err := m.runAll(ctx, slices.Repeat([]size{s}, batch)); err != nil {
		return nil, err
	}
	rows := p.Profile()
	rows = slices.DeleteFunc(rows, func(r device.ProfileRow) bool { return r.Rows != batch })
	steps := 0
	for _, r := range rows {
		if r.Op == "embed" {
			steps += r.Count
		}
	}
	if steps == 0 {
		return nil, fmt.Errorf("batch %d: no step decoded all of it at once", batch)
	}
	var table []profileRow
	for _, r := range rows {
		row := profileRow{Op: r.Op, Shape: r.Shape, Calls: max(1, r.Count/steps), Microseconds: microseconds(r.Took) / float64(r.Count)}
		row.Step = float64(row.Calls) * row.Microseconds
		row.Rate = float64(r.Bytes) / 1e9 / r.Took.Seconds()
		table = append(table, row)
	}
	slices.SortFunc(table, func(a, b profileRow) int { return int(b.Step*1e3 - a.Step*1e3) })
	return table, nil
}

// percentile takes the nearest rank.
func percentile(times []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[(len(sorted)*p+99)/100-1]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// usage is what the process has used so far.
type resources syscall.Rusage

func usage() (r resources) {
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, (*syscall.Rusage)(&r)) // it fails for bad arguments alone
	return r
}

// cpuSince is the processor time of all threads, in microseconds.
func (r resources) cpuSince(before resources) float64 {
	us := func(t syscall.Timeval) int64 { return t.Sec*1e6 + t.Usec }
	return float64(us(r.Utime) + us(r.Stime) - us(before.Utime) - us(before.Stime))
}

// peak is the largest resident set so far, in bytes.
func (r resources) peak() int64 { return r.Maxrss * 1024 }
