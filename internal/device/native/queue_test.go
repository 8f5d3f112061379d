package native_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
)

// get downloads and waits.
func get(t testing.TB, dev device.Device, x device.Tensor) []float32 {
	t.Helper()
	out := make([]float32, x.Len())
	dev.Download(bytesOf(out), x.Data)
	sync(t, dev)
	return out
}

func constant(n int, v float32) []float32 { return slices.Repeat([]float32{v}, n) }

// Uploads and downloads keep their place among ops, for sizes that are copied into the list, and for those that run it first.
func TestCopiesKeepTheirPlaceAmongOps(t *testing.T) {
	for _, threads := range []int{1, 2, 3} {
		for _, n := range []int{1, 100, 16 << 10, 100_000} {
			t.Run(fmt.Sprintf("threads=%d n=%d", threads, n), func(t *testing.T) {
				dev := openCPU(t, native.CPUOptions{Threads: threads})
				x, y, z := put(t, dev, device.F32, 1, constant(n, 1)), put(t, dev, device.F32, 1, constant(n, 0)), put(t, dev, device.F32, 1, constant(n, 0))
				source := constant(n, 5)
				dev.Add(y, x, x)
				dev.Upload(x.Data, bytesOf(source))
				source[0], source[n-1] = 99, 99 // Upload has taken its copy
				dev.Add(z, x, y)
				got := make([]float32, n)
				dev.Download(bytesOf(got), z.Data)
				dev.Fill(z.Data, 0, int64(4*n))
				dev.Add(y, z, z)
				sync(t, dev)
				for name, c := range map[string]struct{ got, want []float32 }{
					"downloaded before the fill": {got, constant(n, 7)},
					"filled":                     {get(t, dev, z), constant(n, 0)},
					"added after the fill":       {get(t, dev, y), constant(n, 0)},
					"uploaded":                   {get(t, dev, x), constant(n, 5)},
				} {
					if !slices.Equal(c.got, c.want) {
						t.Errorf("%s: starts with %v, want all %v", name, c.got[:min(n, 4)], c.want[0])
					}
				}
			})
		}
	}
}

