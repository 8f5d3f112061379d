package load

import (
	"time"
)

// Schema names the meaning of Result's members as JSON. It changes when one changes its meaning or goes; new ones may come without.
const Schema = "inferno.bench/1"

// Result is what one point came to. Times are in milliseconds; what is per second is of the window, `Seconds` long: it begins when the warm-up
// ends, and ends with the point's duration or, where a number of requests is asked for, with the last of them.
type Result struct {
	Schema      string  `json:"schema"`
	Model       string  `json:"model"`
	Concurrency int     `json:"concurrency,omitempty"`     // of a closed loop
	Rate        float64 `json:"rate_per_second,omitempty"` // of an open loop
	Connections int     `json:"connections"`
	Seconds     float64 `json:"seconds"`

	Requests  int            `json:"requests"`  // that started within the window; all below are of these
	Succeeded int            `json:"succeeded"` // ended as they should
	Short     int            `json:"short"`     // of those, with fewer tokens than asked for
	Cancelled int            `json:"cancelled"` // by the generator, as they were to be
	Failed    int            `json:"failed"`
	Errors    map[string]int `json:"errors,omitempty"` // failed ones by status
	Error     string         `json:"error,omitempty"`  // of the first that failed

	TargetTTFT  float64 `json:"target_ttft_ms,omitempty"`
	TargetTPOT  float64 `json:"target_tpot_ms,omitempty"`
	TargetPause float64 `json:"target_pause_ms,omitempty"`

	RequestsPerSecond float64 `json:"requests_per_second"` // succeeded
	Good              int     `json:"good"`                // succeeded, not short, and within the targets
	GoodPerSecond     float64 `json:"good_per_second"`     // the goodput

	OutputTokens       int64   `json:"output_tokens"` // that came within the window, whatever their request
	OutputPerSecond    float64 `json:"output_tokens_per_second"`
	PromptTokens       int64   `json:"prompt_tokens"` // of prompts whose first token came within the window
	PromptPerSecond    float64 `json:"prompt_tokens_per_second"`
	CachedPromptTokens int64   `json:"cached_prompt_tokens"`
	Preemptions        int64   `json:"preemptions"`

	FirstToken     Distribution `json:"time_to_first_token_ms"` // start to first token
	InterToken     Distribution `json:"inter_token_ms"`         // between tokens; those of one message share the pause before it
	Pause          Distribution `json:"pause_ms"`               // between messages
	PerOutputToken Distribution `json:"time_per_output_token_ms"`
	Total          Distribution `json:"end_to_end_ms"` // start to end of the stream, of those that succeeded
	Queued         Distribution `json:"queued_ms"`     // the server's word, of the same
	Refused        Distribution `json:"refused_ms"`    // sent to RESOURCE_EXHAUSTED
	Overdue        Distribution `json:"overdue_ms"`    // when a request should have started to when it did: this machine's fault

	GeneratorCPU float64 `json:"generator_cpu_us_per_token"`
	Server       *Server `json:"server,omitempty"` // where its metrics were read
}

// Load is the point's load as a number: a concurrency or a rate.
func (r *Result) Load() float64 {
	if r.Rate > 0 {
		return r.Rate
	}
	return float64(r.Concurrency)
}

// Unexpected are the failures that are not the load's own doing: a server may refuse what an open loop offers, and deadlines may expire.
func (r *Result) Unexpected(w *Workload) int {
	n := r.Failed
	if r.Rate > 0 {
		n -= r.Errors[exhausted]
	}
	if w.Deadline > 0 {
		n -= r.Errors[expired]
	}
	return n
}

func (r *run) result(seen *watch) *Result {
	c := &r.record
	end := c.end
	if end == never {
		end = c.last
	}
	seconds := max((end - c.begin).Seconds(), time.Nanosecond.Seconds())
	result := &Result{
		Schema: Schema, Model: r.o.Model, Concurrency: r.point.Concurrency, Rate: r.point.Rate,
		Connections: r.pool.size(), Seconds: seconds, Requests: c.requests, Succeeded: c.succeeded, Short: c.short, Cancelled: c.left, Failed: c.requests - c.succeeded - c.left,
		TargetTTFT: milliseconds(c.targets.FirstToken), TargetTPOT: milliseconds(c.targets.PerOutputToken),
		TargetPause: milliseconds(c.targets.Pause),
		Errors:      c.errors, RequestsPerSecond: float64(c.succeeded) / seconds,
		Good: c.good, GoodPerSecond: float64(c.good) / seconds,
		PromptTokens: c.promptTokens, PromptPerSecond: float64(c.promptTokens) / seconds,
		OutputTokens: c.tokens.Load(), OutputPerSecond: float64(c.tokens.Load()) / seconds,
		CachedPromptTokens: c.cached, Preemptions: c.preempts,
		FirstToken: c.firstToken.distribution(), InterToken: c.interToken.distribution(), Pause: c.pause.distribution(),
		PerOutputToken: c.perToken.distribution(), Total: c.total.distribution(), Queued: c.queued.distribution(),
		Refused: c.refused.distribution(), Overdue: c.overdue.distribution(),
		Server: seen.server(),
	}
	if c.firstError != nil {
		result.Error = c.firstError.Error()
	}
	if n := result.OutputTokens; n > 0 {
		result.GeneratorCPU = float64(seen.cpu.Nanoseconds()) / 1e3 / float64(n)
	}
	return result
}
