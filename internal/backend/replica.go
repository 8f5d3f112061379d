package backend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/health"
	"github.com/inferno-serve/inferno/internal/memory"
	"github.com/inferno-serve/inferno/internal/model"
	"github.com/inferno-serve/inferno/internal/server"
	"github.com/inferno-serve/inferno/internal/telemetry"
	"github.com/inferno-serve/inferno/internal/tokenizer"
	"github.com/inferno-serve/inferno/internal/tokenizer/chat"
)

// Times of the probe token that an idle replica makes.
const (
	probeEvery   = 15 * time.Second
	probeTimeout = 10 * time.Second
	probeOld     = 2*probeEvery + probeTimeout // the last probe says nothing any more
)

// What a device may take to give back what it holds, where the process ends behind it and where it goes on. One that is lost may never
// answer.
const (
	closeTimeout  = 1500 * time.Millisecond
	unloadTimeout = time.Minute
)

// replica is one model on a device, with the engine that drives it.
type replica struct {
	name, path string

	loading context.Context // the load's; ended with the reason by whoever undoes it
	undo    context.CancelCauseFunc
	settled chan struct{}   // closed when the load has ended, either way
	leaving context.Context // ends when the model is being unloaded
	leave   context.CancelFunc
	gone    chan struct{} // closed when what was unloaded is free again
	used    atomic.Int64  // when a request last asked for it: ns since 1970

	life   context.Context // ends when the replica is lost, with the reason, or closed
	end    context.CancelCauseFunc
	losing sync.Once

	// Set by start, and not changed before close.
	device     device.Device
	untrack    func() // takes back what track counted
	pool       *memory.Pool
	engine     *engine.Engine
	watchdog   *watchdog
	config     *model.Config  // of the checkpoint; set once the model is up
	warm       chan struct{}  // closed when the engine's Warmup has returned
	engineDone chan struct{}  // closed when the engine's Run has returned
	watchers   sync.WaitGroup // the idle probes and the watchdog

	mu            sync.Mutex
	stamp         string // of the files at path when the load began
	model         server.Model
	probe         error         // of the last probe
	probed        time.Time     // when it ended; set once the model is up
	loaded, total int64         // bytes of weights
	news          chan struct{} // closed, and replaced, when the load has come further
	outcome       error         // why the load failed, as its callers are told; set before settled is closed
}

func newReplica(name, path string) *replica {
	r := &replica{name: name, path: path, settled: make(chan struct{}), gone: make(chan struct{}), news: make(chan struct{})}
	r.life, r.end = context.WithCancelCause(context.Background())
	r.loading, r.undo = context.WithCancelCause(context.Background())
	r.leaving, r.leave = context.WithCancel(context.Background())
	r.model.Leaving = r.leaving
	r.model.Info = server.ModelInfo{Name: name, State: server.ModelLoading, Reason: "loading", Since: time.Now()}
	r.used.Store(time.Now().UnixNano())
	return r
}

