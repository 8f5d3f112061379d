// Package backend is the only orchestrator: it opens devices, loads models, serves them, announces the instance and drains it. It owns
// every long-lived goroutine of a server; Run starts them and waits for all.
//
// Start: listen (NOT_SERVING) → open → load → warm up → probe token → SERVING → announce. A step that fails undoes the ones before it.
// Stop: withdraw → NOT_SERVING → delay → refuse new work → finish streams until the deadline → abort the rest → close.
package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"regexp"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/inferno-serve/inferno/internal/auth"
	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/discovery"
	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/event"
	"github.com/inferno-serve/inferno/internal/health"
	"github.com/inferno-serve/inferno/internal/memory"
	"github.com/inferno-serve/inferno/internal/model"
	"github.com/inferno-serve/inferno/internal/server"
	"github.com/inferno-serve/inferno/internal/telemetry"
)

// ErrStart means that the server never served: the configuration, a device or a model cannot be used as it is.
var ErrStart = errors.New("cannot start")

// ErrCut means that requests were cut off because a stop was cut short.
var ErrCut = errors.New("stopped before requests had ended")

// Options are the configuration and the concrete parts that a server is made of.
type Options struct {
	Config        *config.Config
	Version       string
	Log           *slog.Logger
	LogLevel      *slog.LevelVar                // of Log, for the admin listener to change; nil: it cannot
	LogSink       prometheus.Collector          // counts what of Log was lost; nil: nothing is
	OpenDevice    func() (device.Device, error) // called once a model: each engine drives a handle of its own
	Architectures map[string]model.Builder
	Registry      discovery.Provider
	Cut           <-chan struct{}             // closed to cut a drain short; nil: never
	Reload        time.Duration               // how often files of certificates and identities are looked at; 0: auth.DefaultPoll
	StuckStep     time.Duration               // a step that runs longer, and 20 times longer than nearly all others, never ends; 0: DefaultStuckStep
	Observer      engine.Observer             // hears of the steps of all models, as the metrics do; nil: nobody else
	Terminal      io.Writer                   // where a person watches a load; nil: nowhere
	OpenCard      func() (health.Card, error) // the card beside the device, as its driver sees it; nil: nobody watches one

	// Supervise tells whoever started the process how it is, until ctx ends; nil: nobody wants to know.
	Supervise func(ctx context.Context, h *health.Checker)
}

// maxAdminConnections is for a few scrapers and people.
const maxAdminConnections = 64

// backend is one running server.
type backend struct {
	o        Options
	security security
	log      *slog.Logger
	bus      *event.Bus
	checker  *health.Checker
	tracker  *memory.Tracker // of the memory that the devices draw from; made with the first of them
	metrics  *prometheus.Registry
	traces   *telemetry.Traces // nil: none
	engines  *telemetry.Engines
	requests *telemetry.Requests
	server   *server.Server
	replicas *replicas
	turn     chan struct{}      // holds a value while a model is brought up: each is planned for the memory that those before it left
	changes  sync.WaitGroup     // loads and unloadings under way
	instance discovery.Instance // what of it does not change
	broken   chan error         // why a replica, or the card, was lost; one slot, as the first ends the server

	watchCard func(on device.Info) // called with the first device, also one of a later load; nil: there is nobody to tell
}

// Run serves until ctx ends and the drain after it is over, or until something breaks. The error wraps ErrStart, ErrCut, or
// device.ErrLost.
func Run(ctx context.Context, o Options) error {
	for _, root := range o.Config.ModelRoots {
		if info, err := os.Stat(root); err != nil || !info.IsDir() {
			return fmt.Errorf("%w: model-root: %q is no folder that can be read", ErrStart, root)
		}
	}
	security, err := openSecurity(o)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrStart, err)
	}
	listener, admin, err := listen(o.Config)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrStart, err)
	}
	b, err := newBackend(o, security, addressOf(listener))
	if err != nil {
		return err
	}
	warnOpen(o.Config, b.log)
	b.log.Info("listening", "grpc", addressOf(listener), "admin", addressOf(admin), "version", o.Version, "security", security.describe())
	return b.run(ctx, listener, admin)
}

