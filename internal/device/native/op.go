package native

// #include "trampoline.h"
// #cgo noescape call_embed
// #cgo nocallback call_embed
// #cgo noescape call_rms_norm
// #cgo nocallback call_rms_norm
// #cgo noescape call_matmul
// #cgo nocallback call_matmul
// #cgo noescape call_rope_table
// #cgo nocallback call_rope_table
// #cgo noescape call_rope
// #cgo nocallback call_rope
// #cgo noescape call_store_kv
// #cgo nocallback call_store_kv
// #cgo noescape call_attention
// #cgo nocallback call_attention
// #cgo noescape call_swiglu
// #cgo nocallback call_swiglu
// #cgo noescape call_add
// #cgo nocallback call_add
// #cgo noescape call_gather_rows
// #cgo nocallback call_gather_rows
// #cgo noescape call_sample
// #cgo nocallback call_sample
// #cgo noescape call_rope_store_kv
// #cgo nocallback call_rope_store_kv
// #cgo noescape call_norm_matmul
// #cgo nocallback call_norm_matmul
// #cgo noescape call_norm_gate_up
// #cgo nocallback call_norm_gate_up
// #cgo noescape call_norm_qkv
// #cgo nocallback call_norm_qkv
// #cgo noescape call_dense
// #cgo nocallback call_dense
import "C"

import (
	"unsafe"

	"github.com/inferno-serve/inferno/internal/device"
)

// The arguments of the ops as kernels/inferno.h lays them out. device.Tensor and device.Weight have the layout of inferno_tensor and
// inferno_weight, so they are copied as they are; and as these structs hold no Go pointers, cgo has nothing to look for in them, which for
// cgo's own types takes longer than the call.
type (
	embedArgs struct {
		size, _ uint32
		out     device.Tensor
		table   device.Weight
		ids     device.Tensor
	}
	rmsNormArgs struct {
		size      uint32
		eps       float32
		out, x, w device.Tensor
	}
	product struct {
		w             device.Weight
		bias, out     device.Tensor
		accumulate, _ int32
	}
	matMulArgs struct {
		size     uint32
		count    int32
		x        device.Tensor
		products [device.MaxProducts]product
	}
	ropeTableArgs struct {
		size             uint32
		scale            float32
		table, pos, freq device.Tensor
	}
	ropeArgs struct {
		size     uint32
		heads    int32
		x, table device.Tensor
	}
	storeKVArgs struct {
		size                        uint32
		kvHeads, headDim, blockSize int32
		key, value, slots           device.Tensor
		kCache, vCache              device.Tensor
	}
	ropeStoreKVArgs struct {
		size                               uint32
		heads, kvHeads, headDim, blockSize int32
		q, key, value, table, slots        device.Tensor
		kCache, vCache                     device.Tensor
	}
	attentionArgs struct {
		size                               uint32
		heads, kvHeads, headDim, blockSize int32
		scale                              float32
		out, q, kCache, vCache             device.Tensor
		blockTable, queryStart, kvLen      device.Tensor
	}
	swiGLUArgs struct {
		size, _       uint32
		out, gate, up device.Tensor
	}
	addArgs struct {
		size, _   uint32
		out, a, b device.Tensor
	}
	gatherRowsArgs struct {
		size, _      uint32
		out, x, rows device.Tensor
	}
	sampleArgs struct {
		size, _                          uint32
		logits, params, banned, ids      device.Tensor
		adjustments, history, blockTable device.Tensor
	}
	normMatMulArgs struct {
		size            uint32
		eps             float32
		x, norm, normed device.Tensor
		count, _        int32
		products        [device.MaxProducts]product
	}
	normGateUpArgs struct {
		size             uint32
		eps              float32
		x, norm, normed  device.Tensor
		gate, up         device.Weight
		gateBias, upBias device.Tensor
		out, scratch     device.Tensor
	}
	normQKVArgs struct {
		size                               uint32
		eps                                float32
		x, norm, normed                    device.Tensor
		q, k, v                            product
		heads, kvHeads, headDim, blockSize int32
		table, slots, kCache, vCache       device.Tensor
	}
	denseArgs struct {
		size     uint32
		hasNext  int32
		attended device.Tensor
		o        product
		mlp      normGateUpArgs
		down     product
		next     normQKVArgs
	}
)

