// Package devicetest judges a device: each op, in the types and shapes that models use, against float64 arithmetic in plain Go that is
// written from the formulas of kernels/inferno.h and shares no code with any kernel.
//
// Besides results it holds every device to what the contract promises and a result alone does not show: nothing outside of an op's
// output is written, what lies outside of its inputs does not matter, a row's bits do not depend on its batch, a captured graph equals
// the eager run, and weights can be packed beside a running step.
//
// A device's own tests call Judge with a function that opens it. Judge drives the device from one locked goroutine at a time.
package devicetest

import (
	"hash/fnv"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
)

// Options say what arithmetic a device is to be held to.
type Options struct {
	Activations device.DType   // type of activation tensors; 0 means F32
	Caches      []device.DType // types of KV caches; nil means F32 and F16
	// Operands is what MatMul and Attention round what they multiply to: F32 (also 0) not at all, BF16 or F16 on matrix units. Whether
	// quantised weights meet 8-bit activations instead is in the device's Info.
	Operands device.DType
	// ViewAlign is how many elements the columns and strides of views are multiples of; 0 means 1. A device whose loads are wide may ask
	// the models for more.
	ViewAlign int
	// Large has contexts of 8,192 tokens and decode steps of 256 sequences judged too.
	Large bool
	// FusedDense says that the device has kernels of its own for Dense. One that composes it is judged on fewer cases of it.
	FusedDense bool
	// InvariantRows bounds the batch up to which a row's bits may not depend on it; 0 means no bound.
	InvariantRows int
}

func (o Options) withDefaults() Options {
	if o.Activations == 0 {
		o.Activations = device.F32
	}
	if o.Caches == nil {
		o.Caches = []device.DType{device.F32, device.F16}
	}
	if o.Operands == 0 {
		o.Operands = device.F32
	}
	o.ViewAlign = max(o.ViewAlign, 1)
	if o.InvariantRows == 0 {
		o.InvariantRows = 1 << 30
	}
	return o
}

// Judge runs every check on the device that open opens, and closes it. With -short the large shapes are left out.
func Judge(t *testing.T, open func(t testing.TB) device.Device, o Options) {
	dev := open(t)
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	r := &rig{T: t, dev: dev, o: o.withDefaults(), info: dev.Info()}
	r.run("memory", judgeMemory)
	r.run("pack", judgePack)
	r.run("random", judgeRandom)
	r.run("embed", judgeEmbed)
	r.run("rms_norm", judgeRMSNorm)
	r.run("matmul", judgeMatMul)
	r.run("rope_table", judgeRopeTable)
	r.run("rope", judgeRope)
	r.run("store_kv", judgeStoreKV)
	r.run("rope_store_kv", judgeRopeStoreKV)
	r.run("attention", judgeAttention)
	r.run("decode", judgeDecode)
	r.run("swiglu", judgeSwiGLU)
	r.run("add", judgeAdd)
	r.run("gather_rows", judgeGatherRows)
	r.run("sample", judgeSample)
	r.run("logprobs", judgeLogProbs)
	r.run("pool", judgePool)
	r.run("norm_matmul", judgeNormMatMul)
	r.run("norm_gate_up", judgeNormGateUp)
	r.run("norm_qkv", judgeNormQKV)
	r.run("dense", judgeDense)
	r.run("attended_dense", judgeAttendedDense)
	r.run("step", judgeStep)
	r.run("graph", judgeGraph)
	r.run("pack beside a step", judgeConcurrentPack)
}

// rig is one test case: the device, the memory that the case took on it, and its own random numbers.
type rig struct {
	*testing.T
	dev     device.Device
	o       Options
	info    device.Info
	path    string     // names of the case from Judge on: the same for every device
	rng     *rand.Rand // seeded by path, so that a failure repeats
	buffers []*buffer
}

// run is a subtest with a rig of its own, on a locked thread, as the device demands. Its memory is freed at its end.
func (r *rig) run(name string, f func(r *rig)) {
	r.Run(name, func(t *testing.T) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		path := r.path + "/" + name
		seed := fnv.New64a()
		seed.Write([]byte(path))
		sub := &rig{T: t, dev: r.dev, o: r.o, info: r.info, path: path, rng: rand.New(rand.NewPCG(seed.Sum64(), 1))}
		defer sub.free()
		f(sub)
	})
}