// runtimeWaits are the runtime's own figures of what may hold a token up: goroutines that wait for a thread, pauses of the collector, mutexes.
var runtimeWaits = collectors.GoRuntimeMetricsRule{
	Matcher: regexp.MustCompile(`^/(sched/latencies|sched/pauses/total/gc|sync/mutex/wait/total):seconds$`),
}

func newBackend(o Options, security security, address string) (*backend, error) {
	b := &backend{
		o: o, security: security, log: o.Log, bus: event.New(), metrics: prometheus.NewRegistry(), broken: make(chan error, 1),
		replicas: newReplicas(), turn: make(chan struct{}, 1),
	}
	if len(o.Config.EtcdEndpoints) > 0 {
		b.replicas.lingers = heardWithin
	}
	b.metrics.MustRegister(
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(runtimeWaits)),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	b.metrics.MustRegister(auth.Metrics{TLS: security.tls, Access: security.access})
	b.checker = health.NewChecker(health.Options{Bus: b.bus, Log: o.Log})
	b.instance = discovery.Instance{
		ID: o.Config.InstanceID, Address: o.Config.Advertise, Version: o.Version, StartTime: time.Now(),
	}
	if b.instance.ID == "" {
		b.instance.ID = uuid.NewString()
	}
	if b.instance.Address == "" {
		b.instance.Address = discovery.Reachable(address, o.Config.EtcdEndpoints)
	}
	if discovery.OnlyHere(b.instance.Address, o.Config.EtcdEndpoints) {
		b.log.Warn("other hosts cannot reach the advertised address: set listen, or advertise", "address", b.instance.Address)
	}
	if metrics, ok := o.Registry.(prometheus.Collector); ok {
		b.metrics.MustRegister(metrics)
	}
	for _, m := range o.Config.Models {
		r := newReplica(m.Name, m.Path)
		r.model.Info.Pinned = true // who names a model at the start wants it there
		b.replicas.byName[m.Name] = r
	}
	if len(o.Config.Models) == 0 {
		b.replicas.begin() // nothing is waited for, and none is refused once health says SERVING
	}
	b.engines = telemetry.NewEngines(b.metrics, b.replicas.stats)
	b.requests = telemetry.NewRequests(b.metrics, b.replicas.stats)
	telemetry.NewBuild(b.metrics, o.Version)
	if o.LogSink != nil {
		b.metrics.MustRegister(o.LogSink)
	}
	telemetry.NewHealth(b.metrics, b.serving)
	tracer, err := b.openTraces(address)
	if err != nil {
		return nil, err
	}
	b.server, err = server.New(server.Options{
		Models: b.replicas, Health: b.checker, Instances: o.Registry, Registerer: b.metrics, Log: o.Log, Reflection: o.Config.Reflection,
		Loader: loader{b}, LocalOnly: isLocal(address), Access: security.access, TLS: security.tls, Tracer: tracer,
		SendTimeout: o.Config.SendTimeout, Load: func() discovery.Load { return b.describe().Load },
	})
	return b, err
}

// openTraces returns nil where nobody wants traces, or nothing is served.
func (b *backend) openTraces(address string) (trace.Tracer, error) {
	c := b.o.Config
	if c.OTLPEndpoint == "" || address == "" {
		return nil, nil
	}
	var err error
	b.traces, err = telemetry.NewTraces(context.Background(), telemetry.TraceOptions{
		Endpoint: c.OTLPEndpoint, Ratio: c.TraceRatio, Version: b.o.Version, Instance: b.instance.ID, Log: b.log,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStart, err)
	}
	return b.traces.Tracer(), nil
}

