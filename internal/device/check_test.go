package device

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

// The addresses are never read: a Check sees the description only.
const at = Ptr(4096)

func f32(rows, cols int) Tensor { return Matrix(at, F32, rows, cols) }
func i32(n int) Tensor          { return Vector(at, I32, n) }

// elsewhere is t at another address.
func elsewhere(t Tensor) Tensor {
	t.Data += 4096
	return t
}

func weight(t DType, rows, cols int) Weight {
	return Weight{Data: at, DType: t, Rows: rows, Cols: cols}
}

// args holds good arguments of every op; a case spoils one of them.
type args struct {
	out, x, w, ids, a, b  Tensor
	table, pos, freq      Tensor
	weight                Weight
	eps, scale            float32
	heads                 int
	products              []Product
	store                 StoreKVArgs
	attention             AttentionArgs
	sample                SampleArgs
	logProbs              LogProbsArgs
	pooled                Tensor
	poolFrom, poolTo      Tensor
	gathered, rows        Tensor
	embedded, gate, upper Tensor
	norm                  Norm
	gateUp                NormGateUpArgs
	qkv                   NormQKVArgs
	dense                 DenseArgs
	pulled, pulledFrom    Tensor
	told                  Tensor
}

func good() *args {
	shape := KVShape{Heads: 2, HeadDim: 16, BlockSize: 8}
	cache := Matrix(at, F16, 5, shape.Elements())
	norm := Norm{X: elsewhere(f32(3, 64)), W: Vector(at, F32, 64), Normed: f32(3, 64), Eps: 1e-5}
	gateUp := NormGateUpArgs{
		Norm: norm, Gate: weight(BF16, 96, 64), Up: weight(Q8_0, 96, 64), UpBias: Vector(at, F32, 96), Out: f32(3, 96), Scratch: f32(3, 96),
	}
	qkv := NormQKVArgs{
		Norm: norm, Q: Product{W: weight(Q8_0, 64, 64), Out: f32(3, 64)}, K: Product{W: weight(BF16, 32, 64), Out: f32(3, 32)},
		V:     Product{W: weight(BF16, 32, 64), Bias: Vector(at, F32, 32), Out: f32(3, 32)},
		Table: f32(3, 16), Heads: 4, Slots: i32(3), KCache: cache, VCache: cache, Shape: shape,
	}
	next := qkv
	return &args{
		out: f32(3, 64), x: f32(3, 64), w: Vector(at, F32, 64), ids: i32(3), a: f32(3, 64), b: f32(3, 64),
		table: f32(3, 16), pos: i32(3), freq: Vector(at, F32, 8),
		weight: weight(Q4_0, 100, 64),
		eps:    1e-5, scale: 1, heads: 4,
		products: []Product{
			{W: weight(Q8_0, 7, 64), Out: f32(3, 7)},
			{W: weight(BF16, 9, 64), Bias: Vector(at, F32, 9), Out: f32(3, 20).Columns(4, 13), Accumulate: true},
		},
		store: StoreKVArgs{Key: f32(3, 32), Value: f32(3, 32), Slots: i32(3), KCache: cache, VCache: cache, Shape: shape},
		attention: AttentionArgs{
			Out: f32(3, 64), Q: f32(3, 64), KCache: cache, VCache: cache, BlockTable: Matrix(at, I32, 2, 4),
			QueryStart: i32(3), KVLen: i32(2), Heads: 4, Shape: shape, Scale: 0.25,
		},
		logProbs: LogProbsArgs{
			Logits: f32(2, 100), Rows: i32(3), Chosen: i32(3), IDs: Matrix(at, I32, 3, 4), Top: 5, Out: Matrix(at, I32, 3, 16),
		},
		pooled: f32(2, 64), poolFrom: i32(2), poolTo: i32(2),
		sample: SampleArgs{
			Logits: f32(2, 100), Params: Matrix(at, I32, 2, 12), Banned: Matrix(at, I32, 2, 5), IDs: i32(2),
		},
		gathered: f32(2, 64), rows: i32(2),
		embedded: f32(3, 64), gate: f32(3, 64), upper: f32(3, 64),
		norm:   norm,
		gateUp: gateUp, qkv: qkv,
		dense: DenseArgs{
			Attended: f32(3, 32), O: Product{W: weight(Q8_0, 64, 32), Out: norm.X, Accumulate: true}, MLP: gateUp,
			Down: Product{W: weight(BF16, 64, 96), Bias: Vector(at, F32, 64), Out: norm.X, Accumulate: true}, Next: &next,
		},
		pulled: i32(7), pulledFrom: Matrix(at, I32, 2, 7), told: Matrix(at, I32, 2, 3),
	}
}

