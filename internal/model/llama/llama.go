// Package llama computes Llama and its kin (arXiv:2302.13971; grouped queries, arXiv:2305.13245) over the ops of a device. A Model belongs
// to the goroutine that drives its device; it allocates nothing after New.
package llama

import (
	"context"
	"fmt"
	"math"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/memory"
	"github.com/inferno-serve/inferno/internal/model"
)

// Model is a llama on a device.
type Model struct {
	config   *model.Config
	device   device.Device
	kvLayout model.KVLayout

	embedding device.Weight // [v, d]
	layers    []layer
	norm      device.Tensor // [d]
	head      device.Weight // [v, d]; the embedding where they are tied
	freq      device.Tensor // [k/2]
	ropeScale float32

	act     activations
	product [1]device.Product  // of the op being enqueued, and
	next    device.NormQKVArgs // of the one that goes on into the next layer
}

type layer struct {
	attentionNorm, mlpNorm device.Tensor // [d]
	q, k, v, o             projection    // [h·k, d], [g·k, d], [g·k, d], [d, h·k]
	gate, up, down         projection    // [f, d], [f, d], [d, f]
}

type projection struct {
	weight device.Weight
	bias   device.Tensor // Data 0: none
}

// activations hold a step's values, one row a token, in the type that the device computes in; the rotations are F32 on every device.
type activations struct {
	x         device.Tensor // [n, d] the residual stream
	normed    device.Tensor // [n, d] scratch, as key, value and up are
	q         device.Tensor // [n, h·k]
	key       device.Tensor // [n, g·k]
	value     device.Tensor // [n, g·k]
	attention device.Tensor // [n, h·k]
	gated, up device.Tensor // [n, f]
	rope      device.Tensor // [n, k]
	last      device.Tensor // [r, d] the residual stream of the rows that want logits
}

// New is the model.Builder of this architecture.
func New(ctx context.Context, c *model.Checkpoint, o model.Options) (model.Model, error) {
	m := &Model{config: c.Config, device: o.Device, layers: make([]layer, c.Config.Layers)}
	w := model.NewWeights(c, o)
	m.declare(w, c.RopeInterleaved)
	m.kvLayout = model.KVLayout{
		Layers: c.Config.Layers, Heads: c.Config.KVHeads, HeadDim: c.Config.HeadDim, DType: w.KVType(),
	}
	if err := m.act.allocate(o.Allocator, c.Config, o.Limits, w.ActivationType()); err != nil {
		return nil, err
	}
	if err := w.Load(ctx); err != nil {
		return nil, err
	}
	if m.config.Tied {
		m.head = m.embedding
	}
	return m, nil
}

// declare names every tensor of the architecture.
func (m *Model) declare(w *model.Weights, interleaved bool) {
	c := m.config
	queries, keys := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	var queryOrder, keyOrder []int32
	if !interleaved {
		queryOrder, keyOrder = model.RotaryOrder(c.Heads, c.HeadDim), model.RotaryOrder(c.KVHeads, c.HeadDim)
	}
	project := func(p *projection, name string, rows, cols int, bias bool, order []int32) {
		w.Matrix(&p.weight, name+".weight", rows, cols, order)
		if bias {
			w.Vector(&p.bias, name+".bias", rows, order)
		}
	}
	w.Matrix(&m.embedding, "model.embed_tokens.weight", c.Vocab, c.Dim, nil)
	for i := range m.layers {
		l, name := &m.layers[i], fmt.Sprintf("model.layers.%d.", i)
		w.Vector(&l.attentionNorm, name+"input_layernorm.weight", c.Dim, nil)
		project(&l.q, name+"self_attn.q_proj", queries, c.Dim, c.QKVBias, queryOrder)
		project(&l.k, name+"self_attn.k_proj", keys, c.Dim, c.QKVBias, keyOrder)
		project(&l.v, name+"self_attn.v_proj", keys, c.Dim, c.QKVBias, nil)
		project(&l.o, name+"self_attn.o_proj", c.Dim, queries, c.OutputBias, nil)
		w.Vector(&l.mlpNorm, name+"post_attention_layernorm.weight", c.Dim, nil)
		project(&l.gate, name+"mlp.gate_proj", c.FFNDim, c.Dim, c.MLPBias, nil)
		project(&l.up, name+"mlp.up_proj", c.FFNDim, c.Dim, c.MLPBias, nil)
		project(&l.down, name+"mlp.down_proj", c.Dim, c.FFNDim, c.MLPBias, nil)
	}
	w.Vector(&m.norm, "model.norm.weight", c.Dim, nil)
	if c.Tied {
		w.Ignore("lm_head.weight") // some files keep a copy of the embedding
	} else {
		w.Matrix(&m.head, "lm_head.weight", c.Vocab, c.Dim, nil)
	}
	freq, scale := c.Rope.Frequencies(c.HeadDim)
	w.Constant(&m.freq, freq)
	m.ropeScale = scale
}