// run owns all goroutines. The background ones live until everything else has ended.
func (b *backend) run(ctx context.Context, listener, admin net.Listener) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	background, life := errgroup.WithContext(life)

	pool := health.NewMemory(b.bus, b.checker.Refresh)
	b.checker.Add(pool, false)
	for _, r := range b.replicas.all() {
		b.checker.Add(r, true)
	}
	b.watchCard = func(on device.Info) {
		if gpu := b.openCard(on); gpu != nil {
			background.Go(func() error { return gpu.Run(life) })
		}
	}
	background.Go(func() error { return pool.Run(life) })
	background.Go(func() error { return b.checker.Run(life) })
	if b.o.Supervise != nil {
		background.Go(func() error { b.o.Supervise(life, b.checker); return nil })
	}
	b.security.run(life, background)
	refused := newRefusedConnections(b.metrics)
	background.Go(func() error {
		return b.server.Serve(limitConnections(listener, b.o.Config.MaxConnections, b.o.Config.MaxAddressConnections, refused))
	})
	if admin != nil {
		admin = b.security.admin(limitConnections(admin, maxAdminConnections, 0, refused))
		pages := telemetry.Admin{
			Metrics: b.gatherer(), Level: b.o.LogLevel, Log: b.log, Guard: b.security.guard,
			Ready: func() bool { return b.server.Health().State.Serves() },
			Alive: func() bool { return b.server.Health().Alive(time.Now()) },
		}
		background.Go(func() error { return pages.Serve(life, admin) })
	}

	err := b.serve(ctx, life)
	b.stopChanges()
	b.server.Stop(ended())
	b.changes.Wait()
	for _, r := range b.replicas.all() {
		r.close(b.log, closeTimeout)
	}
	end()
	if b.traces != nil {
		b.traces.Close()
	}
	if !errors.Is(err, device.ErrLost) {
		err = errors.Join(err, b.lost())
	}
	return errors.Join(err, background.Wait())
}

// gatherer is what /metrics shows.
func (b *backend) gatherer() prometheus.Gatherer {
	if b.o.Config.MetricNames == "vllm" {
		return telemetry.VLLM(b.metrics)
	}
	return b.metrics
}

// serving is what the checker last found, for the metrics.
func (b *backend) serving() (all bool, components map[string]bool) {
	report := b.checker.Report()
	components = map[string]bool{}
	for _, c := range report.Components {
		components[c.Component] = c.State.Serves()
	}
	return report.State.Serves(), components
}

// breaks ends the server with the reason, unless it ends already with another.
func (b *backend) breaks(err error) {
	select {
	case b.broken <- err:
	default:
	}
}

// lost is why a replica was lost, where serve has not heard of it: while the server stopped, or came up.
func (b *backend) lost() error {
	select {
	case err := <-b.broken:
		return err
	default:
		return nil
	}
}

// ended is a context that leaves no time.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// serve loads, announces, and returns when the server has drained or something broke. life ends when a background goroutine failed.
func (b *backend) serve(ctx, life context.Context) error {
	err := b.vacant(ctx)
	if err == nil {
		err = b.load(ctx, life)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil // told to stop before it was up
		}
		return fmt.Errorf("%w: %w", ErrStart, err)
	}
	b.replicas.begin()

	announcing, withdraw := context.WithCancel(life)
	defer withdraw()
	announcer := discovery.NewAnnouncer(discovery.AnnouncerOptions{
		Provider: b.o.Registry, Bus: b.bus, Log: b.log, Describe: b.describe, Health: b.checker.Report, Changed: b.checker.Refresh,
	})
	b.checker.Add(announcer, false)
	withdrawn := make(chan error, 1)
	go func() { withdrawn <- announcer.Run(announcing) }()

	select {
	case <-ctx.Done():
	case <-life.Done():
	case err = <-b.broken:
		b.checker.Ask(life) // so that the last that any watch hears has the reason
		b.log.Error("serving ends", "error", err)
	}
	b.stopChanges()
	withdraw()
	if err == nil && life.Err() == nil {
		b.checker.Drain("the server is stopping") // beside the withdrawal: a registry that is away may hold that up for seconds
	}
	if failed := <-withdrawn; failed != nil {
		b.log.Warn("not withdrawn from the registry", "error", failed)
	}
	if err != nil || life.Err() != nil {
		return err // streams have ended with the engine; there is nothing to wait for
	}
	return b.drain()
}

