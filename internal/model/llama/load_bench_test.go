package llama_test

import (
	"os"
	"testing"

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
	d := openCPU(b, native.CPUOptions{})
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