// Compiles only where each pair has one size.
var _ = [...][0]struct{}{
	[unsafe.Sizeof(device.Tensor{}) - C.sizeof_inferno_tensor]struct{}{},
	[unsafe.Sizeof(device.Weight{}) - C.sizeof_inferno_weight]struct{}{},
	[unsafe.Sizeof(device.SampleParams{}) - C.sizeof_inferno_sample_params]struct{}{},
	[unsafe.Sizeof(device.Adjustment{}) - C.sizeof_inferno_adjustment]struct{}{},
	[unsafe.Sizeof(product{}) - C.sizeof_inferno_product]struct{}{},
	[unsafe.Sizeof(embedArgs{}) - C.sizeof_inferno_embed_args]struct{}{},
	[unsafe.Sizeof(rmsNormArgs{}) - C.sizeof_inferno_rms_norm_args]struct{}{},
	[unsafe.Sizeof(matMulArgs{}) - C.sizeof_inferno_matmul_args]struct{}{},
	[unsafe.Sizeof(ropeTableArgs{}) - C.sizeof_inferno_rope_table_args]struct{}{},
	[unsafe.Sizeof(ropeArgs{}) - C.sizeof_inferno_rope_args]struct{}{},
	[unsafe.Sizeof(storeKVArgs{}) - C.sizeof_inferno_store_kv_args]struct{}{},
	[unsafe.Sizeof(ropeStoreKVArgs{}) - C.sizeof_inferno_rope_store_kv_args]struct{}{},
	[unsafe.Sizeof(attentionArgs{}) - C.sizeof_inferno_attention_args]struct{}{},
	[unsafe.Sizeof(swiGLUArgs{}) - C.sizeof_inferno_swiglu_args]struct{}{},
	[unsafe.Sizeof(addArgs{}) - C.sizeof_inferno_add_args]struct{}{},
	[unsafe.Sizeof(gatherRowsArgs{}) - C.sizeof_inferno_gather_rows_args]struct{}{},
	[unsafe.Sizeof(sampleArgs{}) - C.sizeof_inferno_sample_args]struct{}{},
	[unsafe.Sizeof(normMatMulArgs{}) - C.sizeof_inferno_norm_matmul_args]struct{}{},
	[unsafe.Sizeof(normGateUpArgs{}) - C.sizeof_inferno_norm_gate_up_args]struct{}{},
	[unsafe.Sizeof(normQKVArgs{}) - C.sizeof_inferno_norm_qkv_args]struct{}{},
	[unsafe.Sizeof(denseArgs{}) - C.sizeof_inferno_dense_args]struct{}{},
}

// Embed implements device.Device.
func (d *native) Embed(out device.Tensor, table device.Weight, ids device.Tensor) {
	d.mustBeOpen()
	device.CheckEmbed(out, table, ids)
	args := embedArgs{
		size: C.sizeof_inferno_embed_args, out: out, table: table, ids: ids,
	}
	C.call_embed(d.table, d.dev, unsafe.Pointer(&args))
}

// RMSNorm implements device.Device.
func (d *native) RMSNorm(out, x, w device.Tensor, eps float32) {
	d.mustBeOpen()
	device.CheckRMSNorm(out, x, w, eps)
	args := rmsNormArgs{
		size: C.sizeof_inferno_rms_norm_args, eps: eps, out: out, x: x, w: w,
	}
	C.call_rms_norm(d.table, d.dev, unsafe.Pointer(&args))
}

// MatMul implements device.Device.
func (d *native) MatMul(x device.Tensor, products []device.Product) {
	d.mustBeOpen()
	device.CheckMatMul(x, products)
	args := matMulArgs{size: C.sizeof_inferno_matmul_args, count: int32(len(products)), x: x}
	for i := range products {
		args.products[i] = productOf(&products[i])
	}
	C.call_matmul(d.table, d.dev, unsafe.Pointer(&args))
}

func productOf(p *device.Product) product {
	args := product{w: p.W, bias: p.Bias, out: p.Out}
	if p.Accumulate {
		args.accumulate = 1
	}
	return args
}

