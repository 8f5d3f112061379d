package model_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/memory"
	"github.com/inferno-serve/inferno/internal/model"
	"github.com/inferno-serve/inferno/internal/model/gguf/gguftest"
	"github.com/inferno-serve/inferno/internal/model/llama"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	loader = model.Loader{Architectures: map[string]model.Builder{"llama": llama.New}}
	limits = model.Limits{MaxTokens: 8, MaxSeqs: 2, MaxRows: 2, Context: 64}
)

func openCPU(t testing.TB) device.Device {
	t.Helper()
	d, err := native.OpenCPU(native.CPUOptions{Threads: 1})
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
	p, err := memory.NewPool(memory.PoolOptions{Source: d, Tracker: memory.NewTracker(memory.TrackerOptions{}), Owner: "test", Limit: limit})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func openCheckpoint(t testing.TB, path string) *model.Checkpoint {
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
	return c
}

// header is a safetensors header as a test changes it.
type header map[string]*entry

type entry struct {
	DType   string   `json:"dtype"`
	Shape   []int    `json:"shape"`
	Offsets [2]int64 `json:"data_offsets"`
}

// add appends a tensor of zeros.
func (h header) add(data []byte, name, dtype string, size int, shape ...int) []byte {
	for _, n := range shape {
		size *= n
	}
	h[name] = &entry{dtype, shape, [2]int64{int64(len(data)), int64(len(data) + size)}}
	return append(data, make([]byte, size)...)
}

// copyCheckpoint copies testdata/llama with its tensors and its config changed.
func copyCheckpoint(t *testing.T, config *strings.Replacer, change func(h header, data []byte) []byte) string {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join("testdata", "llama")
	text, err := os.ReadFile(filepath.Join(source, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(source, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	headerBytes := binary.LittleEndian.Uint64(file)
	raw, data := map[string]json.RawMessage{}, file[8+headerBytes:]
	if err := json.Unmarshal(file[8:8+headerBytes], &raw); err != nil {
		t.Fatal(err)
	}
	h := header{}
	for name, v := range raw {
		if name != "__metadata__" {
			h[name] = &entry{}
			if err := json.Unmarshal(v, h[name]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if change != nil {
		data = change(h, data)
	}
	encoded, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	file = append(binary.LittleEndian.AppendUint64(nil, uint64(len(encoded))), encoded...)
	for name, b := range map[string][]byte{"config.json": []byte(config.Replace(string(text))), "model.safetensors": append(file, data...)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var unchanged = strings.NewReplacer()

func tryLoad(t *testing.T, path string, o model.Options) (*model.Checkpoint, error) {
	t.Helper()
	c := openCheckpoint(t, path)
	o.Device, o.Limits = openCPU(t), limits
	o.Allocator = newPool(t, o.Device, 16<<20)
	_, err := loader.Load(t.Context(), c, o)
	return c, err
}

func TestLoadRefusesTensorsThatDoNotFit(t *testing.T) {
	const k = "model.layers.1.self_attn.k_proj.weight"
	rename := func(from, to string) func(h header, data []byte) []byte {
		return func(h header, data []byte) []byte {
			h[to] = h[from]
			delete(h, from)
			return data
		}
	}
	for _, c := range []struct {
		name   string
		config *strings.Replacer
		change func(h header, data []byte) []byte
		want   string
	}{
		{"missing", unchanged, rename(k, "model.layers.1.rotary_emb.inv_freq"), "tensor " + k + ": missing, want shape [32 64]"},
		{"shape", unchanged, func(h header, data []byte) []byte {
			h[k].Shape = []int{64, 32}
			return data
		}, "tensor " + k + ": shape [64 32], want [32 64]"},
		{"dimensions", unchanged, func(h header, data []byte) []byte {
			h[k].Shape = []int{2048}
			return data
		}, "tensor " + k + ": shape [2048], want [32 64]"},
		{"type", unchanged, func(h header, data []byte) []byte {
			h[k].DType = "I32"
			return data
		}, "tensor " + k + ": type I32, want F32, F16 or BF16"},
		{"vector of another type", unchanged, func(h header, data []byte) []byte {
			h["model.norm.weight"].DType = "U32"
			return data
		}, "tensor model.norm.weight: type U32"},
		{"extra layer", unchanged, func(h header, data []byte) []byte {
			return h.add(data, "model.layers.3.mlp.up_proj.weight", "F32", 4, 160, 64)
		}, "tensor model.layers.3.mlp.up_proj.weight: F32 [160 64] is not part of a llama model"},
		{"bias that the config does not have", unchanged, func(h header, data []byte) []byte {
			return h.add(data, "model.layers.0.self_attn.q_proj.bias", "F32", 4, 64)
		}, "tensor model.layers.0.self_attn.q_proj.bias: F32 [64] is not part"},
		{"norms of Q", unchanged, func(h header, data []byte) []byte {
			return h.add(data, "model.layers.0.self_attn.q_norm.weight", "F32", 4, 16)
		}, "tensor model.layers.0.self_attn.q_norm.weight: F32 [16] is not part"},
		{"bias that the checkpoint lacks", strings.NewReplacer(`"attention_bias": false`, `"attention_bias": true`), nil,
			"tensor model.layers.0.self_attn.q_proj.bias: missing, want shape [64]"},
		{"vocabulary", strings.NewReplacer(`"vocab_size": 320`, `"vocab_size": 321`), nil,
			"tensor model.embed_tokens.weight: shape [320 64], want [321 64]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := tryLoad(t, copyCheckpoint(t, c.config, c.change), model.Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want it to say %q", err, c.want)
			}
		})
	}
}

func TestLoadReportsAllFaultsAtOnce(t *testing.T) {
	_, err := tryLoad(t, copyCheckpoint(t, unchanged, func(h header, data []byte) []byte {
		h["x"], h["y"] = h["lm_head.weight"], h["model.norm.weight"]
		delete(h, "lm_head.weight")
		delete(h, "model.norm.weight")
		return data
	}), model.Options{})
	for _, want := range []string{"lm_head.weight: missing", "model.norm.weight: missing", "tensor x: ", "tensor y: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

func TestLoadIgnoresWhatDoesNotMatter(t *testing.T) {
	path := copyCheckpoint(t, strings.NewReplacer(`"tie_word_embeddings": false`, `"tie_word_embeddings": true`), func(h header, data []byte) []byte {
		return h.add(data, "model.layers.0.self_attn.rotary_emb.inv_freq", "F64", 8, 8)
	})
	if _, err := tryLoad(t, path, model.Options{}); err != nil { // lm_head.weight is there and not used
		t.Error(err)
	}
}

func TestRevisionFollowsTheWeights(t *testing.T) {
	load := func(path string) string {
		c, err := tryLoad(t, path, model.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Revision()) != 16 {
			t.Errorf("revision %q, want 16 digits", c.Revision())
		}
		return c.Revision()
	}
	original := load(filepath.Join("testdata", "llama"))
	copied := copyCheckpoint(t, unchanged, nil)
	if got := load(copied); got != original {
		t.Errorf("revision of a copy is %s, want %s", got, original)
	}
	flipped := copyCheckpoint(t, unchanged, func(_ header, data []byte) []byte {
		data[len(data)-1] ^= 1
		return data
	})
	theta := copyCheckpoint(t, strings.NewReplacer("10000.0", "10001.0"), nil)
	for name, path := range map[string]string{"a flipped bit": flipped, "another theta": theta} {
		if got := load(path); got == original {
			t.Errorf("%s leaves the revision at %s", name, got)
		}
	}
	if c := openCheckpoint(t, copied); c.Revision() != "" {
		t.Errorf("revision before the load is %q, want none", c.Revision())
	}
}

func TestLoadIsRefusedBeforeReadingWhereMemoryIsShort(t *testing.T) {
	c := openCheckpoint(t, filepath.Join("testdata", "llama"))
	d := openCPU(t)
	o := model.Options{Device: d, Limits: limits, Progress: func(loaded, _ int64) { t.Errorf("%d bytes were loaded", loaded) }}
	need, layout, err := loader.Measure(t.Context(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	if need[memory.Weights] < 681728 || need[memory.Activations] < int64(4*limits.MaxTokens*64) || layout.Layers != 3 {
		t.Errorf("need %v, layout %+v", need, layout)
	}
	o.Allocator = newPool(t, d, need.Total()-memory.Alignment)
	if _, err := loader.Load(t.Context(), c, o); !errors.Is(err, memory.ErrLimit) {
		t.Errorf("error %v, want %v", err, memory.ErrLimit)
	}
}

// narrowDevice takes only small heads and vocabularies.
type narrowDevice struct{ device.Device }

func (d narrowDevice) Info() device.Info {
	i := d.Device.Info()
	i.Name, i.MaxHeadDim, i.MaxVocab = "a narrow one", 14, 300
	return i
}

func TestModelsBeyondADevicesKernelsAreRefusedBeforeReading(t *testing.T) {
	c := openCheckpoint(t, filepath.Join("testdata", "llama"))
	_, _, err := loader.Measure(t.Context(), c, model.Options{Device: narrowDevice{openCPU(t)}, Limits: limits})
	for _, want := range []string{
		"heads are 16 wide, want at most 14 on a narrow one", "the vocabulary has 320 tokens, want at most 300 on a narrow one",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want it to say %q", err, want)
		}
	}
}

func TestLoadReportsProgress(t *testing.T) {
	var last, total int64
	calls := 0
	_, err := tryLoad(t, filepath.Join("testdata", "llama"), model.Options{Progress: func(loaded, of int64) {
		if loaded <= last || loaded > of {
			t.Errorf("%d of %d after %d", loaded, of, last)
		}
		last, total = loaded, of
		calls++
	}})
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(684808 - 8 - 3072); last != total || total != want || calls != 30 {
		t.Errorf("%d of %d bytes after %d calls, want %d after 30", last, total, calls, want)
	}
}

func TestLoadStopsWhenCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	d := openCPU(t)
	calls := 0
	o := model.Options{Device: d, Allocator: newPool(t, d, 16<<20), Limits: limits, Progress: func(_, _ int64) {
		calls++
		cancel()
	}}
	_, err := loader.Load(ctx, openCheckpoint(t, filepath.Join("testdata", "llama")), o)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
	if calls == 0 || calls > 16 {
		t.Errorf("%d tensors were loaded, want the first of each core", calls)
	}
}

func TestConstantsGoThroughUpload(t *testing.T) {
	d := openCPU(t)
	calls := 0
	o := model.Options{Device: d, Allocator: newPool(t, d, 16<<20), Limits: limits, Upload: func(dst device.Ptr, src []byte) {
		calls++
		d.Upload(dst, src)
		got := make([]byte, len(src))
		d.Download(got, dst)
		if err := d.Sync(); err != nil || !bytes.Equal(got, src) {
			t.Errorf("uploaded bytes differ, %v", err)
		}
	}}
	if _, err := loader.Load(t.Context(), openCheckpoint(t, filepath.Join("testdata", "llama")), o); err != nil || calls != 1 {
		t.Errorf("%d uploads, want 1; %v", calls, err)
	}
}

func TestLoadRefusesBadOptions(t *testing.T) {
	c := openCheckpoint(t, filepath.Join("testdata", "llama"))
	d := openCPU(t)
	for want, o := range map[string]model.Options{
		"dtype Q8_0":                             {DType: device.Q8_0, Limits: limits},
		"KV type I32":                            {KVType: device.I32, Limits: limits},
		"limits 0 tokens":                        {Limits: model.Limits{MaxSeqs: 1, MaxRows: 1, Context: 1}},
		"limits 1 tokens, 1 sequences, 2 rows":   {Limits: model.Limits{MaxTokens: 1, MaxSeqs: 1, MaxRows: 2, Context: 1}},
		"context 513, want 1 to the model's 512": {Limits: model.Limits{MaxTokens: 1, MaxSeqs: 1, MaxRows: 1, Context: 513}},
	} {
		o.Device, o.Allocator = d, newPool(t, d, 16<<20)
		if _, err := loader.Load(t.Context(), c, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want it to say %q", err, want)
		}
	}
	none := model.Loader{}
	if _, err := none.Load(t.Context(), c, model.Options{Device: d, Limits: limits}); !errors.Is(err, model.ErrUnsupported) {
		t.Errorf("a loader without architectures: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	check := func(path, want string) {
		t.Helper()
		if c, err := model.Open(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want an error that says %q", path, c, err, want)
		}
	}
	check(filepath.Join(dir, "none"), "no such file")
	check(write("a.bin", "not a model"), "not a GGUF file")
	check(dir, "config.json: ")
	write("config.json", "{")
	check(dir, filepath.Join(dir, "config.json")+": key: offset 1")
	write("config.json", strings.Repeat(" ", 1<<20+1))
	check(dir, "config.json: 1048577 bytes, want at most 1048576")
	write("config.json", good)
	check(dir, "no model.safetensors and no model.safetensors.index.json")
	write("generation_config.json", `{"top_p":2}`)
	check(dir, "generation_config.json: top_p: 2")
	write("generation_config.json", `{"eos_token_id":320}`)
	check(dir, "generation_config.json: eos_token_id: 320, want less than")
	if err := os.Remove(filepath.Join(dir, "config.json")); err != nil {
		t.Fatal(err)
	}
	outside, err := filepath.Abs(filepath.Join("testdata", "llama", "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "config.json")); err != nil {
		t.Fatal(err)
	}
	check(dir, "escapes")
	twins := gguftest.File(ggufWith(), f32Tensor("token_embd.weight", 3, 64), f32Tensor("model.embed_tokens.weight", 3, 64))
	check(write("twins.gguf", string(twins)), "tensors token_embd.weight and model.embed_tokens.weight are one")
}

func TestGenerationConfigReplacesEndTokens(t *testing.T) {
	dir := copyCheckpoint(t, unchanged, nil)
	if err := os.WriteFile(filepath.Join(dir, "generation_config.json"), []byte(`{"eos_token_id":[5,4],"temperature":0.5}`), 0o644); err != nil {
		t.Fatal(err)
	}
	c := openCheckpoint(t, dir)
	if fmt.Sprint(c.Config.EOS) != "[4 5]" || *c.Generation.Temperature != 0.5 {
		t.Errorf("end tokens %v, defaults %+v", c.Config.EOS, c.Generation)
	}
}
