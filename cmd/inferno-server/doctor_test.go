package main_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// runDoctor runs `inferno-server doctor` to its end and returns its exit code and all that it printed.
func runDoctor(t *testing.T, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append([]string{"doctor"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func TestDoctor(t *testing.T) {
	none := "--cuda-library=" + filepath.Join(t.TempDir(), "none.so")
	for _, c := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"without a card", []string{none}, 0, []string{"cuda ", "unavailable: ", "none.so", "device ", "cpu: ", "threads ", "memory ", " GB/s"}},
		{"on the CPU", []string{"--device=cpu", "--model=tiny=" + tiny}, 0, []string{
			"program ", "inferno-server test", "cpu: ", "model tiny", "fits: weights 666KiB", "keys and values of 32768 tokens",
		}},
		{"a shape alone", []string{"--device=cpu", "--load-format=random", "--kv-memory=64MiB", "--model=s=" + shape("smollm2-135m")}, 0,
			[]string{"model s", "fits: weights 256.6MiB"}},
		{"a model that does not fit", []string{"--device=cpu", "--kv-memory=1TiB", "--max-batch=4096", "--load-format=random",
			"--model=big=" + shape("llama-3.1-8b"), "--model=tiny=" + shape("smollm2-135m")}, 2, []string{
			"model big", "does not fit: it needs ", "--kv-memory", "model tiny",
		}},
		{"no such model", []string{"--device=cpu", "--model=m=/none"}, 2, []string{"model m", "no such file"}},
		{"a card that is not there", []string{"--device=cuda", none}, 2, []string{"unavailable: ", "none.so"}},
		{"a bad flag", []string{"--device=tpu"}, 2, []string{`device: "tpu"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, out := runDoctor(t, c.args...)
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in:\n%s", want, out)
				}
			}
		})
	}
}

func shape(name string) string { return filepath.Join("../../internal/model/testdata/shapes", name) }

// TestRandomWeightsAreServed makes tokens of a config alone: one that is not a number would end the request.
func TestRandomWeightsAreServed(t *testing.T) {
	p := startServer(t, "--load-format=random", "--kv-memory=8MiB", "--model=tiny="+filepath.Join(tiny, "config.json"))
	p.waitServing()
	answer, err := infernov1.NewInferenceServiceClient(p.dial()).Generate(t.Context(), generate(50))
	if err != nil || len(answer.GetCompletions()[0].GetTokenIds()) != 50 {
		t.Errorf("%v, %v; want 50 tokens", answer, err)
	}
}