// start opens, loads, warms up and probes, with so many models to come after it. What it took is given back by close, also when it failed
// half-way.
func (r *replica) start(ctx context.Context, b *backend, later int) error {
	began := time.Now()
	c := b.o.Config
	checkpoint, tokens, err := r.open(b)
	if err != nil {
		return err
	}
	defer checkpoint.Close()
	if err := r.track(b); err != nil {
		return err
	}
	loader := &model.Loader{Architectures: b.o.Architectures}
	progress := b.progress(r.name)
	options := model.Options{Device: r.device, DType: weightTypes[c.DType], Progress: func(loaded, total int64) {
		progress.update(loaded, total)
		r.progressed(loaded, total)
	}}
	plan, room, err := b.makeRoom(ctx, r, later, func(room room) (plan, error) {
		return newPlan(ctx, loader, checkpoint, options, c, room)
	})
	if err != nil {
		return err
	}
	if r.pool, err = b.newPool(r.name, r.device, plan.bytes); err != nil {
		return err
	}
	options.Allocator, options.Limits = r.pool, plan.limits
	loaded, err := loader.Load(ctx, checkpoint, options)
	progress.end()
	if err != nil {
		return err
	}
	read := time.Since(began)
	r.watchdog = newWatchdog(b.o.StuckStep, b.engines.Observer(r.name), b.requests.Observer(r.name), b.o.Observer)
	r.engine, err = engine.New(engine.Options{
		Model: loaded, Device: r.device, Memory: r.pool, Limits: plan.limits, NumBlocks: plan.blocks, BlockSize: plan.blockSize,
		MaxBatch: plan.limits.MaxSeqs, MaxBatchTokens: c.MaxBatchTokens, MaxQueue: c.MaxQueue,
		MaxQueueTokens: c.MaxQueueTokens, MaxQueueWait: c.MaxQueueWait, Bus: b.bus, Log: b.log.With("model", r.name), Observer: r.watchdog,
		PrefixCache: c.PrefixCache, TargetITL: c.TargetITL, MaxDrafting: c.SpeculateUpTo,
	})
	if err != nil {
		return err
	}
	if err := r.warmUp(ctx, b); err != nil {
		return err
	}
	r.watchdog.longest = r.engine.LongestStep
	r.run(b)
	if err := r.firstToken(ctx); err != nil {
		return fmt.Errorf("probe token: %w", err)
	}
	r.ready(b, checkpoint, plan, tokens, r.openChat(b, checkpoint, tokens))
	if has := r.engine.Context(); has < plan.limits.Context {
		b.log.Warn("KV memory holds less than the model's context: --kv-memory raises it", "model", r.name,
			"context", has, "of", plan.limits.Context, "kv_memory", c.KVMemory)
	}
	b.log.Info("model ready", "model", r.name, "revision", checkpoint.Revision(), "device", deviceName(r.device.Info()),
		"kv_blocks", plan.blocks, "context", r.engine.Context(), "loaded", read, "took", time.Since(began))
	if room.info.Kind != "cpu" {
		free := r.device.Info().FreeBytes
		b.log.Info("card memory", "model", r.name, "reserved", config.Bytes(plan.bytes).Short(),
			"beside", config.Bytes(room.info.FreeBytes-free-plan.bytes).Short(), "free", config.Bytes(free).Short())
	}
	return nil
}

// open opens the device and, meanwhile, the checkpoint and its tokenizer. The caller closes the checkpoint.
func (r *replica) open(b *backend) (checkpoint *model.Checkpoint, tokens *tokenizer.Tokenizer, err error) {
	opened := make(chan error, 1)
	go func() {
		var err error
		r.device, err = b.o.OpenDevice()
		opened <- err
	}()
	checkpoint, tokens, err = openModel(r.path, b.o.Config.Format)
	if failed := <-opened; failed != nil {
		if err == nil {
			_ = checkpoint.Close() // it was only read
		}
		return nil, nil, failed
	}
	return checkpoint, tokens, err
}

// openModel opens a checkpoint and its tokenizer. The tokenizer is nil where there is none: such a model serves token ids only.
func openModel(path, format string) (*model.Checkpoint, *tokenizer.Tokenizer, error) {
	if format == "random" {
		c, err := model.OpenRandom(path)
		return c, nil, err
	}
	c, err := model.Open(path)
	if err != nil {
		return nil, nil, err
	}
	tokens, err := openTokenizer(path, c)
	if err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	return c, tokens, nil
}

// run starts the engine's loop, the probes that keep an idle engine honest, and the watchdog over its steps.
func (r *replica) run(b *backend) {
	r.engineDone = make(chan struct{})
	go func() {
		defer close(r.engineDone)
		if err := r.engine.Run(context.Background()); err != nil {
			r.lose(b, err)
		}
	}()
	r.watchers.Go(func() { r.keepProbing(r.life, b.checker.Refresh) })
	r.watchers.Go(func() {
		if silent, stuck := r.watchdog.watch(r.life, r.engine.Silence); stuck {
			doing := "the engine's loop has been silent for"
			if r.engine.Stats().InStep > 0 {
				doing = "a step has been running for"
			}
			r.lose(b, hung(doing, silent))
		}
	})
}

func hung(doing string, silent time.Duration) error {
	return fmt.Errorf("%w: %s %v", device.ErrLost, doing, silent.Round(time.Millisecond))
}

// firstToken waits for a probe token, or for the reason why there will be none: a loop that hangs in its first step answers nobody.
func (r *replica) firstToken(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(r.life, func() { cancel(context.Cause(r.life)) })()
	err := r.engine.Probe(ctx)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// lose takes the replica out of service for good, once: its engine has ended, or will never end. Health says so at once, and the server
// ends with the reason.
func (r *replica) lose(b *backend, err error) {
	r.losing.Do(func() {
		r.fail(err)
		b.checker.Refresh()
		b.breaks(fmt.Errorf("model %s: %w", r.name, err))
		r.end(err)
	})
}

func (r *replica) keepProbing(ctx context.Context, changed func()) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.engineDone:
			return
		case <-tick.C:
		}
		err := r.probeOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		r.mu.Lock()
		different := (err == nil) != (r.probe == nil)
		r.probe, r.probed = err, time.Now()
		r.mu.Unlock()
		if different {
			changed()
		}
	}
}

