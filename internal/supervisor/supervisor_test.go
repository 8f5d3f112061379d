package supervisor

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/inferno-serve/inferno/internal/health"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// systemd is the other end of the socket.
type systemd struct {
	t    *testing.T
	conn *net.UnixConn
}

func listen(t *testing.T) (*systemd, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &systemd{t, conn}, path
}

// next is the lines of the next datagram.
func (s *systemd) next() []string {
	s.t.Helper()
	if err := s.conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		s.t.Fatal(err)
	}
	buffer := make([]byte, 4096)
	n, err := s.conn.Read(buffer)
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Split(string(buffer[:n]), "\n")
}

func (s *systemd) want(lines ...string) {
	s.t.Helper()
	for {
		got := s.next()
		if slices.Equal(got, []string{"WATCHDOG=1"}) {
			continue
		}
		if !slices.Equal(got, lines) {
			s.t.Errorf("told %q, want %q", got, lines)
		}
		return
	}
}

// scripted is health as a test has it.
type scripted struct {
	reports chan health.Report
	asked   time.Time
}

func (s scripted) Watch(ctx context.Context) <-chan health.Report {
	context.AfterFunc(ctx, func() { close(s.reports) })
	return s.reports
}

func (s scripted) Report() health.Report { return health.Report{State: health.Serving, Asked: s.asked} }

func run(t *testing.T, watchdog time.Duration, h scripted) (*systemd, func()) {
	t.Helper()
	far, path := listen(t)
	n, err := Open(path, watchdog, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); n.Run(ctx, h) }()
	return far, func() { cancel(); <-done }
}

func TestSystemdHearsOfEachTurnOnce(t *testing.T) {
	h := scripted{make(chan health.Report), time.Now()}
	far, stop := run(t, 0, h)
	defer stop()
	loading := []health.Status{{Component: "model/m", State: health.Starting, Reason: "load\ning"}}
	h.reports <- health.Report{State: health.Starting, Components: loading}
	far.want("STATUS=STARTING; model/m: load ing")
	h.reports <- health.Report{State: health.Serving}
	far.want("READY=1", "STATUS=SERVING")
	h.reports <- health.Report{State: health.Serving}
	h.reports <- health.Report{State: health.NotServing, Components: []health.Status{{Component: "a", State: health.NotServing, Reason: strings.Repeat("ü", maxStatus)}}}
	if got := far.next(); len(got) != 1 || !strings.HasPrefix(got[0], "STATUS=NOT_SERVING; a: üü") || len(got[0]) > maxStatus+16 {
		t.Errorf("told %d bytes: %q", len(got[0]), got)
	}
	h.reports <- health.Report{State: health.Serving}
	far.want("STATUS=SERVING") // ready already
	h.reports <- health.Report{State: health.Draining}
	far.want("STOPPING=1", "STATUS=DRAINING")
}

func TestWatchdogHearsOnlyOfALiveProcess(t *testing.T) {
	far, stop := run(t, 3*time.Millisecond, scripted{make(chan health.Report), time.Now()})
	for range 3 {
		if got := far.next(); !slices.Equal(got, []string{"WATCHDOG=1"}) {
			t.Errorf("told %q", got)
		}
	}
	stop()

	h := scripted{make(chan health.Report), time.Now().Add(-time.Minute)} // nobody has checked for a minute
	far, stop = run(t, 3*time.Millisecond, h)
	h.reports <- health.Report{State: health.Starting}
	if got := far.next(); slices.Equal(got, []string{"WATCHDOG=1"}) {
		t.Error("a process whose checks have ceased was called alive")
	}
	stop()
	if err := far.conn.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if n, err := far.conn.Read(make([]byte, 64)); err == nil {
		t.Errorf("%d bytes more were told", n)
	}
}

func TestNoSocketIsAnError(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "none"), 0, nil); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("got %v, want an error that names the socket", err)
	}
}

func TestSystemdThatDoesNotReadHoldsNobodyUp(t *testing.T) {
	far, path := listen(t)
	n, err := Open(path, 0, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer n.conn.Close()
	if err := n.conn.SetWriteBuffer(1); err != nil { // the least that the system allows
		t.Fatal(err)
	}
	for range 64 { // until its queue of ten or so is full; each later one waits for its own time only
		if err := n.conn.SetWriteDeadline(time.Now().Add(time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := n.conn.Write(make([]byte, 256)); err != nil {
			n.send("READY=1") // returns
			_ = far.conn.Close()
			return
		}
	}
	t.Skip("this system takes every datagram")
}
