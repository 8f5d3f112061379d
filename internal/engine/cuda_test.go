package engine_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/model"
)

// openCUDA skips the test where there is no card. INFERNO_CUDA_LIBRARY names the library; the default lies beside the test binary.
func openCUDA(t testing.TB) device.Device {
	t.Helper()
	return openCard(t, native.CUDAOptions{})
}

// exactCUDA computes in float32 throughout.
func exactCUDA(t testing.TB) device.Device {
	t.Helper()
	return openCard(t, native.CUDAOptions{Exact: true})
}

func openCard(t testing.TB, o native.CUDAOptions) device.Device {
	t.Helper()
	o.Library = os.Getenv("INFERNO_CUDA_LIBRARY")
	d, err := native.OpenCUDA(o)
	if errors.Is(err, device.ErrUnavailable) {
		t.Skip(err)
	}
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

// TestGraphsAndOverlapChangeNoTokenCUDA runs the same requests op by op and one step at a time, and from graphs with each step launched
// while the one before runs: with blocks for all, and with so few that sequences are preempted. Steps are short enough for a row's bits not
// to depend on its batch.
func TestGraphsAndOverlapChangeNoTokenCUDA(t *testing.T) {
	for _, checkpoint := range []string{"llama", "llama3-rope-tied-sharded-bf16"} {
		t.Run(checkpoint, func(t *testing.T) {
			requests := stoppingRequests(t, checkpoint)
			var want [][]int32
			for i, c := range []struct {
				name string
				s    sizes
			}{
				{"op by op", sizes{blocks: 600, maxBatchTokens: 64, eager: true}},
				{"graphs and overlap", sizes{blocks: 600, maxBatchTokens: 64}},
				{"few blocks", sizes{blocks: 40, maxBatchTokens: 64}},
			} {
				t.Run(c.name, func(t *testing.T) {
					e := start(t, openCUDA(t), checkpoint, c.s)
					if eager := e.Graphs() == 0; eager != c.s.eager {
						t.Errorf("%d steps captured", e.Graphs())
					}
					began := time.Now()
					got := runTogether(t, e, requests)
					took := time.Since(began)
					if i == 0 {
						want = got
					}
					for j := range got {
						if !slices.Equal(got[j], want[j]) {
							t.Errorf("%s: got %v, want %v", requests[j].ID, got[j], want[j])
						}
					}
					s := e.Stats()
					t.Logf("%d steps, %d tokens, %d preemptions in %v: %v a step, the host's part %v",
						s.Steps, s.OutputTokens, s.Preemptions, took, took/time.Duration(s.Steps), s.HostTime/time.Duration(s.Steps))
				})
			}
		})
	}
}

// BenchmarkDecodeCUDA decodes 256 tokens of n sequences with SmolLM2-135M's shape and random weights: a model of which the card computes a
// step faster than a host can launch its ops one by one. It reports what a step takes and the host's part of it.
func BenchmarkDecodeCUDA(b *testing.B) {
	dir := randomCheckpoint(b)
	for _, n := range []int{1, 32, 256} {
		for _, eager := range []bool{true, false} {
			b.Run(fmt.Sprintf("%d/eager=%v", n, eager), func(b *testing.B) { benchmarkDecode(b, dir, n, eager, engine.Logprobs{}) })
		}
		for _, top := range []int{0, 5} {
			b.Run(fmt.Sprintf("%d/logprobs=%d", n, top), func(b *testing.B) {
				benchmarkDecode(b, dir, n, false, engine.Logprobs{Output: true, Top: top})
			})
		}
	}
}

func benchmarkDecode(b *testing.B, dir string, n int, eager bool, logprobs engine.Logprobs) {
	const prompt, tokens, blockSize = 64, 256, 16
	limits := model.Limits{MaxTokens: 2048, MaxSeqs: 256, MaxRows: 256, Context: 1024}
	blocks := 256 * (prompt + tokens + blockSize) / blockSize
	d := openCUDA(b)
	e := open(b, d, dir, engine.Options{Limits: limits, NumBlocks: blocks, BlockSize: blockSize, MaxBatchTokens: 2048, Eager: eager})
	free, began := d.Info().FreeBytes, time.Now()
	if err := e.Warmup(b.Context()); err != nil {
		b.Fatal(err)
	}
	warm := time.Since(began)
	free -= d.Info().FreeBytes
	done := make(chan error, 1)
	go func() { done <- e.Run(b.Context()) }()
	var took, host time.Duration
	var steps uint64
	for b.Loop() {
		streams := make([]*engine.Stream, n)
		for i := range streams {
			q := &engine.Request{ID: fmt.Sprint(i), Prompt: slices.Repeat([]int32{int32(i + 1)}, prompt)}
			q.Stop.MaxTokens, q.Logprobs = tokens, logprobs
			streams[i] = submit(b, e, q)
		}
		for _, s := range streams {
			if _, _, err := s.Next(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		before, began := e.Stats(), time.Now()
		read(b, streams[0])
		after := e.Stats()
		took += time.Since(began)
		host += after.HostTime - before.HostTime
		steps += after.Steps - before.Steps
		for _, s := range streams[1:] {
			read(b, s)
		}
	}
	b.ReportMetric(float64(took.Microseconds())/float64(steps), "µs/step")
	b.ReportMetric(float64(host.Microseconds())/float64(steps), "host-µs/step")
	b.ReportMetric(warm.Seconds()*1e3, "warmup-ms")
	b.ReportMetric(float64(free>>20), "warmup-MiB")
	e.Close()
	if err := <-done; err != nil {
		b.Error(err)
	}
}

// randomCheckpoint writes SmolLM2-135M's config and random BF16 weights.
func randomCheckpoint(b *testing.B) string {
	b.Helper()
	const layers, d, f, kv, vocab = 30, 576, 1536, 192, 49152
	dir := b.TempDir()
	config := fmt.Sprintf(`{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": %d,
		"intermediate_size": %d, "num_hidden_layers": %d, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": %d,
		"max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "rope_theta": 100000, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
		"bos_token_id": 1, "eos_token_id": 2}`, d, f, layers, vocab)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		b.Fatal(err)
	}
	header, size := map[string]any{}, 0
	add := func(name string, shape ...int) {
		bytes := 2
		for _, n := range shape {
			bytes *= n
		}
		header[name] = map[string]any{"dtype": "BF16", "shape": shape, "data_offsets": []int{size, size + bytes}}
		size += bytes
	}
	add("model.embed_tokens.weight", vocab, d)
	for i := range layers {
		name := fmt.Sprintf("model.layers.%d.", i)
		add(name+"input_layernorm.weight", d)
		add(name+"self_attn.q_proj.weight", d, d)
		add(name+"self_attn.k_proj.weight", kv, d)
		add(name+"self_attn.v_proj.weight", kv, d)
		add(name+"self_attn.o_proj.weight", d, d)
		add(name+"post_attention_layernorm.weight", d)
		add(name+"mlp.gate_proj.weight", f, d)
		add(name+"mlp.up_proj.weight", f, d)
		add(name+"mlp.down_proj.weight", d, f)
	}
	add("model.norm.weight", d)
	text, err := json.Marshal(header)
	if err != nil {
		b.Fatal(err)
	}
	file := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	file = append(file, text...)
	random := rand.New(rand.NewPCG(1, 2))
	for range size / 8 {
		file = binary.LittleEndian.AppendUint64(file, random.Uint64()&0x807f807f807f807f|0x3d003d003d003d00) // ±0.03 to 0.06
	}
	file = append(file, make([]byte, size%8)...)
	if err := os.WriteFile(filepath.Join(dir, "model.safetensors"), file, 0o600); err != nil {
		b.Fatal(err)
	}
	return dir
}

// TestLogprobsMatchGoldenLogitsCUDA and the next one hold the card, computing in float32 throughout, to what the CPU is held to.
func TestLogprobsMatchGoldenLogitsCUDA(t *testing.T) {
	for _, checkpoint := range checkpoints {
		t.Run(checkpoint, func(t *testing.T) {
			e := start(t, exactCUDA(t), checkpoint, withRows(sizes{blocks: 64, maxBatchTokens: 64}))
			for i, p := range golden(t, checkpoint) {
				checkGoldenLogprobs(t, e, i, p)
			}
		})
	}
}

func TestAnswersDoNotDependOnTheOthersCUDA(t *testing.T) {
	requests := asking(320)
	var alone []heard
	e := start(t, exactCUDA(t), "llama", withRows(sizes{blocks: 600, maxBatchTokens: 64, eager: true}))
	for _, q := range requests {
		alone = append(alone, hear(t, e, []*engine.Request{q})...)
	}
	for name, s := range map[string]sizes{"graphs and overlap": {blocks: 600, maxBatchTokens: 64}, "few blocks": {blocks: 40, maxBatchTokens: 64}} {
		t.Run(name, func(t *testing.T) {
			for i, got := range hear(t, start(t, exactCUDA(t), "llama", withRows(s)), requests) {
				checkHeard(t, requests[i], got, alone[i])
			}
		})
	}
}
