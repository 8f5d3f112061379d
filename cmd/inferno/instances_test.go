package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/inferno-serve/inferno/internal/discovery"
)

// fields are the words of each line of a table.
func fields(table string) (lines [][]string) {
	for line := range strings.Lines(table) {
		lines = append(lines, strings.Fields(line))
	}
	return lines
}

func TestInstancesShowsTheFleet(t *testing.T) {
	f := startFake(t, true)
	for _, i := range []discovery.Instance{
		{
			ID: "b", Address: "10.0.0.2:50051", State: discovery.Draining, Version: "v\x1b[31m1",
			Models: []discovery.Model{{Name: "tiny"}},
		},
		{
			ID: "a", Address: "10.0.0.1:50051", State: discovery.Serving, Version: "v1",
			Load:   discovery.Load{Running: 3, Queued: 1, KVUse: 0.25, TokensPerSecond: 70.4},
			Models: []discovery.Model{{Name: "echo", Ready: true}, {Name: "tiny", Ready: true}},
		},
	} {
		if _, err := f.fleet.Register(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	code, out, errors := tool(t.Context(), "", "instances", "--addr", f.addr)
	want := [][]string{
		{"INSTANCE", "ADDRESS", "MODEL", "STATE", "RUNNING", "QUEUED", "KV", "TOKENS/S", "LEASE", "VERSION"},
		{"a", "10.0.0.1:50051", "echo,tiny", "SERVING", "3", "1", "25%", "70", "9s", "v1"},
		{"b", "10.0.0.2:50051", "tiny", "(loading)", "DRAINING", "0", "0", "0%", "0", "-", "v?[31m1"},
	}
	got := fields(out)
	if code != 0 || len(got) != len(want) {
		t.Fatalf("exit code %d, %s%s", code, errors, out)
	}
	for i := range want {
		if strings.Join(got[i], " ") != strings.Join(want[i], " ") {
			t.Errorf("line %d is %q, want %q", i, got[i], want[i])
		}
	}
	if _, out, _ := tool(t.Context(), "", "instances", "--addr", f.addr, "--model", "echo", "--json"); strings.Count(out, "\n") != 1 ||
		!strings.Contains(out, `"id":"a"`) {
		t.Errorf("of model echo as JSON: %s", out)
	}
}

func TestWatchedInstancesComeAndGo(t *testing.T) {
	f := startFake(t, true)
	next, end := watchInstances(t, f, false)
	next("INSTANCE")
	g, err := f.fleet.Register(t.Context(), discovery.Instance{ID: "new", Address: "10.0.0.1:50051", State: discovery.Serving})
	if err != nil {
		t.Fatal(err)
	}
	next("")
	next("INSTANCE")
	next("new ")
	if err := g.Withdraw(t.Context()); err != nil {
		t.Fatal(err)
	}
	next("")
	next("INSTANCE")
	end()
}

// On a terminal leases get shorter without a change of the fleet.
func TestWatchedLeasesGetShorter(t *testing.T) {
	f := startFake(t, true)
	if _, err := f.fleet.Register(t.Context(), discovery.Instance{ID: "a", Address: "10.0.0.1:50051", State: discovery.Serving}); err != nil {
		t.Fatal(err)
	}
	next, end := watchInstances(t, f, true)
	for _, left := range []string{" 9s ", " 8s ", " 7s "} {
		next("\x1b[H\x1b[2JINSTANCE")
		if row := next("a "); !strings.Contains(row, left) {
			t.Errorf("%q, want%sleft", row, left)
		}
	}
	end()
}

// watchInstances runs the command until end. next is its next line, which has to begin so.
func watchInstances(t *testing.T, f *fake, terminal bool) (next func(prefix string) string, end func()) {
	t.Helper()
	ctx, interrupt := context.WithCancel(t.Context())
	out, shown, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close(); shown.Close() })
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"instances", "--watch", "--addr", f.addr}, &console{out: shown, err: io.Discard, outTerm: terminal})
	}()
	lines := bufio.NewScanner(out)
	next = func(prefix string) string {
		t.Helper()
		if !lines.Scan() || !strings.HasPrefix(lines.Text(), prefix) {
			t.Fatalf("%q, want a line that begins with %q", lines.Text(), prefix)
		}
		return lines.Text()
	}
	return next, func() {
		t.Helper()
		interrupt()
		if code := <-ended; code != 0 {
			t.Errorf("interrupted: exit code %d, want 0", code)
		}
	}
}