// probeOnce waits for a token. Long prompts may keep a device for longer than a probe's time, in steps none of which makes one: then
// it is enough that steps end.
func (r *replica) probeOnce(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	steps := r.engine.Stats().Steps
	err := r.engine.Probe(limited)
	if errors.Is(err, context.DeadlineExceeded) && r.engine.Stats().Steps > steps {
		return nil
	}
	return err
}

func (r *replica) ready(b *backend, c *model.Checkpoint, p plan, tokens *tokenizer.Tokenizer, template *chat.Template) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.config, r.probed = c.Config, time.Now() // of the first token
	r.model.Engine = server.FromEngine(r.engine)
	r.model.Tokenizer, r.model.Chat = tokens, template
	if tokens != nil {
		r.model.Constraints = server.NewConstraints(tokens, c.Config.Vocab)
	}
	r.model.EndTokens = endTokens(c, tokens)
	r.model.Defaults = generationDefaults(c.Generation)
	info := &r.model.Info
	info.State, info.Reason, info.Since = server.ModelReady, "", time.Now()
	info.Revision = c.Revision()
	info.Architecture = c.Config.Architecture
	info.Parameters, info.WeightType = c.Parameters()
	info.KVType = p.kv.DType.String()
	info.Device = deviceName(r.device.Info())
	info.VocabularySize = c.Config.Vocab
	info.MaxContext = r.engine.Context()
	info.MaxBatch = p.limits.MaxSeqs
	info.MaxQueue = b.o.Config.MaxQueue
	info.HasTokenizer, info.HasChatTemplate = tokens != nil, template.Err() == nil
	info.KVBlockSize, info.KVBlocks = p.blockSize, p.blocks
	for _, owner := range b.tracker.Snapshot().Owners {
		if owner.Owner == r.name {
			info.WeightBytes = owner.ByPurpose[memory.Weights].Current
			info.ActivationBytes = owner.ByPurpose[memory.Activations].Current + owner.ByPurpose[memory.Workspace].Current
			info.KVBytes = owner.ByPurpose[memory.KV].Current
		}
	}
}

func (r *replica) fail(err error) { r.enter(server.ModelFailed, err.Error()) }

// enter changes the state.
func (r *replica) enter(state server.ModelState, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.model.Info.State, r.model.Info.Reason, r.model.Info.Since = state, reason, time.Now()
}

func (r *replica) get() (*server.Model, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if state := r.model.Info.State; state != server.ModelReady {
		word := "loading"
		switch state {
		case server.ModelFailed:
			word = "out of order" // the reason may hold paths; operators find it in health and log
		case server.ModelDraining:
			word = "being unloaded"
		}
		return nil, fmt.Errorf("%w: %s is %s", server.ErrModelNotReady, r.name, word)
	}
	r.used.Store(time.Now().UnixNano())
	m := r.model
	return &m, nil
}

func (r *replica) info() server.ModelInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.model.Info
}

// runs says whether requests may be in its engine.
func (r *replica) runs() bool {
	state := r.info().State
	return state == server.ModelReady || state == server.ModelDraining
}

// stats is zero before the engine is there.
func (r *replica) stats() engine.Stats {
	if !r.runs() {
		return engine.Stats{}
	}
	return r.engine.Stats()
}

// Component names it as a health.Provider.
func (r *replica) Component() string { return "model/" + r.name }

// Health says Serving only while tokens can be made: the model is up, its loop is heard of, and the last probe gave a token.
func (r *replica) Health(context.Context) (health.State, string) {
	r.mu.Lock()
	state, reason, probe, probed := r.model.Info.State, r.model.Info.Reason, r.probe, r.probed
	r.mu.Unlock()
	switch state {
	case server.ModelLoading:
		return health.Starting, reason
	case server.ModelReady:
	case server.ModelDraining:
		return health.Draining, reason
	default:
		return health.NotServing, reason
	}
	if probe != nil {
		return health.NotServing, fmt.Sprintf("no probe token: %v", probe)
	}
	if doubt := r.watchdog.doubt(); doubt != "" {
		return health.NotServing, doubt
	}
	if old := time.Since(probed); old > probeOld {
		return health.NotServing, fmt.Sprintf("no probe for %v", old.Round(time.Second))
	}
	return health.Serving, ""
}

