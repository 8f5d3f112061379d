package llama_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/memory"
	"github.com/inferno-serve/inferno/internal/model"
	"github.com/inferno-serve/inferno/internal/model/llama"
	"github.com/inferno-serve/inferno/internal/model/modeltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loader = model.Loader{Architectures: map[string]model.Builder{"llama": llama.New}}

var cases = []string{"llama", "llama-headdim-f16", "llama-mha-biased-linear", "llama-yarn", "llama3-rope-tied-sharded-bf16"}

func openCPU(t testing.TB, o native.CPUOptions) device.Device {
	t.Helper()
	d, err := native.OpenCPU(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func newPool(t testing.TB, d device.Device, limit int64) *memory.Pool {
	t.Helper()
	pool, err := memory.NewPool(memory.PoolOptions{
		Source: d, Tracker: memory.NewTracker(memory.TrackerOptions{}), Owner: "test", Limit: limit,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// load opens and loads a checkpoint into a pool with room for kvBytes more.
func load(t testing.TB, path string, o model.Options, kvBytes int64) (model.Model, *model.Checkpoint, *memory.Pool) {
	t.Helper()
	c, err := model.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	need, _, err := loader.Measure(t.Context(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	pool := newPool(t, o.Device, need.Total()+kvBytes)
	o.Allocator = pool
	m, err := loader.Load(t.Context(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	if left := pool.Available(); left < kvBytes || left >= kvBytes+memory.Alignment {
		t.Errorf("%d bytes are left of a pool of what Measure said (%d) and %d more", left, need.Total(), kvBytes)
	}
	return m, c, pool
}

// runner loads one of the tiny checkpoints.
func tinyRunner(t testing.TB, path string, o model.Options) *modeltest.Runner {
	t.Helper()
	o.Limits = model.Limits{MaxTokens: 80, MaxSeqs: 4, MaxRows: 80, Context: 128}
	m, _, pool := load(t, path, o, 4<<20)
	return modeltest.New(t, m, modeltest.Options{Device: o.Device, Allocator: pool, Limits: o.Limits, BlockSize: 16, NumBlocks: 24})
}

// prompt is one of a golden file.
type prompt struct {
	tokens []int32
	logits [][]float32
	greedy []int32
	margin []float32
}

func readGolden(t testing.TB, path string) (prompts []prompt) {
	t.Helper()
	for _, p := range modeltest.ReadGolden(t, path) {
		prompts = append(prompts, prompt{p.Tokens, p.Logits, p.Greedy, p.Margin})
	}
	return prompts
}

// worst is the largest difference of two sets of logits, relative to the largest |want|.
func worst(t testing.TB, got, want [][]float32) float64 {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d rows of logits, want %d", len(got), len(want))
	}
	var difference, largest float64
	for i := range want {
		for j := range want[i] {
			d := math.Abs(float64(got[i][j]) - float64(want[i][j]))
			if math.IsNaN(d) {
				return math.Inf(1)
			}
			difference, largest = max(difference, d), max(largest, math.Abs(float64(want[i][j])))
		}
	}
	return difference / largest
}

func sameBits(a, b [][]float32) bool {
	for i := range a {
		for j := range a[i] {
			if math.Float32bits(a[i][j]) != math.Float32bits(b[i][j]) {
				return false
			}
		}
	}
	return len(a) == len(b)
}

func TestGolden(t *testing.T) {
	for _, exact := range []bool{false, true} {
		for _, c := range cases {
			t.Run(fmt.Sprintf("%s/exact=%v", c, exact), func(t *testing.T) {
				d := openCPU(t, native.CPUOptions{Threads: 2, Exact: exact})
				r := tinyRunner(t, filepath.Join("..", "testdata", c), model.Options{Device: d})
				for i, p := range readGolden(t, filepath.Join("..", "testdata", c, "golden.safetensors")) {
					checkLogits(t, r, i, p, 2e-3)
					checkGreedy(t, r, i, p, 0.02)
				}
			})
		}
	}
}

func checkLogits(t *testing.T, r *modeltest.Runner, i int, p prompt, limit float64) {
	t.Helper()
	whole := r.Logits(p.tokens, len(p.tokens))
	e := worst(t, whole, p.logits)
	t.Logf("prompt %d, %d tokens: error %.2g", i, len(p.tokens), e)
	if e > limit {
		t.Errorf("prompt %d: logits are off by %.3g of the largest, want at most %.3g", i, e, limit)
	}
	for _, chunk := range []int{1, 7, 32} {
		if !sameBits(whole, r.Logits(p.tokens, chunk)) {
			t.Errorf("prompt %d: logits in chunks of %d differ from those of one batch", i, chunk)
		}
	}
}

// checkGreedy follows the golden tokens, so that one close choice does not spoil the rest.
func checkGreedy(t *testing.T, r *modeltest.Runner, i int, p prompt, margin float64) {
	t.Helper()
	s := &modeltest.Sequence{}
	defer r.Release(s)
	next := p.tokens
	for step, want := range p.greedy {
		logits := r.Step(modeltest.Part{Sequence: s, Tokens: next, Logits: 1})[0]
		if got := modeltest.Argmax(logits); got != want && float64(p.margin[step]) > margin {
			t.Errorf("prompt %d, step %d: token %d, want %d by a margin of %.3f", i, step, got, want, p.margin[step])
		}
		next = []int32{want}
	}
}

// Sequences of one batch do not see each other, whatever they do in it.
func TestBatchOfSequencesGivesTheBitsOfEachAlone(t *testing.T) {
	for _, c := range cases {
		t.Run(c, func(t *testing.T) {
			d := openCPU(t, native.CPUOptions{Threads: 2})
			r := tinyRunner(t, filepath.Join("..", "testdata", c), model.Options{Device: d})
			golden := readGolden(t, filepath.Join("..", "testdata", c, "golden.safetensors"))
			a, b := golden[1].tokens, golden[2].tokens[:40]
			wantA, wantB := r.Logits(a, len(a)), r.Logits(b, len(b))

			var sa, sb modeltest.Sequence
			rows := r.Step(modeltest.Part{Sequence: &sa, Tokens: a[:16], Logits: 0}, modeltest.Part{Sequence: &sb, Tokens: b[:9], Logits: 2})
			if !sameBits(rows, wantB[7:9]) {
				t.Error("two prefills: logits of the second differ")
			}
			rows = r.Step(modeltest.Part{Sequence: &sb, Tokens: b[9:], Logits: 31}, modeltest.Part{Sequence: &sa, Tokens: a[16:], Logits: 1})
			if !sameBits(rows[:31], wantB[9:]) || !sameBits(rows[31:], wantA[16:]) {
				t.Error("a prefill and a decode row: logits differ")
			}

			var sc, sd, se modeltest.Sequence
			r.Step(modeltest.Part{Sequence: &sc, Tokens: a[:5]}, modeltest.Part{Sequence: &sd, Tokens: b[:7]})
			rows = r.Step(modeltest.Part{Sequence: &sc, Tokens: a[5:6], Logits: 1}, modeltest.Part{Sequence: &sd, Tokens: b[7:8], Logits: 1},
				modeltest.Part{Sequence: &se, Tokens: b[:20], Logits: 20}, modeltest.Part{Sequence: &sb, Tokens: b[:1]})
			if !sameBits(rows[:1], wantA[5:6]) || !sameBits(rows[1:2], wantB[7:8]) || !sameBits(rows[2:], wantB[:20]) {
				t.Error("two decode rows before a prefill and a last row: logits differ")
			}
		})
	}
}

func TestForwardWithoutLogitsWritesTheCache(t *testing.T) {
	d := openCPU(t, native.CPUOptions{Threads: 1})
	r := tinyRunner(t, filepath.Join("..", "testdata", "llama"), model.Options{Device: d})
	tokens := readGolden(t, filepath.Join("..", "testdata", "llama", "golden.safetensors"))[1].tokens
	want := r.Logits(tokens, len(tokens))
	var s modeltest.Sequence
	if rows := r.Step(modeltest.Part{Sequence: &s, Tokens: tokens[:16]}); len(rows) != 0 {
		t.Errorf("%d rows of logits, want none", len(rows))
	}
	if rows := r.Step(modeltest.Part{Sequence: &s, Tokens: tokens[16:], Logits: 1}); !sameBits(rows, want[16:]) {
		t.Error("logits differ after a step that wanted none")
	}
}

func TestForwardAllocatesNothing(t *testing.T) {
	d := openCPU(t, native.CPUOptions{Threads: 2})
	o := model.Options{Device: d, Limits: model.Limits{MaxTokens: 8, MaxSeqs: 1, MaxRows: 1, Context: 16}}
	m, _, pool := load(t, filepath.Join("..", "testdata", "llama"), o, 1<<20)
	r := modeltest.New(t, m, modeltest.Options{Device: d, Allocator: pool, Limits: o.Limits, BlockSize: 8, NumBlocks: 2})
	batch := r.Batch(modeltest.Part{Sequence: &modeltest.Sequence{}, Tokens: []int32{1, 2, 3}, Logits: 1})
	kv := r.KV()
	if n := testing.AllocsPerRun(20, func() { m.Forward(batch, kv) }); n != 0 {
		t.Errorf("Forward allocates %v times, want 0", n)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
}

func fixtures(t testing.TB, elements ...string) string {
	t.Helper()
	root := os.Getenv("INFERNO_FIXTURES")
	if root == "" {
		root = filepath.Join("..", "..", "..", "..", "shared", "fixtures")
	}
	path := filepath.Join(append([]string{root}, elements...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no fixtures (INFERNO_FIXTURES): %v", err)
	}
	return path
}
