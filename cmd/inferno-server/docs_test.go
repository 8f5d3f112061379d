package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// apiDocs is the page whose examples are run, as they stand there, against the server that it speaks of.
const apiDocs = "../../docs/api.md"

// docsAddr is where the page's server listens.
const docsAddr = "127.0.0.1:50051"

// docsFile is the default model's file.
const docsFile = "SmolLM2-135M-Instruct.Q4_1.gguf"

// docsFraction is how far a number that is no integer may be from the one on the page: processors round differently.
const docsFraction = 0.05

// TestExamplesOfTheDocsAnswerWhatTheySay runs every sh block of the page that calls grpcurl. A json block right behind one holds members that
// the answer has; several values in it are messages of a stream, in order, others between. A text block holds lines of the output, in order;
// one that starts with ERROR: means that the call fails.
func TestExamplesOfTheDocsAnswerWhatTheySay(t *testing.T) {
	page, err := os.ReadFile(apiDocs)
	if err != nil {
		t.Fatal(err)
	}
	examples := examplesOf(string(page))
	if len(examples) == 0 {
		t.Fatalf("%s has no example", apiDocs)
	}
	file, err := filepath.EvalSymlinks(smolLM2(t))
	if err != nil {
		t.Fatal(err)
	}
	p := startServer(t, "--model", "smollm2="+file, "--model-root", filepath.Dir(file))
	p.waitServing()
	for _, e := range examples {
		t.Run(fmt.Sprintf("line %d", e.line), func(t *testing.T) {
			command := strings.NewReplacer(docsAddr, p.grpc, docsFile, filepath.Base(file)).Replace(e.command)
			code, stdout, stderr := runExample(t, command)
			if (code != 0) != e.fails() {
				t.Fatalf("%s:%d: exit code %d:\n%s\n%s%s", apiDocs, e.line, code, e.command, stdout, stderr)
			}
			if fault := e.check(stdout, stderr); fault != nil {
				t.Errorf("%s:%d: %v:\n%s\n%s%s", apiDocs, e.line, fault, e.command, stdout, stderr)
			}
		})
	}
}

// example is a command of the page and what the page says of its answer.
type example struct {
	line         int // of the page, where the command starts
	command      string
	kind, answer string // "json" or "text" and the block; "" where nothing is said
}

func examplesOf(page string) (found []example) {
	var last *example // the example that a block right here would belong to
	var block []string
	inside, kind := false, ""
	for i, line := range strings.Split(page, "\n") {
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && !inside:
			inside, kind, block = true, fence, nil
		case isFence:
			inside = false
			text := strings.Join(block, "\n")
			switch {
			case kind == "sh" && strings.Contains(text, "grpcurl"):
				found = append(found, example{line: i + 1 - len(block), command: text})
				last = &found[len(found)-1]
			case last != nil && (kind == "json" || kind == "text"):
				last.kind, last.answer = kind, text
				last = nil
			default:
				last = nil
			}
		case inside:
			block = append(block, line)
		case strings.TrimSpace(line) != "":
			last = nil
		}
	}
	return found
}

func (e example) fails() bool { return e.kind == "text" && strings.HasPrefix(e.answer, "ERROR:") }

func (e example) check(stdout, stderr string) error {
	switch e.kind {
	case "json":
		return messagesHold(stdout, e.answer)
	case "text":
		return linesHold(stdout+stderr, e.answer)
	}
	return nil
}

// runExample gives a block to a shell that finds the project's tools.
func runExample(t *testing.T, command string) (code int, stdout, stderr string) {
	t.Helper()
	tools, err := filepath.Abs(filepath.Join("..", "..", "bin", "tools"))
	if err != nil {
		t.Fatal(err)
	}
	path := tools + string(filepath.ListSeparator) + os.Getenv("PATH")
	t.Setenv("PATH", path)
	if _, err := exec.LookPath("grpcurl"); err != nil {
		t.Skip("grpcurl is not built: `make tools` builds it")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", command)
	var out, failure bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failure
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), failure.String()
}