// RopeTable implements device.Device.
func (d *native) RopeTable(table, pos, freq device.Tensor, scale float32) {
	d.mustBeOpen()
	device.CheckRopeTable(table, pos, freq, scale)
	args := ropeTableArgs{
		size: C.sizeof_inferno_rope_table_args, scale: scale,
		table: table, pos: pos, freq: freq,
	}
	C.call_rope_table(d.table, d.dev, unsafe.Pointer(&args))
}

// Rope implements device.Device.
func (d *native) Rope(x, table device.Tensor, heads int) {
	d.mustBeOpen()
	device.CheckRope(x, table, heads)
	args := ropeArgs{
		size: C.sizeof_inferno_rope_args, heads: int32(heads), x: x, table: table,
	}
	C.call_rope(d.table, d.dev, unsafe.Pointer(&args))
}

// StoreKV implements device.Device.
func (d *native) StoreKV(a device.StoreKVArgs) {
	d.mustBeOpen()
	device.CheckStoreKV(a)
	args := storeKVArgs{
		size:    C.sizeof_inferno_store_kv_args,
		kvHeads: int32(a.Shape.Heads), headDim: int32(a.Shape.HeadDim), blockSize: int32(a.Shape.BlockSize),
		key: a.Key, value: a.Value, slots: a.Slots,
		kCache: a.KCache, vCache: a.VCache,
	}
	C.call_store_kv(d.table, d.dev, unsafe.Pointer(&args))
}

// RopeStoreKV implements device.Device.
func (d *native) RopeStoreKV(q, table device.Tensor, heads int, a device.StoreKVArgs) {
	d.mustBeOpen()
	device.CheckRopeStoreKV(q, table, heads, a)
	if d.table.rope_store_kv == nil {
		d.Rope(q, table, heads)
		d.Rope(a.Key, table, a.Shape.Heads)
		d.StoreKV(a)
		return
	}
	args := ropeStoreKVArgs{
		size: C.sizeof_inferno_rope_store_kv_args, heads: int32(heads),
		kvHeads: int32(a.Shape.Heads), headDim: int32(a.Shape.HeadDim), blockSize: int32(a.Shape.BlockSize),
		q: q, key: a.Key, value: a.Value, table: table, slots: a.Slots,
		kCache: a.KCache, vCache: a.VCache,
	}
	C.call_rope_store_kv(d.table, d.dev, unsafe.Pointer(&args))
}

// Attention implements device.Device.
func (d *native) Attention(a device.AttentionArgs) {
	d.mustBeOpen()
	device.CheckAttention(a)
	args := attentionArgs{
		size: C.sizeof_inferno_attention_args, scale: a.Scale, heads: int32(a.Heads),
		kvHeads: int32(a.Shape.Heads), headDim: int32(a.Shape.HeadDim), blockSize: int32(a.Shape.BlockSize),
		out: a.Out, q: a.Q, kCache: a.KCache, vCache: a.VCache,
		blockTable: a.BlockTable, queryStart: a.QueryStart, kvLen: a.KVLen,
	}
	C.call_attention(d.table, d.dev, unsafe.Pointer(&args))
}

// SwiGLU implements device.Device.
func (d *native) SwiGLU(out, gate, up device.Tensor) {
	d.mustBeOpen()
	device.CheckSwiGLU(out, gate, up)
	args := swiGLUArgs{
		size: C.sizeof_inferno_swiglu_args, out: out, gate: gate, up: up,
	}
	C.call_swiglu(d.table, d.dev, unsafe.Pointer(&args))
}

// Add implements device.Device.
func (d *native) Add(out, a, b device.Tensor) {
	d.mustBeOpen()
	device.CheckAdd(out, a, b)
	args := addArgs{size: C.sizeof_inferno_add_args, out: out, a: a, b: b}
	C.call_add(d.table, d.dev, unsafe.Pointer(&args))
}

// GatherRows implements device.Device.
func (d *native) GatherRows(out, x, rows device.Tensor) {
	d.mustBeOpen()
	device.CheckGatherRows(out, x, rows)
	args := gatherRowsArgs{
		size: C.sizeof_inferno_gather_rows_args, out: out, x: x, rows: rows,
	}
	C.call_gather_rows(d.table, d.dev, unsafe.Pointer(&args))
}

