package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/inferno-serve/inferno/internal/health"
	"github.com/inferno-serve/inferno/internal/supervisor"
)

// superviseBySystemd is nil where systemd has not asked to be told (Type=notify). Its variables concern this process alone.
func superviseBySystemd(log *slog.Logger) (func(context.Context, *health.Checker), error) {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil, nil
	}
	watchdog, err := systemdWatchdog(os.Getenv("WATCHDOG_USEC"), os.Getenv("WATCHDOG_PID"), os.Getpid())
	if err != nil {
		return nil, err
	}
	n, err := supervisor.Open(socket, watchdog, log)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, h *health.Checker) { n.Run(ctx, h) }, nil
}

// systemdWatchdog is WatchdogSec, or 0 where there is none for this process.
func systemdWatchdog(microseconds, pid string, own int) (time.Duration, error) {
	if microseconds == "" || pid != "" && pid != strconv.Itoa(own) {
		return 0, nil
	}
	const least = 1000 // a thousand a second
	n, err := strconv.ParseInt(microseconds, 10, 64)
	if err != nil || n < least || n > int64(time.Hour*24*365/time.Microsecond) {
		return 0, fmt.Errorf("WATCHDOG_USEC: %q, want microseconds, at least %d", microseconds, least)
	}
	return time.Duration(n) * time.Microsecond, nil
}