func TestGraphRunsAfterWhatIsPendingAndReadsInputsAtLaunch(t *testing.T) {
	dev := openCPU(t, native.CPUOptions{Threads: 2})
	const n = 20_000
	x, y := put(t, dev, device.F32, 1, constant(n, 1)), put(t, dev, device.F32, 1, constant(n, 0))
	dev.Add(x, x, x) // pending while the capture records
	g, err := dev.Capture(func() {
		dev.Add(y, x, x)
		dev.Add(y, y, x)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if got := get(t, dev, y)[n-1]; got != 0 {
		t.Fatalf("capture ran its ops: got %v", got)
	}
	for _, v := range []float32{1, 7, -3} {
		dev.Upload(x.Data, bytesOf(constant(n, v)))
		dev.Add(x, x, x)
		dev.Launch(g)
		if got, want := get(t, dev, y), constant(n, 6*v); !slices.Equal(got, want) {
			t.Errorf("x = %v: got %v .. %v, want %v", 2*v, got[0], got[n-1], 6*v)
		}
	}
}

func TestCaptureEndsWhenItsFunctionPanics(t *testing.T) {
	dev := openCPU(t, native.CPUOptions{Threads: 1})
	x := put(t, dev, device.F32, 1, constant(8, 1))
	func() {
		defer func() { recover() }()
		_, _ = dev.Capture(func() { dev.Add(x, x, device.Tensor{}) })
		t.Error("Add of a tensor without memory did not panic")
	}()
	dev.Add(x, x, x)
	if got := get(t, dev, x)[0]; got != 2 {
		t.Errorf("op after the failed capture: got %v, want 2", got)
	}
}

// Every way to break the contract in native code sticks: Sync says so from then on, and nothing runs any more.
func TestFailureSticks(t *testing.T) {
	for name, c := range map[string]struct {
		breakIt func(t *testing.T, dev device.Device)
		reason  string
	}{
		"upload inside a capture": {func(t *testing.T, dev device.Device) {
			p := alloc(t, dev, 4)
			if _, err := dev.Capture(func() { dev.Upload(p, make([]byte, 4)) }); err != nil {
				t.Fatal(err)
			}
		}, "upload inside a capture"},
		"sync inside a capture": {func(t *testing.T, dev device.Device) {
			if _, err := dev.Capture(func() { _ = dev.Sync() }); err != nil {
				t.Fatal(err)
			}
		}, "launch inside a capture"},
		"row index outside": {func(t *testing.T, dev device.Device) {
			x, rows := put(t, dev, device.F32, 2, constant(8, 1)), alloc(t, dev, 4)
			dev.Upload(rows, bytesOf([]int32{2}))
			dev.GatherRows(x.Top(1), x, device.Vector(rows, device.I32, 1))
		}, "gather_rows: a row index lies outside x"},
		"half precision": {func(t *testing.T, dev device.Device) {
			x := device.Matrix(alloc(t, dev, 64), device.F16, 1, 4)
			dev.Add(x, x, x)
		}, "add: the CPU computes in F32 only"},
	} {
		t.Run(name, func(t *testing.T) {
			dev := openCPU(t, native.CPUOptions{Threads: 2})
			x := put(t, dev, device.F32, 1, constant(8, 1))
			c.breakIt(t, dev)
			for i := range 3 {
				err := dev.Sync()
				if !errors.Is(err, device.ErrLost) || !strings.Contains(fmt.Sprint(err), c.reason) {
					t.Fatalf("sync %d: got %v, want ErrLost with %q", i, err, c.reason)
				}
				dev.Add(x, x, x)
			}
			got := make([]float32, 8)
			dev.Download(bytesOf(got), x.Data)
			if !slices.Equal(got, constant(8, 1)) {
				t.Errorf("ops ran after the failure: got %v", got)
			}
		})
	}
}

func TestAllocOfTooMuchFailsAndDoesNotStick(t *testing.T) {
	dev := openCPU(t, native.CPUOptions{Threads: 1})
	for _, bytes := range []int64{math.MaxInt64, 1 << 50, dev.Info().TotalBytes + 1} {
		if _, err := dev.Alloc(bytes); !errors.Is(err, device.ErrOutOfMemory) {
			t.Errorf("Alloc(%d): got %v, want ErrOutOfMemory", bytes, err)
		}
	}
	if _, err := dev.Alloc(-1); err == nil {
		t.Error("Alloc(-1) succeeded")
	}
	for _, bytes := range []int64{0, 1, 255, 256, 257, 4 << 20, 5<<20 + 3} {
		p := alloc(t, dev, bytes)
		if p%256 != 0 {
			t.Errorf("Alloc(%d) is %#x, want a multiple of 256", bytes, p)
		}
		dev.Fill(p, 0xff, bytes)
		sync(t, dev)
		dev.Free(p)
	}
	dev.Free(0)
	sync(t, dev)
}

func TestClose(t *testing.T) {
	dev := openCPU(t, native.CPUOptions{Threads: 3})
	x := put(t, dev, device.F32, 1, constant(8, 1))
	g, err := dev.Capture(func() { dev.Add(x, x, x) })
	if err != nil {
		t.Fatal(err)
	}
	dev.Add(x, x, x) // pending work is dropped
	for range 2 {
		if err := dev.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		g.Close()
	}
	if err := dev.Sync(); !errors.Is(err, device.ErrLost) {
		t.Errorf("Sync of a closed device: got %v, want ErrLost", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("an op on a closed device did not panic")
		}
	}()
	dev.Add(x, x, x)
}

func TestOpenRefusesBadThreads(t *testing.T) {
	for _, threads := range []int{-1, 257} {
		if _, err := native.OpenCPU(native.CPUOptions{Threads: threads}); err == nil || !strings.Contains(err.Error(), fmt.Sprint(threads)) {
			t.Errorf("Threads %d: got error %v, want one that names it", threads, err)
		}
	}
}

func TestInfo(t *testing.T) {
	info := openCPU(t, native.CPUOptions{Exact: true}).Info()
	if info.Kind != "cpu" || info.Name == "" || !info.Unified || !info.Exact || info.Threads < 1 {
		t.Errorf("got %+v", info)
	}
	if !info.Capture || info.Overlap {
		t.Errorf("captures: %v, works beside the caller: %v; want it to capture, and to have ended when a launch returns", info.Capture, info.Overlap)
	}
	if info.TotalBytes < 1<<20 || info.FreeBytes < 0 || info.FreeBytes > info.TotalBytes {
		t.Errorf("memory: %d bytes, %d of them free", info.TotalBytes, info.FreeBytes)
	}
	if got := openCPU(t, native.CPUOptions{NoAVX2: true}).Info().Features; got != "portable" {
		t.Errorf("features without AVX2: got %q, want portable", got)
	}
}

// A step that has run before allocates nothing in Go.
func TestStepAllocatesNothing(t *testing.T) {
	dev := openCPU(t, native.CPUOptions{Threads: 2})
	const n, heads, dim, block, blocks, vocab = 3, 2, 8, 4, 4, 64
	const d = heads * dim
	matrix := func(rows, cols int) device.Tensor {
		x := device.Matrix(alloc(t, dev, int64(4*rows*cols)), device.F32, rows, cols)
		dev.Fill(x.Data, 0, int64(4*rows*cols))
		return x
	}
	ints := func(values ...int32) device.Tensor {
		p := alloc(t, dev, int64(4*len(values)))
		dev.Upload(p, bytesOf(values))
		return device.Vector(p, device.I32, len(values))
	}
	pack := func(rows, cols int) device.Weight {
		w := device.Weight{DType: device.F32, Rows: rows, Cols: cols, Data: alloc(t, dev, dev.PackBytes(device.F32, rows, cols))}
		if err := dev.Pack(w, make([]byte, 4*rows*cols), nil); err != nil {
			t.Fatal(err)
		}
		return w
	}
	x, y, q, key, value := matrix(n, d), matrix(n, d), matrix(n, d), matrix(n, d), matrix(n, d)
	table, freq, norm := matrix(n, dim), matrix(1, dim/2), matrix(1, d)
	kCache, vCache, logits := matrix(blocks, d*block), matrix(blocks, d*block), matrix(n, vocab)
	ids, blockTable := ints(0, 1, 2), ints(0)
	square, head := pack(d, d), pack(vocab, d)
	products := []device.Product{{W: square, Out: q}, {W: square, Out: key}, {W: square, Out: value}}
	last := []device.Product{{W: head, Out: logits}}
	normed := device.Norm{X: x, W: norm, Normed: matrix(n, d), Eps: 1e-5}
	params := device.Matrix(alloc(t, dev, n*device.SampleParamsBytes), device.I32, n, device.SampleParamsBytes/4)
	dev.Fill(params.Data, 0, n*device.SampleParamsBytes)
	shape := device.KVShape{Heads: heads, HeadDim: dim, BlockSize: block}
	store := device.StoreKVArgs{Key: key, Value: value, Slots: ids, KCache: kCache, VCache: vCache, Shape: shape}
	attention := device.AttentionArgs{
		Out: y, Q: q, KCache: kCache, VCache: vCache, BlockTable: blockTable, QueryStart: ints(0, n), KVLen: ints(n),
		Heads: heads, Shape: shape, Scale: 1,
	}
	in, out := make([]byte, 4*n), make([]byte, 4*n)

	ops := func() {
		dev.Embed(x, head, ids)
		dev.RopeTable(table, ids, freq, 1)
		dev.RMSNorm(y, x, norm, 1e-5)
		dev.MatMul(y, products)
		dev.Rope(q, table, heads)
		dev.StoreKV(store)
		dev.RopeStoreKV(q, table, heads, store)
		dev.Attention(attention)
		dev.SwiGLU(x, x, y)
		dev.Add(x, x, y)
		dev.GatherRows(y, x, ids)
		dev.MatMul(y, last)
		dev.NormMatMul(normed, last)
		dev.NormGateUp(device.NormGateUpArgs{Norm: normed, Gate: square, Up: square, Out: y, Scratch: q})
		dev.NormQKV(device.NormQKVArgs{
			Norm: normed, Q: device.Product{W: square, Out: q}, K: device.Product{W: square, Out: key}, V: device.Product{W: square, Out: value},
			Table: table, Heads: heads, Slots: ids, KCache: kCache, VCache: vCache, Shape: shape,
		})
		dev.Sample(device.SampleArgs{Logits: logits, Params: params, IDs: ids})
	}
	g, err := dev.Capture(ops)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	step := func() {
		dev.Upload(ids.Data, in)
		dev.Fill(x.Data, 0, 4)
		ops()
		dev.Launch(g)
		dev.Download(out, ids.Data)
		dev.Flush()
		sync(t, dev)
	}
	if allocs := testing.AllocsPerRun(100, step); allocs != 0 {
		t.Errorf("a step allocates %v times in Go, want 0", allocs)
	}
}
