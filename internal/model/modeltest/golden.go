package modeltest

import (
	"encoding/binary"
	"fmt"
	"math"
	"testing"

	"github.com/inferno-serve/inferno/internal/model/safetensors"
)

// Prompt is one of a golden file, made by somebody else's code.
type Prompt struct {
	Tokens []int32
	Logits [][]float32 // [t][v] at every position
	Greedy []int32     // what follows, the likeliest token each time
	Margin []float32   // of the likeliest logit over the next one, for each of them
}

// ReadGolden reads a golden file beside a tiny checkpoint.
func ReadGolden(t testing.TB, path string) (prompts []Prompt) {
	t.Helper()
	tensors := readTensors(t, path)
	for i := 0; tensors[fmt.Sprintf("prompt_%d", i)].shape != nil; i++ {
		named := func(name string) tensor { return tensors[fmt.Sprintf("%s_%d", name, i)] }
		p := Prompt{Tokens: named("prompt").ints(), Greedy: named("greedy").ints(), Margin: named("margin").floats()}
		flat, v := named("logits").floats(), named("logits").shape[1]
		for ; len(flat) > 0; flat = flat[v:] {
			p.Logits = append(p.Logits, flat[:v])
		}
		prompts = append(prompts, p)
	}
	if len(prompts) == 0 {
		t.Fatalf("%s holds no prompt", path)
	}
	return prompts
}

// tensor is the bytes of one.
type tensor struct {
	shape []int
	bytes []byte
}

func readTensors(t testing.TB, path string) map[string]tensor {
	t.Helper()
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]tensor{}
	for _, x := range f.Tensors() {
		b := make([]byte, x.Bytes)
		if _, err := x.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		all[x.Name] = tensor{x.Shape, b}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return all
}

// ints is a tensor of int64.
func (x tensor) ints() (all []int32) {
	for b := x.bytes; len(b) > 0; b = b[8:] {
		all = append(all, int32(binary.LittleEndian.Uint64(b)))
	}
	return all
}

// floats is a tensor of float32.
func (x tensor) floats() (all []float32) {
	for b := x.bytes; len(b) > 0; b = b[4:] {
		all = append(all, math.Float32frombits(binary.LittleEndian.Uint32(b)))
	}
	return all
}
