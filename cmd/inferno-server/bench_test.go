package main_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// runBench runs `inferno-server bench` on the tiny model and returns its exit code and what it printed on either output.
func runBench(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append([]string{"bench", "--model", "tiny=" + tiny, "--device=cpu"}, args...)...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func TestBenchMeasuresDecodePrefillAndMixed(t *testing.T) {
	workload := filepath.Join(t.TempDir(), "workload.json")
	if err := os.WriteFile(workload, []byte(`{"note": "x", "requests": [[40, 20], [7, 3], [100, 50]]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{
		"--run=decode,prefill,mixed", "--batch=1,4", "--context-tokens=64", "--max-tokens=32", "--prompt-tokens=16,128", "--repeat=3",
		"--workload", workload,
	}
	code, out, errs := runBench(t, append(args, "--json")...)
	var report struct {
		Model     string
		Bandwidth float64
		Weights   int64 `json:"weight_bytes"`
		Decode    []struct {
			Batch     int
			Context   int     `json:"context_tokens"`
			Steps     int     `json:"steps"`
			Step      float64 `json:"step_ms"`
			P99       float64 `json:"step_ms_p99"`
			Rate      float64 `json:"output_tokens_per_second"`
			Gigabytes float64 `json:"gigabytes_per_step"`
			Share     float64 `json:"share_of_bandwidth"`
			Host      float64 `json:"host_us_per_step"`
		}
		Prefill []struct {
			Prompt int     `json:"prompt_tokens"`
			First  float64 `json:"first_token_ms"`
		}
		Mixed struct {
			Requests int `json:"requests"`
			Output   int `json:"output_tokens"`
			Steps    int
			Mixed    int     `json:"mixed_steps"`
			Decode   float64 `json:"decode_step_ms"`
			Step     float64 `json:"mixed_step_ms"`
			Waited   int     `json:"steps_waited_for"`
			Idle     float64 `json:"idle_us"`
		}
		Peak int64 `json:"peak_resident_bytes"`
	}
	if err := json.Unmarshal([]byte(out), &report); code != 0 || err != nil {
		t.Fatalf("bench exits %d (%v):\n%s%s", code, err, out, errs)
	}
	if report.Model != "tiny" || report.Bandwidth <= 0 || report.Weights == 0 || report.Peak == 0 || len(report.Decode) != 2 {
		t.Fatalf("bench reported %s", out)
	}
	for i, d := range report.Decode {
		// A request decodes 31 of its 32 tokens; the first full step has none before it, and prompts of others may take some more.
		if d.Batch != []int{1, 4}[i] || d.Steps < 16 || d.Steps > 30 || d.Context <= 64 || d.Context >= 96 || d.Step <= 0 || d.P99 < d.Step ||
			d.Rate <= 0 || d.Share <= 0 || d.Host <= 0 {
			t.Errorf("decode reported %+v", d)
		}
		weights := float64(report.Weights) / 1e9
		if kv := d.Gigabytes - weights; d.Gigabytes <= 0 || kv > weights { // less an embedding, plus a little of keys and values
			t.Errorf("a step reads %v GB of weights of %v GB", d.Gigabytes, weights)
		}
	}
	if p := report.Prefill; len(p) != 2 || p[0].Prompt != 16 || p[1].Prompt != 128 || p[0].First <= 0 {
		t.Errorf("prefill reported %+v", p)
	}
	if m := report.Mixed; m.Requests != 3 || m.Output != 73 {
		t.Errorf("mixed reported %+v, want 3 requests and 73 tokens", m)
	} else if m.Steps < 50 || m.Decode <= 0 || m.Waited != m.Steps-1 || m.Idle <= 0 { // a CPU computes when the host asks it to, and waits otherwise
		t.Errorf("mixed reported of its steps %+v", m)
	}

	code, out, _ = runBench(t, args...)
	for _, part := range []string{"decode: batch", "prefill: tokens", "mixed: requests", "peak resident set"} {
		if code != 0 || !strings.Contains(out, part) {
			t.Errorf("bench exits %d and lacks %q:\n%s", code, part, out)
		}
	}
}

func TestBenchRefusesWhatItCannotMeasure(t *testing.T) {
	for want, args := range map[string][]string{
		"run: \"decoding\"":                      {"--run=decoding"},
		"batch: 0":                               {"--batch=0"},
		"workload: it and --run mixed":           {"--run=mixed"},
		"no such file":                           {"--run=mixed", "--workload=/nowhere.json"},
		"profile: not available on the CPU":      {"--profile"},
		"model: 2 are given":                     {"--model=other=" + tiny},
		"prompt is 600 tokens, want at most 511": {"--run=prefill", "--prompt-tokens=600"},
	} {
		code, out, errs := runBench(t, args...)
		if !strings.Contains(errs, want) || code == 0 || code == 3 || out != "" {
			t.Errorf("bench %q exits %d, want it to say %q:\n%s%s", args, code, want, out, errs)
		}
	}
}
