package devicetest

import (
	"fmt"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
)

// cpuLevels are the instruction sets that a CPU device can be held to, the best first.
var cpuLevels = []struct {
	name    string
	options native.CPUOptions
}{
	{"best", native.CPUOptions{}},
	{"without avx512", native.CPUOptions{NoAVX512: true}},
	{"portable", native.CPUOptions{NoAVX512: true, NoAVX2: true}},
}

func openCPU(t testing.TB, o native.CPUOptions) device.Device {
	t.Helper()
	dev, err := native.OpenCPU(o)
	if err != nil {
		t.Fatalf("open %+v: %v", o, err)
	}
	return dev
}

// forEachLevel runs f once for each set of kernels that this machine can run, named after it.
func forEachLevel(t *testing.T, f func(t *testing.T, o native.CPUOptions)) {
	seen := map[string]bool{}
	for _, level := range cpuLevels {
		dev := openCPU(t, level.options)
		features := dev.Info().Features
		if err := dev.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
		if seen[features] {
			continue // the machine has nothing better
		}
		seen[features] = true
		t.Run(features, func(t *testing.T) { f(t, level.options) })
	}
	t.Logf("levels run: %v", seen)
}

func TestJudgeCPU(t *testing.T) {
	forEachLevel(t, func(t *testing.T, o native.CPUOptions) {
		for _, exact := range []bool{false, true} {
			t.Run(fmt.Sprintf("exact=%v", exact), func(t *testing.T) {
				o.Exact, o.Threads = exact, 2
				Judge(t, func(t testing.TB) device.Device { return openCPU(t, o) }, Options{})
			})
		}
	})
}

func TestThreadsDoNotChangeBits(t *testing.T) {
	forEachLevel(t, func(t *testing.T, o native.CPUOptions) {
		var want []byte
		for _, threads := range []int{1, 2, 3, 5} {
			o.Threads = threads
			dev := openCPU(t, o)
			got := Bits(t, dev, Options{})
			if err := dev.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			if want == nil {
				want = got
			}
			if string(got) != string(want) {
				t.Errorf("%d threads leave other bits than one", threads)
			}
		}
	})
}