var checks = map[string]func(*args){
	"Embed":       func(a *args) { CheckEmbed(a.embedded, a.weight, a.ids) },
	"RMSNorm":     func(a *args) { CheckRMSNorm(a.out, a.x, a.w, a.eps) },
	"MatMul":      func(a *args) { CheckMatMul(a.x, a.products) },
	"RopeTable":   func(a *args) { CheckRopeTable(a.table, a.pos, a.freq, a.scale) },
	"Rope":        func(a *args) { CheckRope(a.x, a.table, a.heads) },
	"StoreKV":     func(a *args) { CheckStoreKV(a.store) },
	"RopeStoreKV": func(a *args) { CheckRopeStoreKV(a.x, a.table, a.heads, a.store) },
	"Attention":   func(a *args) { CheckAttention(a.attention) },
	"SwiGLU":      func(a *args) { CheckSwiGLU(a.out, a.gate, a.upper) },
	"Add":         func(a *args) { CheckAdd(a.out, a.a, a.b) },
	"GatherRows":  func(a *args) { CheckGatherRows(a.gathered, a.x, a.rows) },
	"Sample":      func(a *args) { CheckSample(a.sample) },
	"LogProbs":    func(a *args) { CheckLogProbs(a.logProbs) },
	"Pool":        func(a *args) { CheckPool(a.pooled, a.x, a.poolFrom, a.poolTo) },
	"NormMatMul":  func(a *args) { CheckNormMatMul(a.norm, a.products) },
	"NormGateUp":  func(a *args) { CheckNormGateUp(a.gateUp) },
	"NormQKV":     func(a *args) { CheckNormQKV(a.qkv) },
	"Dense":       func(a *args) { CheckDense(a.dense) },
	"Pull":        func(a *args) { CheckPull(a.pulled, a.pulledFrom) },
	"Scatter":     func(a *args) { CheckScatter(a.pulled, a.ids, a.pos) },
	"Feed":        func(a *args) { CheckFeed(a.ids, a.pos, a.pulled) },
	"Mark":        func(a *args) { CheckMark(a.pos, a.told) },
}

func TestGoodArgumentsPass(t *testing.T) {
	for _, check := range checks {
		check(good())
	}
	for name, change := range map[string]func(*args){
		"nothing to tell": func(*args) { CheckMark(Tensor{}, Tensor{}) },
		"the last layer":  func(a *args) { a.dense.Next = nil },
		"no ban list":     func(a *args) { a.sample.Banned = Tensor{} },
		"bf16 activations": func(a *args) {
			a.out.DType, a.x.DType, a.gate.DType, a.upper.DType, a.a.DType, a.b.DType = BF16, BF16, BF16, BF16, BF16, BF16
			a.embedded.DType, a.gathered.DType, a.products[0].Out.DType = F16, BF16, BF16
			a.store.Key.DType, a.store.Value.DType, a.attention.Q.DType, a.attention.Out.DType = BF16, BF16, BF16, BF16
			a.norm.X.DType, a.norm.Normed.DType = BF16, BF16
			a.gateUp.Norm, a.gateUp.Out.DType, a.gateUp.Scratch.DType = a.norm, BF16, BF16
			a.qkv.Norm, a.qkv.Q.Out.DType, a.qkv.K.Out.DType, a.qkv.V.Out.DType = a.norm, BF16, BF16, BF16
		},
		"vectors as columns": func(a *args) { a.ids, a.w = Matrix(at, I32, 3, 1), Matrix(at, F32, 64, 1) },
		"in place":           func(a *args) { a.out = a.x },
		"strided":            func(a *args) { a.x.Stride, a.store.Key.Stride, a.attention.BlockTable.Stride = 100, 96, 9 },
	} {
		t.Run(name, func(t *testing.T) {
			for _, check := range checks {
				a := good()
				change(a)
				check(a)
			}
		})
	}
}

