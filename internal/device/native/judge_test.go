package native_test

import (
	"fmt"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/devicetest"
	"github.com/inferno-serve/inferno/internal/device/native"
)

// kernelSets are the CPU's instruction sets, as far as a machine can run them, with and without 8-bit activations.
func kernelSets() map[string]native.CPUOptions {
	sets := map[string]native.CPUOptions{}
	for name, o := range map[string]native.CPUOptions{"best": {}, "avx2": {NoAVX512: true}, "portable": {NoAVX512: true, NoAVX2: true}} {
		for _, exact := range []bool{false, true} {
			o.Threads, o.Exact = 2, exact
			sets[fmt.Sprintf("%s exact=%v", name, exact)] = o
		}
	}
	return sets
}

func TestJudgeCPU(t *testing.T) {
	for name, o := range kernelSets() {
		t.Run(name, func(t *testing.T) {
			devicetest.Judge(t, func(t testing.TB) device.Device { return openCPU(t, o) }, devicetest.Options{})
		})
	}
}
