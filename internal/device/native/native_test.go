package native_test

import (
	"testing"
	"unsafe"

	"go.uber.org/goleak"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openCPU(t testing.TB, o native.CPUOptions) device.Device {
	t.Helper()
	dev, err := native.OpenCPU(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev
}

func alloc(t testing.TB, dev device.Device, bytes int64) device.Ptr {
	t.Helper()
	p, err := dev.Alloc(bytes)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func sync(t testing.TB, dev device.Device) {
	t.Helper()
	if err := dev.Sync(); err != nil {
		t.Fatal(err)
	}
}

// bytesOf is the memory of a slice of plain data.
func bytesOf[T any](s []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(*new(T))))
}

// put is a new matrix of rows that hold values.
func put(t testing.TB, dev device.Device, dt device.DType, rows int, values []float32) device.Tensor {
	t.Helper()
	x := device.Matrix(alloc(t, dev, int64(4*len(values))), dt, rows, len(values)/rows)
	dev.Upload(x.Data, bytesOf(values))
	return x
}
