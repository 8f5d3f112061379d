package main_test

import (
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSystemdIsToldOfReadinessAndStop plays systemd: a socket of datagrams, and the two variables.
func TestSystemdIsToldOfReadinessAndStop(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p := startProcess(t, []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=300000"}, "--device=cpu", "--model=tiny="+tiny)
	await := func(line string) (before []string) {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 4096)
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				t.Fatalf("waiting for %q: %v; told so far: %q", line, err, before)
			}
			for _, said := range strings.Split(string(buffer[:n]), "\n") {
				if said == line {
					return before
				}
				before = append(before, said)
			}
		}
	}
	for _, said := range await("READY=1") {
		if strings.Contains(said, "SERVING") && !strings.Contains(said, "NOT_SERVING") {
			t.Errorf("told %q before it was ready", said)
		}
	}
	if code, text := p.probe(); code != 0 {
		t.Errorf("ready, and grpc-health-probe exits %d: %s", code, text)
	}
	await("WATCHDOG=1")
	await("WATCHDOG=1")
	p.signal(syscall.SIGTERM)
	await("STOPPING=1")
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestWrongSystemdVariablesEndTheStart(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
	if code, said := runServer(t, "--device=cpu", "--model=tiny="+tiny); code != 2 || !strings.Contains(said, "notify systemd") {
		t.Errorf("no socket there: exit %d, %s", code, said)
	}
	t.Setenv("WATCHDOG_USEC", "soon")
	if code, said := runServer(t, "--device=cpu", "--model=tiny="+tiny); code != 2 || !strings.Contains(said, `WATCHDOG_USEC: "soon"`) {
		t.Errorf("watchdog: exit %d, %s", code, said)
	}
}
