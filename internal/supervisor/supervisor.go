// Package supervisor tells systemd how the process is, by its protocol of datagrams: Type=notify, and WatchdogSec where that is set. It has
// one goroutine, Notifier.Run, which hears of health as any other watch does.
package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/inferno-serve/inferno/internal/health"
)

const (
	// extendEvery is how often systemd is told that starting, or stopping, goes on. A large model loads for minutes, and a stop ends by its
	// own deadline.
	extendEvery = 10 * time.Second
	extendBy    = 30 * time.Second

	// sendTimeout is how long systemd may take to take a datagram; a full socket is no reason to hang.
	sendTimeout = time.Second

	// maxStatus bounds what `systemctl status` shows, in bytes.
	maxStatus = 512
)

// Health is what the notifier hears of.
type Health interface {
	Watch(ctx context.Context) <-chan health.Report // closed when ctx has ended
	Report() health.Report
}

// Notifier is a connection to systemd.
type Notifier struct {
	conn     *net.UnixConn
	watchdog time.Duration // systemd kills the process when it hears nothing for so long; 0: it does not
	log      *slog.Logger
	status   string // the last one told
	ready    bool
	stopping bool
}

// Open connects to the socket that systemd names in NOTIFY_SOCKET; one that begins with @ is abstract.
func Open(socket string, watchdog time.Duration, log *slog.Logger) (*Notifier, error) {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("notify systemd at %s: %w", socket, err)
	}
	return &Notifier{conn: conn, watchdog: watchdog, log: log}, nil
}

// Run tells of health until ctx ends: READY once the server serves, STOPPING when it drains, and for the watchdog, that it is alive. It
// closes the connection.
func (n *Notifier) Run(ctx context.Context, h Health) {
	defer n.conn.Close()
	reports := h.Watch(ctx)
	extend := time.NewTicker(extendEvery)
	defer extend.Stop()
	var alive <-chan time.Time
	if n.watchdog > 0 {
		tick := time.NewTicker(n.watchdog / 3)
		defer tick.Stop()
		alive = tick.C
	}
	for {
		select {
		case r, open := <-reports:
			if !open {
				return
			}
			n.tell(r)
		case now := <-alive:
			if h.Report().Alive(now) { // else systemd ends a process that does not end itself
				n.send("WATCHDOG=1")
			}
		case <-extend.C:
			if !n.ready || n.stopping {
				n.send(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", extendBy.Microseconds()))
			}
		}
	}
}

func (n *Notifier) tell(r health.Report) {
	var lines []string
	if r.State.Serves() && !n.ready {
		n.ready = true
		lines = append(lines, "READY=1")
	}
	if r.State == health.Draining && !n.stopping {
		n.stopping = true
		lines = append(lines, "STOPPING=1")
	}
	if status := statusOf(r); status != n.status {
		n.status = status
		lines = append(lines, "STATUS="+status)
	}
	if len(lines) > 0 {
		n.send(strings.Join(lines, "\n"))
	}
}

// statusOf is one line for a person: the verdict, and the reasons of what is not well.
func statusOf(r health.Report) string {
	status := r.State.String()
	for _, c := range r.Components {
		if c.State != health.Serving && c.Reason != "" {
			status += "; " + c.Component + ": " + c.Reason
		}
	}
	status = strings.NewReplacer("\n", " ", "\r", " ").Replace(status)
	if len(status) > maxStatus {
		status = strings.ToValidUTF8(status[:maxStatus], "") + "…"
	}
	return status
}

func (n *Notifier) send(text string) {
	_ = n.conn.SetWriteDeadline(time.Now().Add(sendTimeout)) // fails on a closed connection only, and then so does Write
	if _, err := n.conn.Write([]byte(text)); err != nil {
		n.log.Warn("systemd was not told", "text", text, "error", err)
	}
}
