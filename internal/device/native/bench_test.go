package native_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
)

// BenchmarkLaunch is what a launch and a sync cost by themselves: one op that wakes the workers, with next to nothing to do.
func BenchmarkLaunch(b *testing.B) {
	for _, threads := range []int{1, 2} {
		b.Run(fmt.Sprintf("threads=%d", threads), func(b *testing.B) {
			dev := openCPU(b, native.CPUOptions{Threads: threads})
			x := device.Matrix(alloc(b, dev, 4<<14), device.F32, 2, 8192)
			dev.Fill(x.Data, 0, 4<<14)
			for b.Loop() {
				dev.Add(x, x, x)
				sync(b, dev)
			}
		})
	}
}

// BenchmarkOps is a captured list of 400 small ops, as long as a step of a model.
func BenchmarkOps(b *testing.B) {
	const ops = 400
	for _, c := range []struct {
		name          string
		threads, cols int
	}{{"alone", 2, 64}, {"threads=1", 1, 8192}, {"threads=2", 2, 8192}} {
		b.Run(c.name, func(b *testing.B) {
			dev := openCPU(b, native.CPUOptions{Threads: c.threads})
			x := device.Matrix(alloc(b, dev, int64(8*c.cols)), device.F32, 2, c.cols)
			dev.Fill(x.Data, 0, int64(8*c.cols))
			g, err := dev.Capture(func() {
				for range ops {
					dev.Add(x, x, x)
				}
			})
			if err != nil {
				b.Fatal(err)
			}
			defer g.Close()
			for b.Loop() {
				dev.Launch(g)
				sync(b, dev)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/ops, "ns/op-in-list")
		})
	}
}

// BenchmarkCall is what Go pays to put an op on the list, the checks included.
func BenchmarkCall(b *testing.B) {
	dev := openCPU(b, native.CPUOptions{Threads: 1})
	x := device.Matrix(alloc(b, dev, 64), device.F32, 1, 16)
	w := device.Weight{Data: alloc(b, dev, dev.PackBytes(device.F32, 16, 16)), DType: device.F32, Rows: 16, Cols: 16}
	products := []device.Product{{W: w, Out: x}, {W: w, Out: x}, {W: w, Out: x}}
	for name, call := range map[string]func(){
		"add":    func() { dev.Add(x, x, x) },
		"matmul": func() { dev.MatMul(x, products) },
	} {
		b.Run(name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				call()
				if i%1000 == 999 {
					b.StopTimer()
					sync(b, dev)
					b.StartTimer()
				}
			}
		})
	}
}

func BenchmarkSample(b *testing.B) {
	const vocab = 49152
	for _, c := range []struct {
		name   string
		params device.SampleParams
	}{
		{"greedy", device.SampleParams{TopP: 1}},
		{"T=1", device.SampleParams{Temperature: 1, TopP: 1}},
		{"T=0.8 top_p=0.95", device.SampleParams{Temperature: 0.8, TopP: 0.95}},
		{"T=0.8 top_p=0.95 top_k=40", device.SampleParams{Temperature: 0.8, TopP: 0.95, TopK: 40}},
		{"T=1 min_p=0.05", device.SampleParams{Temperature: 1, TopP: 1, MinP: 0.05}},
	} {
		b.Run(c.name, func(b *testing.B) {
			dev := openCPU(b, native.CPUOptions{Threads: 2})
			r := newSampleRig(b, dev, randomLogits(rand.New(rand.NewPCG(1, 2)), vocab))
			for b.Loop() {
				c.params.Position++
				r.choose(c.params)
			}
		})
	}
}

// randomLogits are spread as a language model's are: a deviation of 3, a few tokens far above.
func randomLogits(rng *rand.Rand, vocab int) []float32 {
	logits := make([]float32, vocab)
	for i := range logits {
		logits[i] = float32(rng.NormFloat64() * 3)
	}
	for i := range 5 {
		logits[rng.IntN(vocab)] = 12 + float32(i)
	}
	return logits
}
