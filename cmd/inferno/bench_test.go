package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/inferno-serve/inferno/internal/load"
)

func TestBenchCountsEveryToken(t *testing.T) {
	f := startFake(t, true)
	code, stdout, stderr := tool(t.Context(), "", "bench", "--addr="+f.addr, "--json", "--concurrency=1,3", "--requests=5",
		"--prompt-tokens=4", "--max-tokens=6")
	if code != 0 {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines, want one for each concurrency: %s", len(lines), stdout)
	}
	for i, concurrency := range []int{1, 3} {
		var r load.Result
		if err := json.Unmarshal([]byte(lines[i]), &r); err != nil {
			t.Fatal(err)
		}
		prompt := r.PromptPerSecond * r.Seconds
		if r.Schema != load.Schema || r.Concurrency != concurrency || r.Requests != 5 || r.Succeeded != 5 || r.Good != 5 || r.Failed != 0 ||
			r.OutputTokens != 30 || prompt < 19.9 || prompt > 20.1 {
			t.Errorf("result %+v, want 5 requests of 4 + 6 tokens", r)
		}
		if p := r.FirstToken; !(p.P50 > 0 && p.P50 <= p.P90 && p.P90 <= p.P99) {
			t.Errorf("times to first token %+v", p)
		}
	}
}

func TestBenchOfARatePrintsAndDraws(t *testing.T) {
	f := startFake(t, true)
	dir := t.TempDir()
	plot, workload := filepath.Join(dir, "load.svg"), filepath.Join(dir, "sizes.json")
	if err := os.WriteFile(workload, []byte(`{"requests": [[3, 2], [5, 4], [7, 6]]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := tool(t.Context(), "", "bench", "--addr="+f.addr, "--rate=200,400", "--workload="+workload, "--plot="+plot,
		"--target-ttft=1m", "--prefix-tokens=2", "--prefixes=2")
	if code != 0 {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	rows := regexp.MustCompile(`(?m)^ *(200|400) +3 +0 +0 `).FindAllString(stdout, -1)
	if len(rows) != 2 || !strings.Contains(stdout, "rate/s") || !strings.Contains(stderr, "rate 400: 3 of 3 done in") {
		t.Errorf("printed %s and %s, want two rows of 3 requests", stdout, stderr)
	}
	text, err := os.ReadFile(plot)
	if err != nil {
		t.Fatal(err)
	}
	if err := xml.Unmarshal(text, new(struct{})); err != nil || !strings.Contains(string(text), "echo at "+f.addr) {
		t.Errorf("%v in %s", err, text)
	}
}

func TestBenchFailsWithItsRequests(t *testing.T) {
	f := startFake(t, false)
	code, _, stderr := tool(t.Context(), "", "bench", "--addr="+f.addr, "--model=lost", "--prompt-tokens=4", "--max-tokens=5")
	if code != exitFailed || !strings.Contains(stderr, "DATA_LOSS") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	bad := &load.Result{Concurrency: 2, Requests: 3, Failed: 2, Errors: map[string]int{"UNKNOWN": 1, "INTERNAL": 1}, Error: "one"}
	err := failures([]*load.Result{{Requests: 1}, bad}, &load.Workload{})
	if err == nil || err.Error() != "concurrency 2: 2 of 3 requests failed (INTERNAL 1, UNKNOWN 1), the first with: one" {
		t.Errorf("got %v", err)
	}
}

// TestEveryMemberOfAResultIsDocumented holds docs/load.md to the JSON that bench prints, both ways.
func TestEveryMemberOfAResultIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/load.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|").FindAllStringSubmatch(string(text), -1) {
		for _, name := range regexp.MustCompile("`([a-z0-9_.]+)`").FindAllStringSubmatch(row[1], -1) {
			documented = append(documented, name[1])
		}
	}
	members := slices.Concat(
		membersOf(reflect.TypeFor[load.Result](), ""), membersOf(reflect.TypeFor[load.Server](), "server."),
		membersOf(reflect.TypeFor[load.Distribution](), ""), membersOf(reflect.TypeFor[load.Level](), "server."),
	)
	for _, m := range members {
		if m != "server" && !slices.Contains(documented, m) && !slices.Contains(documented, strings.TrimPrefix(m, "server.")) {
			t.Errorf("docs/load.md has no row for %s", m)
		}
	}
	for _, d := range documented {
		if !slices.Contains(members, d) && !slices.Contains(members, "server."+d) {
			t.Errorf("docs/load.md has a row for %s, which no result has", d)
		}
	}
}

func membersOf(structure reflect.Type, prefix string) (names []string) {
	for i := range structure.NumField() {
		name, _, _ := strings.Cut(structure.Field(i).Tag.Get("json"), ",")
		names = append(names, prefix+name)
	}
	return names
}

// TestInterruptedBenchTellsWhatItHas: an hour of points is not lost with the one that was cut off.
func TestInterruptedBenchTellsWhatItHas(t *testing.T) {
	f := startFake(t, true)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, said bytes.Buffer
	watched := writerFunc(func(text []byte) (int, error) {
		if strings.HasPrefix(string(text), "concurrency 3") {
			cancel()
		}
		return said.Write(text)
	})
	args := []string{"bench", "--addr=" + f.addr, "--concurrency=2,3", "--requests=5", "--prompt-tokens=4", "--max-tokens=6"}
	code := run(ctx, args, &console{in: strings.NewReader(""), out: &out, err: watched})
	if code != exitFailed || !strings.Contains(said.String(), "interrupted at concurrency 3") || !regexp.MustCompile(`(?m)^ +2 +5 +0 `).MatchString(out.String()) {
		t.Errorf("exit code %d, printed %s and %s", code, out.String(), said.String())
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(text []byte) (int, error) { return f(text) }
