package load

import (
	"context"
	"sync"
	"time"
)

// Server is what the server's own metrics said over the window. Members whose metrics it lacks are left out.
type Server struct {
	CPUPerToken     *float64 `json:"cpu_us_per_token,omitempty"` // CPU time of the whole process over the tokens that it generated
	CPUSeconds      *float64 `json:"cpu_seconds,omitempty"`
	OutputTokens    *float64 `json:"output_tokens,omitempty"`
	PromptTokens    *float64 `json:"prompt_tokens,omitempty"` // computed, again after a preemption included
	CachedTokens    *float64 `json:"cached_prompt_tokens,omitempty"`
	Preemptions     *float64 `json:"preemptions,omitempty"`
	Rejected        *float64 `json:"rejected,omitempty"`
	Steps           *float64 `json:"steps,omitempty"`
	StepMS          *float64 `json:"step_ms,omitempty"`         // mean
	StepHostMS      *float64 `json:"step_host_ms,omitempty"`    // mean, of the engine's own loop
	SequencesInStep *float64 `json:"step_sequences,omitempty"`  // mean
	Queued          *Level   `json:"queued,omitempty"`          // requests
	Running         *Level   `json:"running,omitempty"`         // requests
	Suspended       *Level   `json:"suspended,omitempty"`       // requests
	KVUsed          *Level   `json:"kv_used_share,omitempty"`   // of the KV blocks
	ResidentBytes   *Level   `json:"resident_bytes,omitempty"`  // of the process
	Unread          int      `json:"metrics_unread,omitempty"`  // readings that failed
	UnreadReason    string   `json:"metrics_failure,omitempty"` // of the first
}

// Level is a value that was read every second.
type Level struct {
	Mean float64 `json:"mean"`
	Max  float64 `json:"max"`
}

// watchInterval is between two readings of the server's metrics, of which one costs it some 4 ms of CPU time.
const watchInterval = time.Second

// A watch follows the CPU time of this process, and the server's metrics, over the window of a run, on a goroutine of its own until stop.
type watch struct {
	run  *run
	quit chan struct{}
	done sync.WaitGroup

	cpu           time.Duration // of this process, in the window
	first, latest metrics       // nil until read
	levels        map[string]*levelSum
	unread        int
	failure       error
}

type levelSum struct {
	sum, max float64
	n        int
}

// watch starts the run's clock. Where the window begins with it, so does what the server counts.
func (r *run) watch(ctx context.Context) *watch {
	w := &watch{run: r, quit: make(chan struct{}), levels: map[string]*levelSum{}}
	if r.record.begin == 0 {
		w.read(ctx)
	}
	r.start = time.Now()
	w.done.Go(func() { w.follow(ctx) })
	return w
}

// stop ends the window, where that has not ended by itself.
func (w *watch) stop() {
	close(w.quit)
	w.done.Wait()
}

func (w *watch) follow(ctx context.Context) {
	if !w.wait(ctx, w.run.record.begin) {
		return
	}
	before := processCPU()
	if w.run.record.begin > 0 {
		w.read(ctx)
	}
	for next := w.run.record.begin + watchInterval; next < w.run.record.end && w.wait(ctx, next); next += watchInterval {
		w.read(ctx)
	}
	if end := w.run.record.end; end != never {
		w.wait(ctx, end)
	}
	w.cpu = processCPU() - before
	w.read(ctx)
}

// wait waits for a time of the run; false: it has been stopped before.
func (w *watch) wait(ctx context.Context, until time.Duration) bool {
	timer := time.NewTimer(until - w.run.now())
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.quit:
	case <-ctx.Done():
	}
	return false
}

func (w *watch) read(ctx context.Context) {
	if w.run.o.MetricsURL == "" || ctx.Err() != nil {
		return
	}
	now, err := w.run.scrape(ctx)
	if err != nil {
		if w.unread++; w.unread == 1 {
			w.failure = err
		}
		return
	}
	if w.first == nil {
		w.first = now
	}
	w.latest = now
	for _, name := range []string{
		"inferno_requests_queued", "inferno_requests_running", "inferno_requests_suspended", "process_resident_memory_bytes",
	} {
		if v, ok := now[name]; ok {
			w.level(name, v)
		}
	}
	if used, ok := now["inferno_kv_blocks_used"]; ok && now["inferno_kv_blocks"] > 0 {
		w.level("inferno_kv_blocks_used", used/now["inferno_kv_blocks"])
	}
}

func (w *watch) level(name string, v float64) {
	l := w.levels[name]
	if l == nil {
		l = &levelSum{}
		w.levels[name] = l
	}
	l.sum += v
	l.max = max(l.max, v)
	l.n++
}

func (w *watch) server() *Server {
	if w.run.o.MetricsURL == "" {
		return nil
	}
	s := &Server{
		CPUSeconds: w.grown("process_cpu_seconds_total"), OutputTokens: w.grown("inferno_output_tokens_total"),
		PromptTokens: w.grown("inferno_prompt_tokens_total"), CachedTokens: w.grown("inferno_prefix_cache_hit_tokens_total"),
		Preemptions: w.grown("inferno_preemptions_total"), Rejected: w.grown("inferno_requests_rejected_total"),
		Steps:  w.grown("inferno_steps_total"),
		Queued: w.levelOf("inferno_requests_queued"), Running: w.levelOf("inferno_requests_running"),
		Suspended: w.levelOf("inferno_requests_suspended"), KVUsed: w.levelOf("inferno_kv_blocks_used"),
		ResidentBytes: w.levelOf("process_resident_memory_bytes"), Unread: w.unread,
	}
	s.CPUPerToken = ratio(s.CPUSeconds, s.OutputTokens, 1e6)
	s.StepMS = ratio(w.grown("inferno_step_seconds_sum"), w.grown("inferno_step_seconds_count"), 1e3)
	s.StepHostMS = ratio(w.grown("inferno_step_host_seconds_total"), s.Steps, 1e3)
	s.SequencesInStep = ratio(w.grown("inferno_batch_sequences_sum"), w.grown("inferno_batch_sequences_count"), 1)
	if w.failure != nil {
		s.UnreadReason = w.failure.Error()
	}
	return s
}

// grown is how much a counter grew in the window.
func (w *watch) grown(name string) *float64 {
	before, had := w.first[name]
	after, has := w.latest[name]
	if !had || !has {
		return nil
	}
	return new(after - before)
}

func (w *watch) levelOf(name string) *Level {
	l := w.levels[name]
	if l == nil {
		return nil
	}
	return &Level{Mean: l.sum / float64(l.n), Max: l.max}
}

func ratio(a, b *float64, scale float64) *float64 {
	if a == nil || b == nil || *b <= 0 {
		return nil
	}
	return new(*a / *b * scale)
}