func (a *activations) allocate(from memory.Allocator, c *model.Config, l model.Limits, t device.DType) error {
	for _, x := range []struct {
		tensor     *device.Tensor
		dtype      device.DType
		rows, cols int
	}{
		{&a.x, t, l.MaxTokens, c.Dim}, {&a.normed, t, l.MaxTokens, c.Dim},
		{&a.q, t, l.MaxTokens, c.Heads * c.HeadDim}, {&a.attention, t, l.MaxTokens, c.Heads * c.HeadDim},
		{&a.key, t, l.MaxTokens, c.KVHeads * c.HeadDim}, {&a.value, t, l.MaxTokens, c.KVHeads * c.HeadDim},
		{&a.gated, t, l.MaxTokens, c.FFNDim}, {&a.up, t, l.MaxTokens, c.FFNDim},
		{&a.rope, device.F32, l.MaxTokens, c.HeadDim}, {&a.last, t, l.MaxRows, c.Dim},
	} {
		var err error
		if *x.tensor, err = memory.NewTensor(from, memory.Activations, x.dtype, x.rows, x.cols); err != nil {
			return fmt.Errorf("activations: %w", err)
		}
	}
	return nil
}

// top is the first n rows of all of a; of last at most what it has.
func (a *activations) top(n int) activations {
	return activations{
		x: a.x.Top(n), normed: a.normed.Top(n), q: a.q.Top(n), key: a.key.Top(n), value: a.value.Top(n), attention: a.attention.Top(n),
		gated: a.gated.Top(n), up: a.up.Top(n), rope: a.rope.Top(n), last: a.last.Top(min(n, a.last.Rows)),
	}
}

// Config is the checkpoint's.
func (m *Model) Config() *model.Config { return m.config }

// KVLayout is one layer's keys and values.
func (m *Model) KVLayout() model.KVLayout { return m.kvLayout }

// Forward enqueues a step of n tokens. All that it reads but the weights lies in b and kv.
func (m *Model) Forward(b *model.Batch, kv *model.KV) {
	d, n, r := m.device, b.Tokens.Len(), b.LogitRows.Len()
	a := m.act.top(n)

	d.Embed(a.x, m.embedding, b.Tokens)
	d.RopeTable(a.rope, b.Positions, m.freq, m.ropeScale)
	d.NormQKV(m.queriesKeysValues(&a, b, kv, 0))
	for i := range m.layers {
		last := i == len(m.layers)-1
		if last && r == 0 && b.Pooled.Rows == 0 {
			return // the cache is written
		}
		m.attend(&a, b, kv, i)
		if last && b.Pooled.Rows == 0 && !b.AllRows {
			// From here on only the rows that want logits matter.
			attended := a.attention
			a = m.wanted(a, b)
			a.attention = a.q
			d.GatherRows(a.attention, attended, b.LogitRows)
		}
		rest := m.output(&a, i)
		if !last {
			m.next = m.queriesKeysValues(&a, b, kv, i+1)
			rest.Next = &m.next
		}
		d.Dense(rest)
	}
	if b.Pooled.Rows > 0 {
		d.RMSNorm(a.normed, a.x, m.norm, m.config.Epsilon)
		d.Pool(b.Pooled, a.normed, b.PoolFrom, b.PoolTo)
		if r == 0 {
			return
		}
		a = m.wanted(a, b)
	}
	d.NormMatMul(m.normalise(&a, m.norm), m.one(device.Product{W: m.head, Out: b.Logits}))
}

