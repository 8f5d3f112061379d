package llama_test

import (
	"bufio"
	"encoding/json"
	"math"
	"os"
	"testing"
	"time"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/model"
	"github.com/inferno-serve/inferno/internal/model/modeltest"
	"github.com/inferno-serve/inferno/internal/tokenizer"
)

// smolCase is a line of smollm2/cases.jsonl.
type smolCase struct {
	Name   string       `json:"name"`
	IDs    []int32      `json:"ids"`
	Greedy []int32      `json:"greedy"`
	Margin []float64    `json:"margin"`
	Top    [][2]float64 `json:"top"`   // id, log-probability
	Probe  []float64    `json:"probe"` // logits of ids 0, 768, 1536, …
}

// smolLimits are the recommended ones for a kind of arithmetic, of smollm2/README.md.
type smolLimits struct {
	margin, otherArgmax, top, probe, nll float64
}

func TestSmolLM2(t *testing.T) {
	for _, c := range []struct {
		name   string
		device native.CPUOptions
		limits smolLimits
	}{
		{"8-bit activations", native.CPUOptions{}, smolLimits{0.6, 0.04, 1.5, 3, 0.01}},
		{"exact", native.CPUOptions{Exact: true}, smolLimits{0.002, 0.002, 0.002, 0.002, 0.0002}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, ckpt := smolRunner(t, openCPU(t, c.device))
			smolGreedy(t, r, c.limits)
			smolNLL(t, r, ckpt, c.limits)
		})
	}
}

func smolRunner(t *testing.T, d device.Device) (*modeltest.Runner, *model.Checkpoint) {
	t.Helper()
	path := os.Getenv("INFERNO_SMOLLM2")
	if path == "" {
		t.Skip("INFERNO_SMOLLM2 is not set to the path of SmolLM2-135M-Instruct.Q4_1.gguf")
	}
	limits := model.Limits{MaxTokens: 256, MaxSeqs: 1, MaxRows: 256, Context: 1024}
	start := time.Now()
	m, ckpt, pool := load(t, path, model.Options{Device: d, Limits: limits}, 256<<20)
	t.Logf("opened and loaded in %v, revision %s", time.Since(start).Round(time.Millisecond), ckpt.Revision())
	return modeltest.New(t, m, modeltest.Options{Device: d, Allocator: pool, Limits: limits, BlockSize: 32, NumBlocks: 40}), ckpt
}

func smolGreedy(t *testing.T, r *modeltest.Runner, limits smolLimits) {
	t.Helper()
	var steps, other int
	var lost, top, probe float64
	for _, c := range readLines[smolCase](t, fixtures(t, "smollm2", "cases.jsonl")) {
		logits := smolForced(r, c)
		for step, want := range c.Greedy {
			steps++
			if got := modeltest.Argmax(logits[step]); got != want {
				other++
				lost = max(lost, c.Margin[step])
				if c.Margin[step] > limits.margin {
					t.Errorf("%s, step %d: token %d, want %d by a margin of %.3f", c.Name, step, got, want, c.Margin[step])
				}
			}
		}
		normaliser := logSumExp(logits[0])
		for _, pair := range c.Top {
			top = max(top, math.Abs(float64(logits[0][int(pair[0])])-normaliser-pair[1]))
		}
		for i, want := range c.Probe {
			probe = max(probe, math.Abs(float64(logits[0][768*i])-want))
		}
	}
	t.Logf("%d steps, %d other argmax, largest margin lost %.3f, top error %.4f, probe error %.4f", steps, other, lost, top, probe)
	if float64(other) > limits.otherArgmax*float64(steps) {
		t.Errorf("%d of %d steps have another argmax, want at most %.1f %%", other, steps, 100*limits.otherArgmax)
	}
	if top > limits.top {
		t.Errorf("log-probabilities are off by %.4f, want at most %g", top, limits.top)
	}
	if probe > limits.probe {
		t.Errorf("logits are off by %.4f, want at most %g", probe, limits.probe)
	}
}

// smolForced is the logits at each step of the reference's own continuation.
func smolForced(r *modeltest.Runner, c smolCase) (logits [][]float32) {
	s := &modeltest.Sequence{}
	defer r.Release(s)
	tokens := append(append([]int32{}, c.IDs...), c.Greedy[:len(c.Greedy)-1]...)
	first := len(c.IDs) - 1 // whose logits choose the first token
	for from := 0; from < len(tokens); {
		part := tokens[from:min(from+128, len(tokens))]
		from += len(part)
		logits = append(logits, r.Step(modeltest.Part{Sequence: s, Tokens: part, Logits: min(len(part), max(0, from-first))})...)
	}
	return logits
}

// smolNLL follows the procedure of smollm2/README.md.
func smolNLL(t *testing.T, r *modeltest.Runner, ckpt *model.Checkpoint, limits smolLimits) {
	t.Helper()
	const want, window = 3.346958, 1024
	text, err := os.ReadFile(fixtures(t, "smollm2", "nll.txt"))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.FromGGUF(ckpt.GGUF().Metadata())
	if err != nil {
		t.Fatal(err)
	}
	ids, err := tok.Encode(string(text), tokenizer.EncodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(ids) != 2125 {
		t.Fatalf("nll.txt is %d tokens, want 2125", len(ids))
	}
	ids = ids[:2*window]
	var sum float64
	var scored int
	for ; len(ids) > 0; ids = ids[window:] {
		logits := r.Logits(ids[:window], 256)
		for i := 1; i < window; i++ {
			sum += logSumExp(logits[i-1]) - float64(logits[i-1][ids[i]])
			scored++
		}
	}
	nll := sum / float64(scored)
	t.Logf("NLL %.6f over %d tokens, %+.6f from the reference", nll, scored, nll-want)
	if math.Abs(nll-want) > limits.nll {
		t.Errorf("NLL %.5f, want %.5f ± %g", nll, want, limits.nll)
	}
}

func logSumExp(logits []float32) float64 {
	most := float64(logits[modeltest.Argmax(logits)])
	var sum float64
	for _, v := range logits {
		sum += math.Exp(float64(v) - most)
	}
	return most + math.Log(sum)
}

func readLines[T any](t testing.TB, path string) (all []T) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var v T
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	if err := lines.Err(); err != nil || len(all) == 0 {
		t.Fatalf("%s: %d lines, %v", path, len(all), err)
	}
	return all
}
