package llama_test

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/model"
	"github.com/inferno-serve/inferno/internal/model/modeltest"
)

// openCUDA skips the test where there is no card. INFERNO_CUDA_LIBRARY names the library; the default lies beside the test binary.
func openCUDA(t testing.TB, exact bool) device.Device {
	t.Helper()
	d, err := native.OpenCUDA(native.CUDAOptions{Library: os.Getenv("INFERNO_CUDA_LIBRARY"), Exact: exact})
	if errors.Is(err, device.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	t.Cleanup(func() {
		runtime.UnlockOSThread()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// invariantRows is how many rows a batch on CUDA may have for its bits not to depend on it.
const invariantRows = 64

// TestGoldenCUDA compares with the goldens: in float32 as closely as the CPU does, with BF16 activations within 6 % of the largest logit.
func TestGoldenCUDA(t *testing.T) {
	for _, exact := range []bool{false, true} {
		for _, c := range cases {
			t.Run(fmt.Sprintf("%s/exact=%v", c, exact), func(t *testing.T) {
				dir := filepath.Join("..", "testdata", c)
				d := openCUDA(t, exact)
				r := tinyRunner(t, dir, model.Options{Device: d})
				float32s := exact || isF32(t, dir)
				limit, margin := 6e-2, 6e-2
				if float32s {
					limit, margin = 2e-3, 0
				}
				for i, p := range readGolden(t, filepath.Join(dir, "golden.safetensors")) {
					whole := r.Logits(p.tokens, invariantRows)
					e := worst(t, whole, p.logits)
					t.Logf("prompt %d, %d tokens: error %.2g", i, len(p.tokens), e)
					if e > limit {
						t.Errorf("prompt %d: logits are off by %.3g of the largest, want at most %.3g", i, e, limit)
					}
					for _, chunk := range []int{1, 7, 32} {
						if !sameBits(whole, r.Logits(p.tokens, chunk)) {
							t.Errorf("prompt %d: logits in chunks of %d differ from those of chunks of %d", i, chunk, invariantRows)
						}
					}
					if e := worst(t, r.Logits(p.tokens, len(p.tokens)), p.logits); e > limit {
						t.Errorf("prompt %d: logits of one batch are off by %.3g of the largest, want at most %.3g", i, e, limit)
					}
					checkGreedy(t, r, i, p, max(0.02, margin*largest(p.logits)))
				}
			})
		}
	}
}

// isF32 says whether all weights of a checkpoint are.
func isF32(t *testing.T, dir string) bool {
	t.Helper()
	c, err := model.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, name := range tensorNames(c.Config) {
		if c.Tensor(name).DType != device.F32 {
			return false
		}
	}
	return true
}

// TestGGUFTypesCUDA: each type gives, on an exact device, what float32 weights of the same values give, and nearly that with BF16.
func TestGGUFTypesCUDA(t *testing.T) {
	for _, dtype := range []device.DType{device.F16, device.BF16, device.Q8_0, device.Q4_0, device.Q4_1} {
		t.Run(dtype.String(), func(t *testing.T) {
			dir := filepath.Join("..", "testdata", "llama")
			exact, fast := openCUDA(t, true), openCUDA(t, false)
			tokens := readGolden(t, filepath.Join(dir, "golden.safetensors"))[2].tokens
			want := tinyRunner(t, writeGGUF(t, dir, dtype, true), model.Options{Device: exact}).Logits(tokens, 80)
			path := writeGGUF(t, dir, dtype, false)
			onExact := worst(t, tinyRunner(t, path, model.Options{Device: exact}).Logits(tokens, 80), want)
			onFast := worst(t, tinyRunner(t, path, model.Options{Device: fast}).Logits(tokens, 80), want)
			t.Logf("error %.2g exact, %.2g with BF16", onExact, onFast)
			if onExact > 1e-5 || onFast > 6e-2 {
				t.Errorf("logits are off by %.3g and %.3g of the largest, want at most 1e-5 and 6e-2", onExact, onFast)
			}
		})
	}
}

// TestGraphCUDA captures a whole decode step of a model and replays it.
func TestGraphCUDA(t *testing.T) {
	d := openCUDA(t, false)
	dir := filepath.Join("..", "testdata", "llama3-rope-tied-sharded-bf16")
	o := model.Options{Device: d, Limits: model.Limits{MaxTokens: 80, MaxSeqs: 4, MaxRows: 80, Context: 128}}
	m, _, pool := load(t, dir, o, 4<<20)
	r := modeltest.New(t, m, modeltest.Options{Device: d, Allocator: pool, Limits: o.Limits, BlockSize: 16, NumBlocks: 24})
	tokens := readGolden(t, filepath.Join(dir, "golden.safetensors"))[1].tokens
	want := r.Logits(tokens, 16)
	s := &modeltest.Sequence{}
	r.Step(modeltest.Part{Sequence: s, Tokens: tokens[:len(tokens)-1]})
	last := modeltest.Part{Sequence: s, Tokens: tokens[len(tokens)-1:], Logits: 1}
	batch := r.Batch(last)
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	g, err := d.Capture(func() { m.Forward(batch, r.KV()) })
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	for range 3 {
		d.Fill(batch.Logits.Data, 0xff, int64(4*batch.Logits.Len()))
		d.Launch(g)
		if got := r.Download(batch); !sameBits(got, want[len(want)-1:]) {
			t.Fatalf("logits of the graph are off by %.3g of the largest", worst(t, got, want[len(want)-1:]))
		}
	}
}

// TestSmolLM2CUDA holds a real model to the limits for its arithmetic.
func TestSmolLM2CUDA(t *testing.T) {
	for _, c := range []struct {
		name   string
		exact  bool
		limits smolLimits
	}{
		{"bf16", false, smolLimits{0.2, 0.02, 0.6, 3, 0.005}},
		{"exact", true, smolLimits{0.002, 0.002, 0.002, 0.002, 0.0002}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, ckpt := smolRunner(t, openCUDA(t, c.exact))
			smolGreedy(t, r, c.limits)
			smolNLL(t, r, ckpt, c.limits)
		})
	}
}

func largest(logits [][]float32) (most float64) {
	for _, row := range logits {
		for _, v := range row {
			most = max(most, math.Abs(float64(v)))
		}
	}
	return most
}
