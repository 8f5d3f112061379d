package backend

import (
	"errors"
	"log/slog"
	"os"
	"testing"

	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/discovery/static"
	"github.com/inferno-serve/inferno/internal/model"
	"github.com/inferno-serve/inferno/internal/model/llama"
)

func openCUDA() (device.Device, error) {
	return native.OpenCUDA(native.CUDAOptions{Library: os.Getenv("INFERNO_CUDA_LIBRARY")})
}

// TestCardMemoryCUDA starts a model that takes nearly all of a card: what the tracker counts is what the driver gave, an alert stands, and
// all of it comes back.
func TestCardMemoryCUDA(t *testing.T) {
	const tolerance = 64 << 20
	d, err := openCUDA() // holds what a process takes of a card only once
	if errors.Is(err, device.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	c, err := config.Load([]string{
		"--model=m=../model/testdata/shapes/llama-3.2-1b", "--load-format=random", "--device=cuda", "--gpu-memory-utilization=0.97",
	}, "test", os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	b, err := newBackend(Options{
		Config: c, Version: "test", Log: slog.New(slog.DiscardHandler), Registry: static.New(), OpenDevice: openCUDA,
		Architectures: map[string]model.Builder{"llama": llama.New},
	}, security{}, "test")
	if err != nil {
		t.Fatal(err)
	}
	before := d.Info().FreeBytes
	r := b.replicas[0]
	err = r.start(t.Context(), b, 0)
	taken, counted := before-d.Info().FreeBytes, b.tracker.Snapshot()
	r.close(b.log)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the card gave %d MiB, %d MiB are counted", taken>>20, counted.Total.Current>>20)
	if beside := taken - counted.Total.Current; beside > tolerance || beside < -tolerance {
		t.Errorf("the card gave %d MiB that are not counted, want at most %d", beside>>20, tolerance>>20)
	}
	if !counted.Raised {
		t.Errorf("%d of %d bytes are in use and no alert stands", counted.Total.Current, counted.Limit)
	}
	if left := before - d.Info().FreeBytes; left > tolerance {
		t.Errorf("%d MiB were not given back", left>>20)
	}
	if s := b.tracker.Snapshot(); s.Total.Current != 0 || s.Raised {
		t.Errorf("after the end %d bytes are counted, alert %v", s.Total.Current, s.Raised)
	}
}

func TestFailedLoadGivesTheCardBackCUDA(t *testing.T) {
	d, err := openCUDA()
	if errors.Is(err, device.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	before := d.Info().FreeBytes
	loadShortened(t, openCUDA)
	if left := before - d.Info().FreeBytes; left > 16<<20 {
		t.Errorf("%d MiB were not given back", left>>20)
	}
}
