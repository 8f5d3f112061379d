package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/inferno-serve/inferno/internal/backend"
	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/discovery/static"
	"github.com/inferno-serve/inferno/internal/telemetry"
)

// benchFlags stand beside those of serving. Prompts are random, greedy, and nothing but their length ends an output.
type benchFlags struct {
	Run           []string `env:"-" default:"decode,prefill" placeholder:"WHAT" help:"What is measured: decode, prefill, mixed."`
	Batch         []int    `env:"-" default:"1" placeholder:"N" help:"Numbers of requests that decode together."`
	ContextTokens int      `env:"-" default:"1024" help:"Prompt of each of them: tokens in its context before the first decode step."`
	MaxTokens     int      `env:"-" default:"128" help:"New tokens of each of them."`
	PromptTokens  []int    `env:"-" default:"1024" placeholder:"N" help:"Lengths of the prompts whose time to first token is taken while nothing else runs."`
	Repeat        int      `env:"-" default:"5" help:"Prompts of each length."`
	Workload      string   `env:"-" placeholder:"FILE" help:"Requests of the mixed load, all submitted at once: JSON, {\"requests\": [[prompt, output], ...]} in tokens."`
	Seed          uint64   `env:"-" default:"1" help:"Fixes the prompts."`
	Profile       bool     `env:"-" help:"Time each op of the decode steps by itself instead, on a CUDA card."`
	JSON          bool     `env:"-" name:"json" help:"Print one JSON object."`
}

func (f *benchFlags) validate(c *config.Config) error {
	var faults []error
	if len(c.Models) != 1 {
		faults = append(faults, fmt.Errorf("model: %d are given, want one", len(c.Models)))
	}
	if f.Profile && c.Device == "cpu" {
		faults = append(faults, errors.New("profile: not available on the CPU, want device cuda or auto"))
	}
	positive := func(flag string, values ...int) {
		for _, v := range values {
			if v < 1 {
				faults = append(faults, fmt.Errorf("%s: %d, want at least 1", flag, v))
			}
		}
	}
	for _, what := range f.Run {
		if !slices.Contains([]string{"decode", "prefill", "mixed"}, what) {
			faults = append(faults, fmt.Errorf("run: %q, want decode, prefill or mixed", what))
		}
	}
	positive("batch", f.Batch...)
	positive("context-tokens", f.ContextTokens)
	positive("prompt-tokens", f.PromptTokens...)
	positive("repeat", f.Repeat)
	if f.MaxTokens < minDecodeTokens {
		faults = append(faults, fmt.Errorf("max-tokens: %d, want at least %d", f.MaxTokens, minDecodeTokens))
	}
	if slices.Contains(f.Run, "mixed") != (f.Workload != "") {
		faults = append(faults, errors.New("workload: it and --run mixed go together"))
	}
	return errors.Join(faults...)
}

// bench is `inferno-server bench`.
func bench(args []string) int {
	var f benchFlags
	c, err := config.LoadBench(&f, args, version, os.Stdout)
	if errors.Is(err, config.ErrExit) {
		return 0
	}
	if err == nil {
		err = f.validate(c)
	}
	if err != nil {
		return report(exitUsage, err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	switch err := runBench(ctx, c, &f, os.Stdout); {
	case err == nil:
		return 0
	case errors.Is(err, device.ErrLost):
		return report(exitDevice, err)
	case errors.Is(err, errUnmeasurable):
		return report(exitUsage, err)
	default:
		return report(exitFailed, err)
	}
}

// errUnmeasurable means that the device or the model cannot be measured as it was asked for.
var errUnmeasurable = errors.New("cannot measure")

func runBench(ctx context.Context, c *config.Config, f *benchFlags, out io.Writer) error {
	log, _, err := telemetry.NewLogger(os.Stderr, c.LogFormat, c.LogLevel)
	if err != nil {
		return err
	}
	var workload []size
	if f.Workload != "" {
		if workload, err = readWorkload(f.Workload); err != nil {
			return fmt.Errorf("%w: %w", errUnmeasurable, err)
		}
	}
	if most := slices.Max(f.Batch); c.MaxBatch > 0 || most > backend.DefaultBatch {
		c.MaxBatch = max(c.MaxBatch, most)
	}
	c.MaxQueue = max(c.MaxQueue, len(workload), c.MaxBatch)
	c.MaxQueueTokens, c.MaxQueueWait = config.MaxQueueTokens, 24*time.Hour
	c.TargetITL = 0 // so that many prompts are through before the first of them has all its tokens
	if err := c.Validate(); err != nil {
		return fmt.Errorf("%w: %w", errUnmeasurable, err)
	}
	open := func() (device.Device, error) { return openDevice(c, log) }
	if f.Profile {
		o := cudaOptions(c)
		o.Profile = true
		open = func() (device.Device, error) { return native.OpenCUDA(o) }
	}
	r := benchReport{Version: version}
	if r.Bandwidth, err = bandwidthOf(open); err != nil {
		return fmt.Errorf("%w: %w", errUnmeasurable, err)
	}
	steps := &stepLog{}
	loaded, err := backend.Load(ctx, backend.Options{
		Config: c, Version: version, Log: log, OpenDevice: open, Architectures: architectures, Registry: static.New(), Observer: steps,
		Terminal: terminal(),
	})
	if err != nil {
		return fmt.Errorf("%w: %w", errUnmeasurable, err)
	}
	defer loaded.Close()
	r.describe(loaded)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(loaded.Life, func() { cancel(context.Cause(loaded.Life)) })()
	m := newMeasurement(loaded, steps, f)
	if f.Profile {
		err = r.profile(ctx, m, f)
	} else {
		err = r.measure(ctx, m, f, workload)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return err
	}
	return r.print(out, f.JSON)
}

// bandwidthOf opens the device for itself: the engine's belongs to its loop.
func bandwidthOf(open func() (device.Device, error)) (gigabytesPerSecond float64, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	d, err := open()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return measureMemory(d)
}

func readWorkload(path string) ([]size, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var file struct {
		Requests [][2]int `json:"requests"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(file.Requests) == 0 {
		return nil, fmt.Errorf("%s: no requests", path)
	}
	sizes := make([]size, len(file.Requests))
	for i, r := range file.Requests {
		if r[0] < 1 || r[1] < 1 {
			return nil, fmt.Errorf("%s: request %d is %v, want at least 1 token each", path, i, r)
		}
		sizes[i] = size{r[0], r[1]}
	}
	return sizes, nil
}