// Sample implements device.Device.
func (d *native) Sample(a device.SampleArgs) {
	d.mustBeOpen()
	device.CheckSample(a)
	args := sampleArgs{
		size:   C.sizeof_inferno_sample_args,
		logits: a.Logits, params: a.Params, banned: a.Banned, ids: a.IDs,
		adjustments: a.Adjustments, history: a.History, blockTable: a.BlockTable,
	}
	C.call_sample(d.table, d.dev, unsafe.Pointer(&args))
}

// NormMatMul implements device.Device.
func (d *native) NormMatMul(a device.Norm, products []device.Product) {
	d.mustBeOpen()
	device.CheckNormMatMul(a, products)
	if d.table.norm_matmul == nil {
		d.RMSNorm(a.Normed, a.X, a.W, a.Eps)
		d.MatMul(a.Normed, products)
		return
	}
	args := normMatMulArgs{
		size: C.sizeof_inferno_norm_matmul_args, eps: a.Eps, x: a.X, norm: a.W, normed: a.Normed, count: int32(len(products)),
	}
	for i := range products {
		args.products[i] = productOf(&products[i])
	}
	C.call_norm_matmul(d.table, d.dev, unsafe.Pointer(&args))
}

// NormGateUp implements device.Device.
func (d *native) NormGateUp(a device.NormGateUpArgs) {
	d.mustBeOpen()
	device.CheckNormGateUp(a)
	if d.table.norm_gate_up == nil {
		d.NormMatMul(a.Norm, []device.Product{
			{W: a.Gate, Bias: a.GateBias, Out: a.Out}, {W: a.Up, Bias: a.UpBias, Out: a.Scratch},
		})
		d.SwiGLU(a.Out, a.Out, a.Scratch)
		return
	}
	args := normGateUpOf(&a)
	C.call_norm_gate_up(d.table, d.dev, unsafe.Pointer(&args))
}

func normGateUpOf(a *device.NormGateUpArgs) normGateUpArgs {
	return normGateUpArgs{
		size: C.sizeof_inferno_norm_gate_up_args, eps: a.Norm.Eps, x: a.Norm.X, norm: a.Norm.W, normed: a.Norm.Normed,
		gate: a.Gate, up: a.Up, gateBias: a.GateBias, upBias: a.UpBias, out: a.Out, scratch: a.Scratch,
	}
}

// NormQKV implements device.Device.
func (d *native) NormQKV(a device.NormQKVArgs) {
	d.mustBeOpen()
	device.CheckNormQKV(a)
	if d.table.norm_qkv == nil {
		d.NormMatMul(a.Norm, []device.Product{a.Q, a.K, a.V})
		d.RopeStoreKV(a.Q.Out, a.Table, a.Heads, a.Store())
		return
	}
	args := normQKVOf(&a)
	C.call_norm_qkv(d.table, d.dev, unsafe.Pointer(&args))
}

func normQKVOf(a *device.NormQKVArgs) normQKVArgs {
	return normQKVArgs{
		size: C.sizeof_inferno_norm_qkv_args, eps: a.Norm.Eps, x: a.Norm.X, norm: a.Norm.W, normed: a.Norm.Normed,
		q: productOf(&a.Q), k: productOf(&a.K), v: productOf(&a.V),
		heads: int32(a.Heads), kvHeads: int32(a.Shape.Heads), headDim: int32(a.Shape.HeadDim), blockSize: int32(a.Shape.BlockSize),
		table: a.Table, slots: a.Slots, kCache: a.KCache, vCache: a.VCache,
	}
}

// Dense implements device.Device.
func (d *native) Dense(a device.DenseArgs) {
	d.mustBeOpen()
	device.CheckDense(a)
	if d.table.dense == nil {
		d.MatMul(a.Attended, []device.Product{a.O})
		d.NormGateUp(a.MLP)
		d.MatMul(a.MLP.Out, []device.Product{a.Down})
		if a.Next != nil {
			d.NormQKV(*a.Next)
		}
		return
	}
	args := denseArgs{
		size: C.sizeof_inferno_dense_args, attended: a.Attended, o: productOf(&a.O), mlp: normGateUpOf(&a.MLP), down: productOf(&a.Down),
	}
	if a.Next != nil {
		args.hasNext, args.next = 1, normQKVOf(a.Next)
	}
	C.call_dense(d.table, d.dev, unsafe.Pointer(&args))
}
