package llama_test

import (
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/model"
)

// From the path to packed weights; the file lies in the page cache.
func BenchmarkLoadSmolLM2(b *testing.B) {
	path := os.Getenv("INFERNO_SMOLLM2")
	if path == "" {
		b.Skip("INFERNO_SMOLLM2 is not set to the path of SmolLM2-135M-Instruct.Q4_1.gguf")
	}
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(info.Size())
	benchmarkLoad(b, openCPU(b, native.CPUOptions{}), path)
}

// BenchmarkLoadCUDA loads a checkpoint of the 8B shape, which it writes first: 16 GB, which the page cache then holds.
func BenchmarkLoadCUDA(b *testing.B) {
	folder := os.Getenv("INFERNO_LOAD_FOLDER")
	if folder == "" {
		b.Skip("INFERNO_LOAD_FOLDER is not set to a folder with room for 16 GB")
	}
	d := openCUDA(b, false)
	path := filepath.Join(folder, "inferno-load-8b")
	b.SetBytes(writeRandomCheckpoint(b, filepath.Join("..", "testdata", "shapes", "llama-3.1-8b", "config.json"), path))
	benchmarkLoad(b, d, path)
}

func benchmarkLoad(b *testing.B, d device.Device, path string) {
	b.Helper()
	o := model.Options{Device: d, Limits: model.Limits{MaxTokens: 256, MaxSeqs: 8, MaxRows: 8, Context: 2048}}
	for b.Loop() {
		c, err := model.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		need, _, err := loader.Measure(b.Context(), c, o)
		if err != nil {
			b.Fatal(err)
		}
		pool := newPool(b, d, need.Total())
		o.Allocator = pool
		if _, err := loader.Load(b.Context(), c, o); err != nil {
			b.Fatal(err)
		}
		pool.Close()
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// writeRandomCheckpoint makes a directory of a config and BF16 weights, unless it is there, and returns the bytes of its weights.
func writeRandomCheckpoint(b *testing.B, config, path string) (bytes int64) {
	b.Helper()
	text, err := os.ReadFile(config)
	if err != nil {
		b.Fatal(err)
	}
	c, err := model.ParseConfig(text)
	if err != nil {
		b.Fatal(err)
	}
	type entry struct {
		DType   string   `json:"dtype"`
		Shape   []int    `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	header := map[string]entry{}
	for _, name := range tensorNames(c) {
		shape := tensorShape(c, name)
		size := int64(2)
		for _, n := range shape {
			size *= int64(n)
		}
		header[name] = entry{"BF16", shape, [2]int64{bytes, bytes + size}}
		bytes += size
	}
	encoded, err := json.Marshal(header)
	if err != nil {
		b.Fatal(err)
	}
	for len(encoded)%8 != 0 {
		encoded = append(encoded, ' ')
	}
	start := append(binary.LittleEndian.AppendUint64(nil, uint64(len(encoded))), encoded...)
	file := filepath.Join(path, "model.safetensors")
	if info, err := os.Stat(file); err == nil && info.Size() == int64(len(start))+bytes {
		return bytes
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "config.json"), text, 0o644); err != nil {
		b.Fatal(err)
	}
	if err := fillFile(file, start, bytes); err != nil {
		b.Fatal(err)
	}
	return bytes
}

// fillFile writes start and then so many bytes, on all cores.
func fillFile(name string, start []byte, bytes int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(start); err != nil {
		return err
	}
	const run = 16 << 20
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for at := int64(0); at < bytes; at += run {
		group.Go(func() error {
			block := make([]byte, min(run, bytes-at))
			_, _ = rand.NewChaCha8([32]byte{byte(at >> 24), byte(at >> 32)}).Read(block) // which never fails
			for i := 1; i < len(block); i += 2 {                                         // BF16 of 2⁻⁶ to 2⁻⁵, of either sign
				block[i], block[i-1] = block[i]&0x80|0x3c, block[i-1]|0x80
			}
			_, err := f.WriteAt(block, int64(len(start))+at)
			return err
		})
	}
	return group.Wait()
}

// tensorShape is that of a tensor without bias, by its name.
func tensorShape(c *model.Config, name string) []int {
	queries, keys := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	for part, shape := range map[string][]int{
		"embed_tokens": {c.Vocab, c.Dim}, "lm_head": {c.Vocab, c.Dim}, "q_proj": {queries, c.Dim}, "k_proj": {keys, c.Dim}, "v_proj": {keys, c.Dim},
		"o_proj": {c.Dim, queries}, "gate_proj": {c.FFNDim, c.Dim}, "up_proj": {c.FFNDim, c.Dim}, "down_proj": {c.Dim, c.FFNDim},
	} {
		if strings.Contains(name, part) {
			return shape
		}
	}
	return []int{c.Dim} // a norm
}