// A registry that comes up beside this server, or chooses a leader, has this long to answer at the start.
const (
	registryPatience = 5 * time.Second
	registryPause    = 200 * time.Millisecond
)

// vacant asks the registry, before a weight is read, whether it is there and the configured id is free, as far as the start depends on that.
func (b *backend) vacant(ctx context.Context) error {
	c := b.o.Config
	if c.InstanceID == "" && !c.RequireEtcd {
		return nil // an id of this start's own is taken by nobody
	}
	began := time.Now()
	err := b.o.Registry.Vacant(ctx, b.instance)
	for err != nil && !errors.Is(err, discovery.ErrDuplicate) && ctx.Err() == nil && time.Since(began) < registryPatience {
		time.Sleep(registryPause)
		err = b.o.Registry.Vacant(ctx, b.instance)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, discovery.ErrDuplicate), ctx.Err() != nil:
		return err
	case c.RequireEtcd:
		return fmt.Errorf("require-etcd: %w", err)
	}
	b.log.Warn("the registry does not answer, starting without it", "error", err)
	return nil
}

// load brings every replica up, one after the other, and ends with the first that fails.
func (b *backend) load(ctx, life context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(life, func() { cancel(context.Cause(life)) })()
	for i, m := range b.o.Config.Models {
		r := b.replicas.find(m.Name)
		r.stampNow()
		context.AfterFunc(r.life, func() {
			if why := context.Cause(r.life); !errors.Is(why, context.Canceled) { // lost, not unloaded: the models after it need not come up then
				cancel(why)
			}
		})
		if err := b.startInTurn(ctx, r, max(len(b.o.Config.Models), b.o.Config.MaxModels)-1-i); err != nil {
			if errors.Is(err, context.Canceled) {
				err = context.Cause(ctx)
			}
			r.fail(err)
			b.checker.Refresh()
			return fmt.Errorf("model %s: %w", r.name, err)
		}
		close(r.settled)
		b.checker.Ask(ctx)
	}
	return nil
}

// drain refuses new work and waits for the requests at hand, up to the deadline.
func (b *backend) drain() error {
	c := b.o.Config
	b.log.Info("draining", "delay", c.DrainDelay, "timeout", c.DrainTimeout)
	patience, give := context.WithCancelCause(context.Background())
	defer give(nil)
	drained := make(chan struct{})
	defer close(drained)
	go func() {
		select {
		case <-b.o.Cut:
			give(ErrCut)
		case <-drained:
		}
	}()

	delay := time.NewTimer(c.DrainDelay)
	defer delay.Stop()
	select {
	case <-delay.C:
	case <-patience.Done():
	}
	limited, cancel := context.WithTimeout(patience, c.DrainTimeout)
	defer cancel()
	cut := b.server.Stop(limited) // at the deadline its calls end with UNAVAILABLE, and with them their requests
	if cut > 0 && errors.Is(context.Cause(patience), ErrCut) {
		return ErrCut
	}
	return nil
}

// describe is this instance now, for the registry.
func (b *backend) describe() discovery.Instance {
	i := b.instance
	for _, r := range b.replicas.all() {
		info, stats := r.info(), r.stats()
		i.Models = append(i.Models, discovery.Model{
			Name: info.Name, Revision: info.Revision, Ready: info.State == server.ModelReady, Leaving: info.State == server.ModelDraining,
			MaxContext: info.MaxContext, MaxBatch: info.MaxBatch, MaxQueue: info.MaxQueue,
		})
		i.Load.Running += stats.Running
		i.Load.Queued += stats.Queued + stats.Suspended
		i.Load.TokensPerSecond += stats.TokensPerSecond
		if stats.BlocksTotal > 0 {
			i.Load.KVUse = max(i.Load.KVUse, float64(stats.BlocksUsed)/float64(stats.BlocksTotal))
		}
	}
	return i
}
