package devicetest

import (
	"errors"
	"os"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
)

// openCUDA skips the test where there is no card. INFERNO_CUDA_LIBRARY names the library; the default lies beside the test binary.
func openCUDA(t testing.TB, exact bool) device.Device {
	t.Helper()
	dev, err := native.OpenCUDA(native.CUDAOptions{Library: os.Getenv("INFERNO_CUDA_LIBRARY"), Exact: exact})
	if errors.Is(err, device.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

// TestJudgeCUDA holds CUDA to both of its arithmetics: BF16 activations on matrix units, and float32 throughout.
func TestJudgeCUDA(t *testing.T) {
	for name, c := range map[string]struct {
		exact   bool
		options Options
	}{
		"bf16": {false, Options{
			Activations: device.BF16, Caches: []device.DType{device.BF16}, Operands: device.BF16, InvariantRows: 64, Large: true, FusedDense: true,
		}},
		"exact": {true, Options{Caches: []device.DType{device.F32}, Large: true, FusedDense: true}},
	} {
		t.Run(name, func(t *testing.T) {
			Judge(t, func(t testing.TB) device.Device { return openCUDA(t, c.exact) }, c.options)
		})
	}
}