func TestBadArgumentsPanic(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, c := range []struct {
		op    string
		spoil func(*args)
		want  []string // all of them stand in the message
	}{
		{"Embed", func(a *args) { a.embedded.Data = 0 }, []string{"out", "no data"}},
		{"Embed", func(a *args) { a.embedded.DType = I32 }, []string{"out", "I32[3 64]", "F32"}},
		{"Embed", func(a *args) { a.embedded.Rows = 0 }, []string{"out", "F32[0 64]", "at least 1 row"}},
		{"Embed", func(a *args) { a.embedded.Stride = 63 }, []string{"out", "stride 63", "64 columns"}},
		{"Embed", func(a *args) { a.weight.Cols = 32 }, []string{"table", "[100 32]", "64 columns"}},
		{"Embed", func(a *args) { a.weight.Data = 0 }, []string{"table", "no data"}},
		{"Embed", func(a *args) { a.weight.DType = I32 }, []string{"table", "I32", "quantised"}},
		{"Embed", func(a *args) { a.weight.DType = 99 }, []string{"table", "DType(99)"}},
		{"Embed", func(a *args) { a.weight.Rows = 0 }, []string{"table", "[0 64]", "at least 1 row"}},
		{"Embed", func(a *args) { a.weight.Cols, a.embedded.Cols = 48, 48 }, []string{"table", "[100 48]", "multiple of 32"}},
		{"Embed", func(a *args) { a.ids = i32(4) }, []string{"ids", "I32[1 4]", "3 I32"}},
		{"Embed", func(a *args) { a.ids.DType = F32 }, []string{"ids", "F32[1 3]", "3 I32"}},
		{"Embed", func(a *args) { a.ids.Data = 0 }, []string{"ids", "no data"}},
		{"Embed", func(a *args) { a.ids = Tensor{at, I32, 3, 1, 2} }, []string{"ids", "stride 2", "stride 1"}},

		{"Pull", func(a *args) { a.pulled = i32(6) }, []string{"dst", "I32[1 6]", "7 I32"}},
		{"Pull", func(a *args) { a.pulledFrom.Stride = 6 }, []string{"src", "stride 6", "7 columns"}},
		{"Scatter", func(a *args) { a.pos = i32(4) }, []string{"values", "I32[1 4]", "3 I32"}},
		{"Scatter", func(a *args) { a.pulled.DType = F32 }, []string{"dst", "F32[1 7]", "7 I32"}},
		{"Feed", func(a *args) { a.pos = i32(2) }, []string{"from", "I32[1 2]", "3 I32"}},
		{"Feed", func(a *args) { a.pulled.Data = 0 }, []string{"ids", "no data"}},
		{"Mark", func(a *args) { a.told = Matrix(at, I32, 2, 2) }, []string{"values", "I32[1 3]", "2 I32"}},

		{"RMSNorm", func(a *args) { a.x.DType = Q8_0 }, []string{"x", "Q8_0[3 64]", "F32"}},
		{"RMSNorm", func(a *args) { a.out.Cols = 32 }, []string{"out", "F32[3 32]", "F32[3 64]"}},
		{"RMSNorm", func(a *args) { a.out.DType = BF16 }, []string{"out", "BF16[3 64]", "F32[3 64]"}},
		{"RMSNorm", func(a *args) { a.w = Vector(at, F32, 65) }, []string{"w", "F32[1 65]", "64 F32"}},
		{"RMSNorm", func(a *args) { a.w.DType = BF16 }, []string{"w", "BF16[1 64]", "64 F32"}},
		{"RMSNorm", func(a *args) { a.w.Data += 2 }, []string{"w", "0x1002", "multiple of 4"}},
		{"RMSNorm", func(a *args) { a.eps = -1 }, []string{"eps", "-1", "at least 0"}},
		{"RMSNorm", func(a *args) { a.eps = nan }, []string{"eps", "NaN"}},

		{"MatMul", func(a *args) { a.products = nil }, []string{"products", "0", "1 to 3"}},
		{"MatMul", func(a *args) { a.products = make([]Product, 4) }, []string{"products", "4", "1 to 3"}},
		{"MatMul", func(a *args) { a.x.Data = 0 }, []string{"x", "no data"}},
		{"MatMul", func(a *args) { a.x.Stride = 1 }, []string{"x", "stride 1", "64 columns"}},
		{"MatMul", func(a *args) { a.products[1].W.Cols = 65 }, []string{"W", "[9 65]", "64 columns"}},
		{"MatMul", func(a *args) { a.products[0].W.DType = I32 }, []string{"W", "I32 weight", "quantised"}},
		{"MatMul", func(a *args) { a.x = f32(3, 48); a.products[0].W.Cols = 48 }, []string{"W", "[7 48]", "multiple of 32"}},
		{"MatMul", func(a *args) { a.products[0].Out = f32(3, 8) }, []string{"Out", "F32[3 8]", "F32[3 7]"}},
		{"MatMul", func(a *args) { a.products[0].Out = f32(2, 7) }, []string{"Out", "F32[2 7]", "F32[3 7]"}},
		{"MatMul", func(a *args) { a.products[0].Out.DType = F16 }, []string{"Out", "F16[3 7]", "F32[3 7]"}},
		{"MatMul", func(a *args) { a.products[0].Out.Data = 0 }, []string{"Out", "no data"}},
		{"MatMul", func(a *args) { a.products[1].Out.Stride = 8 }, []string{"Out", "stride 8", "9 columns"}},
		{"MatMul", func(a *args) { a.products[1].Bias = Vector(at, F32, 8) }, []string{"Bias", "F32[1 8]", "9 F32"}},
		{"MatMul", func(a *args) { a.products[1].Bias.DType = BF16 }, []string{"Bias", "BF16[1 9]", "9 F32"}},

		{"RopeTable", func(a *args) { a.table.DType = F16 }, []string{"table", "F16[3 16]", "F32[3 16]"}},
		{"RopeTable", func(a *args) { a.table.Cols = 15 }, []string{"head dim", "15", "even"}},
		{"RopeTable", func(a *args) { a.pos = i32(2) }, []string{"pos", "I32[1 2]", "3 I32"}},
		{"RopeTable", func(a *args) { a.freq = Vector(at, F32, 16) }, []string{"freq", "F32[1 16]", "8 F32"}},
		{"RopeTable", func(a *args) { a.scale = 0 }, []string{"scale", "0", "positive"}},

		{"Rope", func(a *args) { a.heads = 0 }, []string{"heads", "0", "1 to"}},
		{"Rope", func(a *args) { a.heads = 3 }, []string{"x", "F32[3 64]", "F32[3 48]"}},
		{"Rope", func(a *args) { a.table = f32(2, 16) }, []string{"table", "F32[2 16]", "F32[3 16]"}},
		{"Rope", func(a *args) { a.table.Cols = 7 }, []string{"head dim", "7", "even"}},
		{"Rope", func(a *args) { a.x.DType = I32 }, []string{"x", "I32[3 64]", "BF16"}},

		{"StoreKV", func(a *args) { a.store.Shape.Heads = 0 }, []string{"Shape.Heads", "0", "1 to"}},
		{"StoreKV", func(a *args) { a.store.Shape.BlockSize = 0 }, []string{"Shape.BlockSize", "0", "1 to"}},
		{"StoreKV", func(a *args) { a.store.Shape.HeadDim = 5 }, []string{"Shape.HeadDim", "5", "even"}},
		{"StoreKV", func(a *args) { a.store.Key = f32(3, 33) }, []string{"Key", "F32[3 33]", "F32[3 32]"}},
		{"StoreKV", func(a *args) { a.store.Value = f32(2, 32) }, []string{"Value", "F32[2 32]", "F32[3 32]", "Key"}},
		{"StoreKV", func(a *args) { a.store.Slots = i32(4) }, []string{"Slots", "I32[1 4]", "3 I32"}},
		{"StoreKV", func(a *args) { a.store.KCache.DType = Q8_0 }, []string{"KCache", "Q8_0", "F16"}},
		{"StoreKV", func(a *args) { a.store.KCache.Cols = 255 }, []string{"KCache", "F16[5 255]", "F16[5 256]"}},
		{"StoreKV", func(a *args) { a.store.VCache.Rows = 4 }, []string{"VCache", "F16[4 256]", "F16[5 256]"}},
		{"StoreKV", func(a *args) { a.store.VCache.DType = F32 }, []string{"VCache", "F32[5 256]", "F16[5 256]"}},
		{"StoreKV", func(a *args) { a.store.VCache.Data++ }, []string{"VCache", "0x1001", "multiple of 2"}},

		{"RopeStoreKV", func(a *args) { a.heads = 3 }, []string{"3 heads", "2 KV heads"}},
		{"RopeStoreKV", func(a *args) { a.heads = 2 }, []string{"q", "F32[3 64]", "F32[3 32]"}},
		{"RopeStoreKV", func(a *args) { a.table = f32(3, 32) }, []string{"table", "F32[3 32]", "F32[3 16]"}},
		{"RopeStoreKV", func(a *args) { a.x, a.table = f32(2, 64), f32(2, 16) }, []string{"Key", "F32[3 32]", "F32[2 32]"}},
		{"RopeStoreKV", func(a *args) { a.x.DType = BF16 }, []string{"Key", "F32[3 32]", "BF16[3 32]"}},
		{"RopeStoreKV", func(a *args) { a.store.Slots.Data = 0 }, []string{"Slots", "no data"}},

		{"Attention", func(a *args) { a.attention.Heads = 3 }, []string{"3 heads", "2 KV heads"}},
		{"Attention", func(a *args) { a.attention.Shape.Heads = -1 }, []string{"Shape.Heads", "-1"}},
		{"Attention", func(a *args) { a.attention.Q = f32(3, 60) }, []string{"Q", "F32[3 60]", "F32[3 64]"}},
		{"Attention", func(a *args) { a.attention.Out = f32(2, 64) }, []string{"Out", "F32[2 64]", "F32[3 64]", "Q"}},
		{"Attention", func(a *args) { a.attention.KCache.Cols = 128 }, []string{"KCache", "F16[5 128]", "F16[5 256]"}},
		{"Attention", func(a *args) { a.attention.VCache.Stride = 8 }, []string{"VCache", "stride 8", "256 columns"}},
		{"Attention", func(a *args) { a.attention.BlockTable.DType = F32 }, []string{"BlockTable", "F32[2 4]", "I32[2 4]"}},
		{"Attention", func(a *args) { a.attention.BlockTable.Cols = 0 }, []string{"BlockTable", "I32[2 0]", "1 column"}},
		{"Attention", func(a *args) { a.attention.QueryStart = i32(2) }, []string{"QueryStart", "I32[1 2]", "3 I32"}},
		{"Attention", func(a *args) { a.attention.KVLen = i32(3) }, []string{"KVLen", "I32[1 3]", "2 I32"}},
		{"Attention", func(a *args) { a.attention.Scale = inf }, []string{"scale", "+Inf", "finite"}},

		{"SwiGLU", func(a *args) { a.gate.Data = 0 }, []string{"gate", "no data"}},
		{"SwiGLU", func(a *args) { a.upper = f32(3, 65) }, []string{"up", "F32[3 65]", "F32[3 64]", "gate"}},
		{"SwiGLU", func(a *args) { a.out.DType = F16 }, []string{"out", "F16[3 64]", "F32[3 64]", "gate"}},

		{"Add", func(a *args) { a.a.DType = I32 }, []string{"a", "I32[3 64]", "F32"}},
		{"Add", func(a *args) { a.b = f32(4, 64) }, []string{"b", "F32[4 64]", "F32[3 64]"}},
		{"Add", func(a *args) { a.out.Stride = 0 }, []string{"out", "stride 0", "64 columns"}},

		{"GatherRows", func(a *args) { a.gathered = f32(2, 63) }, []string{"out", "F32[2 63]", "F32[2 64]"}},
		{"GatherRows", func(a *args) { a.rows = i32(3) }, []string{"rows", "I32[1 3]", "2 I32"}},
		{"GatherRows", func(a *args) { a.gathered.DType = BF16 }, []string{"out", "BF16[2 64]", "F32[2 64]"}},

		{"LogProbs", func(a *args) { a.logProbs.Logits.DType = BF16 }, []string{"Logits", "BF16[2 100]", "F32[2 100]"}},
		{"LogProbs", func(a *args) { a.logProbs.Top = -1 }, []string{"Top", "-1", "0 to 20"}},
		{"LogProbs", func(a *args) { a.logProbs.Top = 21 }, []string{"Top", "21", "0 to 20"}},
		{"LogProbs", func(a *args) { a.logProbs.IDs.Rows = 2 }, []string{"IDs", "I32[2 4]", "I32[3 4]"}},
		{"LogProbs", func(a *args) { a.logProbs.IDs = Tensor{} }, []string{"Out", "I32[3 16]", "I32[3 12]"}},
		{"LogProbs", func(a *args) { a.logProbs.Top = 4 }, []string{"Out", "I32[3 16]", "I32[3 14]"}},
		{"LogProbs", func(a *args) { a.logProbs.Rows = i32(2) }, []string{"Rows", "I32[1 2]", "3 I32"}},
		{"LogProbs", func(a *args) { a.logProbs.Chosen = i32(4) }, []string{"Chosen", "I32[1 4]", "3 I32"}},

		{"Pool", func(a *args) { a.pooled.DType = BF16 }, []string{"out", "BF16[2 64]", "F32[2 64]"}},
		{"Pool", func(a *args) { a.pooled = f32(2, 63) }, []string{"out", "F32[2 63]", "F32[2 64]"}},
		{"Pool", func(a *args) { a.x.DType = I32 }, []string{"x", "I32[3 64]", "F32, F16 or BF16"}},
		{"Pool", func(a *args) { a.poolFrom = i32(3) }, []string{"from", "I32[1 3]", "2 I32"}},
		{"Pool", func(a *args) { a.poolTo = i32(1) }, []string{"to", "I32[1 1]", "2 I32"}},

		{"Sample", func(a *args) { a.sample.Logits.DType = BF16 }, []string{"Logits", "BF16[2 100]", "F32[2 100]"}},
		{"Sample", func(a *args) { a.sample.Params.Cols = 11 }, []string{"Params", "I32[2 11]", "I32[2 12]"}},
		{"Sample", func(a *args) { a.sample.Params.Stride = 16 }, []string{"stride of Params", "16", "12"}},
		{"Sample", func(a *args) { a.sample.Params.Data += 4 }, []string{"Params", "0x1004", "multiple of 8"}},
		{"Sample", func(a *args) { a.sample.Banned.Rows = 1 }, []string{"Banned", "I32[1 5]", "I32[2 5]"}},
		{"Sample", func(a *args) { a.sample.IDs = i32(1) }, []string{"IDs", "I32[1 1]", "2 I32"}},
		{"Sample", func(a *args) { a.sample.Logits.Data = 0 }, []string{"Logits", "no data"}},

		{"NormMatMul", func(a *args) { a.norm.X.DType = I32 }, []string{"X", "I32[3 64]", "F32"}},
		{"NormMatMul", func(a *args) { a.norm.W = Vector(at, F32, 63) }, []string{"W", "F32[1 63]", "64 F32"}},
		{"NormMatMul", func(a *args) { a.norm.Normed = f32(2, 64) }, []string{"Normed", "F32[2 64]", "F32[3 64]"}},
		{"NormMatMul", func(a *args) { a.norm.Normed = a.norm.X }, []string{"Normed", "is X", "0x2000"}},
		{"NormMatMul", func(a *args) { a.norm.Eps = nan }, []string{"eps", "NaN"}},
		{"NormMatMul", func(a *args) { a.products = nil }, []string{"products", "0", "1 to 3"}},
		{"NormMatMul", func(a *args) { a.products[1].W.Cols = 65 }, []string{"W", "[9 65]", "64 columns"}},
		{"NormMatMul", func(a *args) { a.products[0].Out.Data = a.norm.X.Data }, []string{"Out", "is X"}},
		{"NormMatMul", func(a *args) { a.products[1].Bias = Vector(at, F32, 8) }, []string{"Bias", "F32[1 8]", "9 F32"}},

		{"NormGateUp", func(a *args) { a.gateUp.Norm.Eps = -1 }, []string{"eps", "-1"}},
		{"NormGateUp", func(a *args) { a.gateUp.Gate.Cols = 32 }, []string{"Gate", "[96 32]", "64 columns"}},
		{"NormGateUp", func(a *args) { a.gateUp.Up.Data = 0 }, []string{"Up", "no data"}},
		{"NormGateUp", func(a *args) { a.gateUp.Up.Rows = 64 }, []string{"Up", "[64 64]", "[96 64]"}},
		{"NormGateUp", func(a *args) { a.gateUp.GateBias = Vector(at, F32, 64) }, []string{"GateBias", "F32[1 64]", "96 F32"}},
		{"NormGateUp", func(a *args) { a.gateUp.UpBias.DType = BF16 }, []string{"UpBias", "BF16[1 96]", "96 F32"}},
		{"NormGateUp", func(a *args) { a.gateUp.Out.DType = BF16 }, []string{"Out", "BF16[3 96]", "F32[3 96]"}},
		{"NormGateUp", func(a *args) { a.gateUp.Scratch = f32(3, 64) }, []string{"Scratch", "F32[3 64]", "F32[3 96]"}},
		{"NormGateUp", func(a *args) { a.gateUp.Out.Data = a.gateUp.Norm.X.Data }, []string{"Out", "is X"}},
		{"NormGateUp", func(a *args) { a.gateUp.Scratch.Data = a.gateUp.Norm.X.Data }, []string{"Scratch", "is X"}},

		{"NormQKV", func(a *args) { a.qkv.Norm.X.Data = 0 }, []string{"X", "no data"}},
		{"NormQKV", func(a *args) { a.qkv.Q.W.Rows = 32 }, []string{"Out", "F32[3 64]", "F32[3 32]"}},
		{"NormQKV", func(a *args) { a.qkv.V.Bias.Cols = 31 }, []string{"Bias", "F32[1 31]", "32 F32"}},
		{"NormQKV", func(a *args) { a.qkv.K.Out.Data = a.qkv.Norm.X.Data }, []string{"Out", "is X"}},
		{"NormQKV", func(a *args) { a.qkv.K.Accumulate = true }, []string{"[32 64]", "accumulates"}},
		{"NormQKV", func(a *args) { a.qkv.Heads = 5 }, []string{"5 heads", "2 KV heads"}},
		{"NormQKV", func(a *args) { a.qkv.Heads = 2 }, []string{"q", "F32[3 64]", "F32[3 32]"}},
		{"NormQKV", func(a *args) { a.qkv.Shape.Heads = 1 }, []string{"Key", "F32[3 32]", "F32[3 16]"}},
		{"NormQKV", func(a *args) { a.qkv.Table = f32(3, 8) }, []string{"table", "F32[3 8]", "F32[3 16]"}},
		{"NormQKV", func(a *args) { a.qkv.Slots = i32(2) }, []string{"Slots", "I32[1 2]", "3 I32"}},
		{"NormQKV", func(a *args) { a.qkv.VCache.Rows = 4 }, []string{"VCache", "F16[4 256]", "F16[5 256]"}},
		{"NormQKV", func(a *args) {
			a.qkv.Norm.X, a.qkv.Norm.Normed, a.qkv.Q.Out = elsewhere(Matrix(at, BF16, 3, 64)), Matrix(at, BF16, 3, 64), Matrix(at, BF16, 3, 64)
		}, []string{"Out", "F32[3 32]", "BF16[3 32]"}},

		{"Dense", func(a *args) { a.dense.MLP.Norm.Eps = -1 }, []string{"eps", "-1"}},
		{"Dense", func(a *args) { a.dense.Attended.Rows = 2 }, []string{"Attended", "F32[2 32]", "F32[3 32]"}},
		{"Dense", func(a *args) { a.dense.Attended.Data = a.dense.MLP.Norm.X.Data }, []string{"Attended", "is X"}},
		{"Dense", func(a *args) { a.dense.O.W.Cols = 64 }, []string{"W", "[64 64]", "32 columns"}},
		{"Dense", func(a *args) { a.dense.O.Out.Data += 4 }, []string{"O", "X of MLP"}},
		{"Dense", func(a *args) { a.dense.O.Accumulate = false }, []string{"O", "X of MLP"}},
		{"Dense", func(a *args) { a.dense.Down.W.Rows = 32 }, []string{"Out", "F32[3 64]", "F32[3 32]"}},
		{"Dense", func(a *args) { a.dense.Down.Accumulate = false }, []string{"Down", "X of MLP"}},
		{"Dense", func(a *args) { a.dense.Next.Heads = 5 }, []string{"5 heads", "2 KV heads"}},
		{"Dense", func(a *args) { a.dense.Next.Norm.X = elsewhere(a.dense.Next.Norm.X) }, []string{"Next", "F32[3 64]"}},
	} {
		a := good()
		c.spoil(a)
		message := panicOf(func() { checks[c.op](a) })
		for _, want := range append(c.want, "device: "+c.op+": ") {
			if !strings.Contains(message, want) {
				t.Errorf("%s: panic %q, want it to contain %q", c.op, message, want)
			}
		}
	}
}