// messagesHold checks that the JSON values of want are held by those of got, in order, each by one of its own.
func messagesHold(got, want string) error {
	answers, err := valuesOf(got)
	if err != nil {
		return fmt.Errorf("the answer: %w", err)
	}
	expected, err := valuesOf(want)
	if err != nil {
		return fmt.Errorf("the page: %w", err)
	}
	next := 0
	for i, value := range expected {
		why := errors.New("the answer has no more messages")
		for ; next < len(answers); next++ {
			if why = holds(answers[next], value, "answer"); why == nil {
				break
			}
		}
		if why != nil {
			return fmt.Errorf("message %d of the page: %w", i+1, why)
		}
		next++
	}
	return nil
}

func valuesOf(text string) (all []any, err error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	for {
		var value any
		if err := decoder.Decode(&value); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, value)
	}
}

// holds checks that got has all that want has: every member of an object, every element of a list.
func holds(got, want any, at string) error {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return fmt.Errorf("%s is %v, want an object", at, got)
		}
		for key, value := range w {
			if err := holds(g[key], value, at+"."+key); err != nil {
				return err
			}
		}
		return nil
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return fmt.Errorf("%s is %v, want %v", at, got, want)
		}
		for i, value := range w {
			if err := holds(g[i], value, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
		return nil
	case float64:
		if g, ok := got.(float64); ok && (g == w || w != math.Trunc(w) && math.Abs(g-w) <= docsFraction) {
			return nil
		}
	default:
		if got == want {
			return nil
		}
	}
	return fmt.Errorf("%s is %v, want %v", at, got, want)
}

// linesHold checks that the lines of want are lines of got, in order.
func linesHold(got, want string) error {
	rest := strings.Split(got, "\n")
	for line := range strings.Lines(want) {
		line = strings.TrimRight(line, "\n")
		for len(rest) > 0 && rest[0] != line {
			rest = rest[1:]
		}
		if len(rest) == 0 {
			return fmt.Errorf("no line %q where it should be", line)
		}
		rest = rest[1:]
	}
	return nil
}

func TestExamplesAreFoundAndTheirAnswersCompared(t *testing.T) {
	page := "text\n```sh\ngrpcurl a\n```\n```json\n{}\n```\nmore\n\n```sh\necho\n```\n```json\n1\n```\n```sh\ngrpcurl \\\n b\n```\n\nbetween\n\n```text\nx\n```\n" +
		"```sh\ngrpcurl c\n```\n\n```text\nERROR:\n```\n"
	got := examplesOf(page)
	want := []example{{3, "grpcurl a", "json", "{}"}, {17, "grpcurl \\\n b", "", ""}, {27, "grpcurl c", "text", "ERROR:"}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("examples %v, want %v", got, want)
	}
	for _, c := range []struct {
		got, want string
		ok        bool
	}{
		{`{"a":1,"b":[{"c":"x","d":2}]}`, `{"b":[{"c":"x"}]}`, true},
		{`{"a":1}`, `{"a":2}`, false},
		{`{"a":1.51}`, `{"a":1.5}`, true},
		{`{"a":1.6}`, `{"a":1.5}`, false},
		{`{"a":[1]}`, `{"a":[1,2]}`, false},
		{`{}`, `{"a":"x"}`, false},
		{`{"a":1}{"b":2}{"c":3}`, `{"a":1}{"c":3}`, true},
		{`{"a":1}{"b":2}`, `{"b":2}{"a":1}`, false},
	} {
		if err := messagesHold(c.got, c.want); (err == nil) != c.ok {
			t.Errorf("%s holds %s: %v, want %v", c.got, c.want, err, c.ok)
		}
	}
	if err := linesHold("a\nb\nc\n", "a\nc"); err != nil {
		t.Error(err)
	}
	if err := linesHold("a\nb\n", "b\na"); err == nil {
		t.Error("lines in another order pass")
	}
}