// close ends what start began. A device that does not answer any more is left behind, for the end of the process to free. After the end of
// its work it has so much time to give back what it holds.
func (r *replica) close(log *slog.Logger, timeout time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.release()
	}()
	select {
	case <-done:
		return
	case <-r.life.Done(): // lost, or all work has ended
	}
	select {
	case <-done:
	case <-time.After(timeout):
		log.Warn("the device does not answer and is left behind", "model", r.name)
	}
}

// release gives back what start took, in the opposite order.
func (r *replica) release() {
	if r.warm != nil {
		<-r.warm
	}
	if r.engine != nil {
		r.engine.Close()
	}
	if r.engineDone != nil {
		<-r.engineDone
	}
	r.end(nil) // only now: the watchdog sees the last step through
	r.watchers.Wait()
	if r.pool != nil {
		r.pool.Close()
	}
	if r.device != nil {
		_ = r.device.Close() // there is nobody left to tell
	}
	if r.untrack != nil {
		r.untrack()
	}
}

// openTokenizer returns nil where the model has none: it serves token ids only.
func openTokenizer(path string, c *model.Checkpoint) (*tokenizer.Tokenizer, error) {
	var t *tokenizer.Tokenizer
	var err error
	if c.GGUF() != nil {
		t, err = tokenizer.FromGGUF(c.GGUF().Metadata())
	} else {
		t, err = tokenizer.LoadDir(path)
	}
	if errors.Is(err, tokenizer.ErrNoTokenizer) {
		return nil, nil
	}
	if err == nil && t.NumTokens() > c.Config.Vocab {
		return nil, fmt.Errorf("tokenizer: %d tokens, want at most the %d of the model's vocabulary", t.NumTokens(), c.Config.Vocab)
	}
	return t, err
}

// openChat returns the checkpoint's chat template, nil where there can be none. One that cannot be used is no reason not to serve.
func (r *replica) openChat(b *backend, c *model.Checkpoint, t *tokenizer.Tokenizer) *chat.Template {
	if t == nil {
		return nil
	}
	var template *chat.Template
	if c.GGUF() != nil {
		template = chat.FromGGUF(c.GGUF().Metadata(), t)
	} else {
		template = chat.LoadDir(r.path, t)
	}
	if err := template.Err(); err != nil && !errors.Is(err, chat.ErrNoTemplate) {
		b.log.Warn("no chats", "model", r.name, "reason", err)
	}
	return template
}

// endTokens are those of the checkpoint's configuration and of its tokenizer.
func endTokens(c *model.Checkpoint, t *tokenizer.Tokenizer) []int32 {
	ids := slices.Clone(c.Config.EOS)
	if t != nil {
		ids = append(ids, t.EndTokens()...)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// generationDefaults are the checkpoint's; one that wants no sampling gets greedy decoding.
func generationDefaults(g model.GenerationDefaults) server.GenerationDefaults {
	d := server.GenerationDefaults{
		Temperature: toFloat32(g.Temperature), TopK: g.TopK, TopP: toFloat32(g.TopP), MinP: toFloat32(g.MinP), TypicalP: toFloat32(g.TypicalP),
		RepetitionPenalty: toFloat32(g.RepetitionPenalty), PenaltyWindow: g.PenaltyWindow,
	}
	if g.DoSample != nil && !*g.DoSample {
		d.Temperature = new(float32)
	}
	return d
}

func toFloat32(v *float64) *float32 {
	if v == nil {
		return nil
	}
	f := float32(*v)
	return &f
}

// weightTypes are the values of --dtype; auto keeps the checkpoint's.
var weightTypes = map[string]device.DType{"auto": 0, "f32": device.F32, "f16": device.F16, "bf16": device.BF16}

func deviceName(i device.Info) string {
	return fmt.Sprintf("%s: %s (%s)", i.Kind, i.Name, i.Features)
}

// track counts what the device took for itself; the count of all memory is made with the first device.
func (r *replica) track(b *backend) error {
	info := r.device.Info()
	if b.tracker == nil {
		b.tracker = memory.NewTracker(memory.TrackerOptions{Limit: info.TotalBytes, Bus: b.bus, AlertAt: 0.95})
		telemetry.NewMemory(b.metrics, b.tracker)
		if b.watchCard != nil {
			b.watchCard(info)
		}
	}
	if err := b.tracker.Reserve(r.name, memory.Workspace, info.OwnBytes); err != nil {
		return err
	}
	r.untrack = func() { b.tracker.Release(r.name, memory.Workspace, info.OwnBytes) }
	return nil
}

func (b *backend) newPool(owner string, d device.Device, bytes int64) (*memory.Pool, error) {
	return memory.NewPool(memory.PoolOptions{Source: d, Tracker: b.tracker, Owner: owner, Limit: bytes})
}