// panicOf is what f panics with, "" if it returns.
func panicOf(f func()) (message string) {
	defer func() {
		if r := recover(); r != nil {
			message = fmt.Sprint(r)
		}
	}()
	f()
	return ""
}

func TestChecksDoNotAllocate(t *testing.T) {
	a := good()
	for name, check := range checks {
		if n := testing.AllocsPerRun(100, func() { check(a) }); n != 0 {
			t.Errorf("Check%s allocates %v times", name, n)
		}
	}
}

func TestRowBytes(t *testing.T) {
	for _, c := range []struct {
		t    DType
		cols int
		want int64
	}{{F32, 3, 12}, {F16, 3, 6}, {BF16, 5, 10}, {I32, 2, 8}, {Q8_0, 64, 68}, {Q4_0, 64, 36}, {Q4_1, 64, 40}} {
		if got := c.t.RowBytes(c.cols); got != c.want {
			t.Errorf("%v.RowBytes(%d) = %d, want %d", c.t, c.cols, got, c.want)
		}
	}
	for _, bad := range []func(){
		func() { Q8_0.RowBytes(33) }, func() { DType(0).RowBytes(1) }, func() { DType(-1).RowBytes(1) },
		func() { Q4_0.Size() }, func() { DType(1000).Size() },
	} {
		if m := panicOf(bad); !strings.HasPrefix(m, "device: ") {
			t.Errorf("panic %q, want one of this package", m)
		}
	}
}

func TestViews(t *testing.T) {
	x := Matrix(at, F16, 4, 10)
	v := x.Top(2).Columns(3, 7)
	if want := (Tensor{Data: at + 6, DType: F16, Rows: 2, Cols: 4, Stride: 10}); v != want {
		t.Errorf("view %+v, want %+v", v, want)
	}
	for _, bad := range []func(){
		func() { x.Top(5) }, func() { x.Top(-1) }, func() { x.Columns(3, 11) }, func() { x.Columns(4, 3) },
	} {
		if m := panicOf(bad); !strings.Contains(m, "F16[4 10]") {
			t.Errorf("panic %q, want it to name the tensor", m)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	a := good()
	for name, check := range checks {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				check(a)
			}
		})
	}
}
