package jinja

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is the time at which testdata/make_cases.py lets templates run.
func clock() time.Time { return time.Date(2026, 3, 7, 15, 4, 5, 0, time.UTC) }

// variablesOf reads the members of a JSON object.
func variablesOf(tb testing.TB, data []byte, content bool) map[string]Value {
	tb.Helper()
	parsed, err := strictjson.Parse(data)
	if err != nil {
		tb.Fatal(err)
	}
	out := map[string]Value{}
	for _, m := range parsed.Members {
		if out[m.Key], err = FromJSON(m.Value, content); err != nil {
			tb.Fatal(err)
		}
	}
	return out
}

// TestCasesRenderAsJinjaDoes compares with Jinja's own implementation: testdata/make_cases.py asked it.
func TestCasesRenderAsJinjaDoes(t *testing.T) {
	file, err := os.Open(filepath.Join("testdata", "cases.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	sets := map[string]map[string]Value{}
	n := 0
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c struct {
			Name                        string
			Values                      json.RawMessage
			Template, Variables, Output string
			Error                       bool
		}
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		if c.Name != "" {
			sets[c.Name] = variablesOf(t, c.Values, true)
			continue
		}
		n++
		got, err := render(c.Template, sets[c.Variables])
		switch {
		case c.Error && err == nil:
			t.Errorf("%q: %q, want an error", c.Template, got.S)
		case !c.Error && err != nil:
			t.Errorf("%q: %v, want %q", c.Template, err, c.Output)
		case !c.Error && got.S != c.Output:
			t.Errorf("%q:\n got %q\nwant %q", c.Template, got.S, c.Output)
		}
	}
	if err := lines.Err(); err != nil || n < 400 {
		t.Errorf("%d cases, %v", n, err)
	}
}

func render(source string, variables map[string]Value) (Text, error) {
	parsed, err := Parse(source)
	if err != nil {
		return Text{}, err
	}
	return parsed.Render(context.Background(), variables, Options{Now: clock, Limits: Limits{Time: time.Hour}})
}
