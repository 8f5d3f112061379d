package main_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// card is the flags for a server on a card, by the library that INFERNO_CUDA_LIBRARY names; without one the test is skipped.
func card(t *testing.T) []string {
	t.Helper()
	library := os.Getenv("INFERNO_CUDA_LIBRARY")
	dev, err := native.OpenCUDA(native.CUDAOptions{Library: library})
	if errors.Is(err, device.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	return []string{"--device=cuda", "--cuda-library=" + library}
}

// TestLibraryWithoutACard: the library is there and every card is hidden from it, also where there is none.
func TestLibraryWithoutACard(t *testing.T) {
	library := os.Getenv("INFERNO_CUDA_LIBRARY")
	if library == "" {
		library = filepath.Join("..", "..", "bin", "libinferno_cuda.so")
	}
	if _, err := os.Stat(library); err != nil {
		t.Skipf("no library: `make cuda` builds it: %v", err)
	}
	t.Setenv("CUDA_VISIBLE_DEVICES", "-1")
	flags := []string{"--model=tiny=" + tiny, "--cuda-library=" + library}
	began := time.Now()
	code, out := runServer(t, append(flags, "--device=cuda")...)
	t.Logf("ended after %v", time.Since(began).Round(time.Millisecond))
	if code != 2 || !strings.Contains(out, "open CUDA device 0: device unavailable: no usable card: ") {
		t.Errorf("exit code %d, want 2 and the reason in:\n%s", code, out)
	}
	p := startProcess(t, nil, append(flags, "--device=auto", "--kv-memory=8MiB")...)
	p.waitSaid("running on the CPU")
	p.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	if said := strings.Join(p.said(), "\n"); !strings.Contains(said, "no usable card: ") {
		t.Errorf("the reason is missing in:\n%s", said)
	}
}

func TestNumberOfNoCardCUDA(t *testing.T) {
	code, out := runServer(t, append(card(t), "--model=tiny="+tiny, "--gpu=63")...)
	if code != 2 || !strings.Contains(out, "no card 63: there ") {
		t.Errorf("exit code %d, want 2 and the number of cards in:\n%s", code, out)
	}
}

// TestAnotherProcessHoldsTheMemoryCUDA: a server gets what one before it left, and says so where that is too little.
func TestAnotherProcessHoldsTheMemoryCUDA(t *testing.T) {
	flags := append(card(t), "--load-format=random")
	first := startProcess(t, nil, append(flags, "--model=m="+shape("llama-3.2-1b"), "--gpu-memory-utilization=0.94")...)
	first.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	began := time.Now()
	code, out := runServer(t, append(flags, "--model=m="+shape("llama-3.1-8b"))...)
	t.Logf("ended after %v", time.Since(began).Round(time.Millisecond))
	for _, want := range []string{"model m", "does not fit: it needs ", "weights 14.96GiB", " free of "} {
		if code != 2 || !strings.Contains(out, want) {
			t.Errorf("exit code %d, want 2 and %q in:\n%s", code, want, out)
		}
	}
	second := startProcess(t, nil, append(flags, "--model=m="+shape("smollm2-135m"), "--max-batch-tokens=256")...)
	second.waitState(infernov1.HealthState_HEALTH_STATE_SERVING) // in what is left
}
