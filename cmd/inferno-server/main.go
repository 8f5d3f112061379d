// Command inferno-server serves Llama-family models over gRPC: flags → config → backend.Run. Here, and nowhere else, concrete devices,
// architectures and registries meet.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/inferno-serve/inferno/internal/backend"
	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/model"
	"github.com/inferno-serve/inferno/internal/model/llama"
	"github.com/inferno-serve/inferno/internal/telemetry"
)

// version is stamped by the build.
var version = "dev"

// Exit codes beside 0. A crash (of C, or a panic that nobody caught) is none of them: it ends the process by SIGABRT, which shells show as 134.
const (
	exitFailed = 1 // something broke while serving, or requests were cut off by a second signal
	exitUsage  = 2 // configuration, device or model cannot be served: restarting will not help
	exitDevice = 3 // a device failed for good: restart the process
)

// lastPatience is how long a server has to end after a second signal.
const lastPatience = 5 * time.Second

// lastLines is how long the end waits for whoever reads the log.
const lastLines = time.Second

// architectures are the models that can be served.
var architectures = map[string]model.Builder{"llama": llama.New}

func main() { os.Exit(run(os.Args[1:])) }

// run is `inferno-server [serve] FLAGS` or one of the other commands.
func run(args []string) int {
	command := ""
	if len(args) > 0 {
		command = args[0]
	}
	switch command {
	case "bench":
		return bench(args[1:])
	case "doctor":
		return doctor(args[1:])
	case "token":
		return token(args[1:])
	case "serve":
		return serve(args[1:])
	}
	return serve(args)
}

func serve(args []string) int {
	c, err := config.Load(args, version, os.Stdout)
	if errors.Is(err, config.ErrExit) {
		return 0
	}
	if err != nil {
		return report(exitUsage, err)
	}
	sink := telemetry.NewSink(os.Stderr)
	defer sink.Close(lastLines)
	log, level, err := telemetry.NewLogger(sink, c.LogFormat, c.LogLevel)
	if err != nil {
		return reportTo(sink, exitUsage, err)
	}

	crashBySignal()
	supervise, err := superviseBySystemd(log)
	if err != nil {
		return reportTo(sink, exitUsage, err)
	}
	registry, closeRegistry, err := openRegistry(c, log)
	if err != nil {
		return reportTo(sink, exitUsage, err)
	}

	// The first signal drains, the second one cuts the drain short.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	stop, cancel := context.WithCancel(context.Background())
	defer cancel()
	cut := make(chan struct{})
	go func() {
		log.Info("stopping", "signal", <-signals)
		cancel()
		log.Warn("stopping at once", "signal", <-signals)
		close(cut)
		time.Sleep(lastPatience)
		log.Error("something does not end, a device that hangs as it starts perhaps: leaving it behind")
		sink.Close(lastLines)
		os.Exit(exitFailed)
	}()

	err = backend.Run(stop, backend.Options{
		Config:        c,
		Version:       version,
		Log:           log,
		LogLevel:      level,
		LogSink:       sink,
		OpenDevice:    func() (device.Device, error) { return openDevice(c, log) },
		Architectures: architectures,
		Registry:      registry,
		Cut:           cut,
		Terminal:      terminal(),
		OpenCard:      openCard(c),
		Supervise:     supervise,
	})
	if closing := closeRegistry(); closing != nil {
		log.Warn("registry not closed", "error", closing)
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, device.ErrLost): // while it started too: another start may go well
		return reportTo(sink, exitDevice, err)
	case errors.Is(err, backend.ErrStart):
		return reportTo(sink, exitUsage, err)
	}
	return reportTo(sink, exitFailed, err)
}

// terminal is stderr where a person watches it.
func terminal() io.Writer {
	if term.IsTerminal(int(os.Stderr.Fd())) {
		return os.Stderr
	}
	return nil
}

func report(code int, err error) int { return reportTo(os.Stderr, code, err) }

func reportTo(w io.Writer, code int, err error) int {
	fmt.Fprintln(w, "inferno-server:", err)
	return code
}
