package modeltest

import (
	"fmt"
	"math"
	"path/filepath"
	"testing"

	"github.com/inferno-serve/inferno/internal/model"
)

// Reference computes a tiny Llama in float64 and in the plainest way, from the weights of its file: without a device, a cache, batches or any
// code of the package under test but the parser of its config. It knows grouped queries, unscaled RoPE over the pairs (i, i + k/2), and a
// head of its own; not biases or tied heads.
type Reference struct {
	config  *model.Config
	weights map[string]tensor
	floats  map[string][]float32
}

// NewReference reads model.safetensors in dir, all of whose tensors are F32.
func NewReference(t testing.TB, dir string) *Reference {
	t.Helper()
	c, err := model.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if c.Config.Tied || c.Config.QKVBias || c.Config.Rope.Kind != model.RopeNone {
		t.Fatalf("%s has what the reference does not know", dir)
	}
	return &Reference{config: c.Config, weights: readTensors(t, filepath.Join(dir, "model.safetensors")), floats: map[string][]float32{}}
}

// Hidden is the hidden state behind the last norm at each position.
func (r *Reference) Hidden(tokens []int32) [][]float64 {
	c := r.config
	x := make([][]float64, len(tokens))
	for i, id := range tokens {
		for _, v := range r.weight("model.embed_tokens")[int(id)*c.Dim:][:c.Dim] {
			x[i] = append(x[i], float64(v))
		}
	}
	for l := range c.Layers {
		name := fmt.Sprintf("model.layers.%d.", l)
		r.attend(name, x)
		for i := range x {
			h := r.norm(name+"post_attention_layernorm", x[i])
			gate, up := r.product(name+"mlp.gate_proj", h), r.product(name+"mlp.up_proj", h)
			for j := range gate {
				gate[j] *= up[j] / (1 + math.Exp(-gate[j]))
			}
			add(x[i], r.product(name+"mlp.down_proj", gate))
		}
	}
	for i := range x {
		x[i] = r.norm("model.norm", x[i])
	}
	return x
}

// Logits is what the output head makes of a hidden state.
func (r *Reference) Logits(hidden []float64) []float64 { return r.product("lm_head", hidden) }

// attend adds a layer's attention to x.
func (r *Reference) attend(name string, x [][]float64) {
	c := r.config
	var queries, keys, values [][]float64
	for i := range x {
		h := r.norm(name+"input_layernorm", x[i])
		q, k := r.product(name+"self_attn.q_proj", h), r.product(name+"self_attn.k_proj", h)
		r.rotate(q, i)
		r.rotate(k, i)
		queries, keys, values = append(queries, q), append(keys, k), append(values, r.product(name+"self_attn.v_proj", h))
	}
	for i := range x {
		out := make([]float64, c.Heads*c.HeadDim)
		for head := range c.Heads {
			at, from := head*c.HeadDim, head/(c.Heads/c.KVHeads)*c.HeadDim
			weights, sum := make([]float64, i+1), 0.0
			for j := range weights {
				weights[j] = math.Exp(dot(queries[i][at:at+c.HeadDim], keys[j][from:from+c.HeadDim]) / math.Sqrt(float64(c.HeadDim)))
				sum += weights[j]
			}
			for j, w := range weights {
				for k := range c.HeadDim {
					out[at+k] += w / sum * values[j][from+k]
				}
			}
		}
		add(x[i], r.product(name+"self_attn.o_proj", out))
	}
}

// rotate turns the pairs (i, i + k/2) of each head.
func (r *Reference) rotate(heads []float64, position int) {
	k := r.config.HeadDim
	for from := 0; from < len(heads); from += k {
		for i := range k / 2 {
			sin, cos := math.Sincos(float64(position) * math.Pow(r.config.Rope.Theta, -2*float64(i)/float64(k)))
			a, b := &heads[from+i], &heads[from+i+k/2]
			*a, *b = *a*cos-*b*sin, *b*cos+*a*sin
		}
	}
}

func (r *Reference) norm(name string, x []float64) []float64 {
	scale := 1 / math.Sqrt(dot(x, x)/float64(len(x))+float64(r.config.Epsilon))
	out := make([]float64, len(x))
	for i, w := range r.weight(name) {
		out[i] = x[i] * scale * float64(w)
	}
	return out
}

// product is W·x.
func (r *Reference) product(name string, x []float64) []float64 {
	w := r.weight(name)
	out := make([]float64, len(w)/len(x))
	for i := range out {
		for j, v := range w[i*len(x):][:len(x)] {
			out[i] += float64(v) * x[j]
		}
	}
	return out
}

func (r *Reference) weight(name string) []float32 {
	if r.floats[name] == nil {
		r.floats[name] = r.weights[name+".weight"].floats()
	}
	return r.floats[name]
}

func dot(a, b []float64) (sum float64) {
	for i := range a {
		sum += a[i] * b[i]
	}
	return sum
}

func add(x, y []float64) {
	for i := range x {
		x[i] += y[i]
	}
}