// wanted is a with the rows of the residual stream alone that want logits.
func (m *Model) wanted(a activations, b *model.Batch) activations {
	if b.AllRows {
		return a
	}
	rows := m.act.top(b.LogitRows.Len())
	m.device.GatherRows(rows.last, a.x, b.LogitRows)
	rows.x = rows.last
	return rows
}

// queriesKeysValues of layer i, over a.x.
func (m *Model) queriesKeysValues(a *activations, b *model.Batch, kv *model.KV, i int) device.NormQKVArgs {
	l := &m.layers[i]
	return device.NormQKVArgs{
		Norm: m.normalise(a, l.attentionNorm), Q: l.q.to(a.q), K: l.k.to(a.key), V: l.v.to(a.value),
		Table: a.rope, Heads: m.config.Heads, Slots: b.Slots, KCache: kv.K[i], VCache: kv.V[i], Shape: m.shape(kv),
	}
}

// attend is the attention of layer i. Sequences of one row are attended apart, where others follow: a kernel that takes many rows of a sequence
// at once has a place for each sequence of its batch, and hundreds that have nothing to do there cost more than the few that have.
func (m *Model) attend(a *activations, b *model.Batch, kv *model.KV, i int) {
	all, n := m.attention(a, b, kv, i), b.Singles
	if n == 0 {
		m.device.Attention(all)
		return
	}
	singles, rest := all, all
	singles.Out, singles.Q, singles.BlockTable = all.Out.Top(n), all.Q.Top(n), all.BlockTable.Top(n)
	singles.QueryStart, singles.KVLen = all.QueryStart.Columns(0, n+1), all.KVLen.Columns(0, n)
	m.device.Attention(singles)
	rest.Out, rest.Q, rest.BlockTable = all.Out.From(n), all.Q.From(n), all.BlockTable.From(n)
	rest.QueryStart, rest.KVLen = b.RestStart, all.KVLen.Columns(n, all.KVLen.Cols)
	m.device.Attention(rest)
}

// attention of layer i.
func (m *Model) attention(a *activations, b *model.Batch, kv *model.KV, i int) device.AttentionArgs {
	return device.AttentionArgs{
		Out: a.attention, Q: a.q, KCache: kv.K[i], VCache: kv.V[i],
		BlockTable: b.BlockTable, QueryStart: b.QueryStart, KVLen: b.KVLen,
		Heads: m.config.Heads, Shape: m.shape(kv), Scale: float32(1 / math.Sqrt(float64(m.config.HeadDim))),
	}
}

// output is what layer i adds to a.x: the projection of its attention, then its MLP.
func (m *Model) output(a *activations, i int) device.DenseArgs {
	l := &m.layers[i]
	return device.DenseArgs{
		Attended: a.attention, O: l.o.addTo(a.x),
		MLP: device.NormGateUpArgs{
			Norm: m.normalise(a, l.mlpNorm),
			Gate: l.gate.weight, GateBias: l.gate.bias, Up: l.up.weight, UpBias: l.up.bias, Out: a.gated, Scratch: a.up,
		},
		Down: l.down.addTo(a.x),
	}
}

func (m *Model) shape(kv *model.KV) device.KVShape {
	return device.KVShape{Heads: m.config.KVHeads, HeadDim: m.config.HeadDim, BlockSize: kv.BlockSize}
}

// normalise is the RMSNorm of the residual stream by weight w.
func (m *Model) normalise(a *activations, w device.Tensor) device.Norm {
	return device.Norm{X: a.x, W: w, Normed: a.normed, Eps: m.config.Epsilon}
}

// one is p alone; the slice is the model's own, so that a step allocates nothing.
func (m *Model) one(p device.Product) []device.Product {
	m.product[0] = p
	return m.product[:]
}

func (p *projection) to(out device.Tensor) device.Product {
	return device.Product{W: p.weight, Bias: p.bias, Out: out}
}

func (p *projection) addTo(out device.Tensor) device.Product {
	return device.Product{W: p.weight, Bias: p.bias, Out: out, Accumulate: true}
}
