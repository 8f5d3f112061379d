package backend

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/discovery/static"
	"github.com/inferno-serve/inferno/internal/model"
	"github.com/inferno-serve/inferno/internal/model/llama"
	"github.com/inferno-serve/inferno/internal/server"
)

func TestFailedLoadLeavesNothingBehind(t *testing.T) {
	loadShortened(t, func() (device.Device, error) { return native.OpenCPU(native.CPUOptions{Threads: 1}) })
}

// loadShortened starts a model whose file becomes shorter after it was opened, and checks what is left of it.
func loadShortened(t *testing.T, open func() (device.Device, error)) {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(tiny)); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load([]string{"--model=m=" + dir, "--kv-memory=8MiB"}, "test", os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	shorten := func(ctx context.Context, c *model.Checkpoint, o model.Options) (model.Model, error) {
		if err := os.Truncate(filepath.Join(dir, "model.safetensors"), 300_000); err != nil {
			return nil, err
		}
		return llama.New(ctx, c, o)
	}
	b, err := newBackend(Options{
		Config: c, Version: "test", Log: slog.New(slog.DiscardHandler), Registry: static.New(), OpenDevice: open,
		Architectures: map[string]model.Builder{"llama": shorten},
	}, "test")
	if err != nil {
		t.Fatal(err)
	}
	r := b.replicas[0]
	err = r.start(t.Context(), b, 0)
	if err == nil || !strings.Contains(err.Error(), "model.safetensors") || !strings.Contains(err.Error(), "the file became shorter") {
		t.Errorf("error %v, want it to name the file and the fault", err)
	}
	if state := r.info().State; state == server.ModelReady {
		t.Errorf("the model is ready")
	}
	if b.tracker.Snapshot().Total.Current == 0 {
		t.Error("nothing was reserved: this tested nothing")
	}
	r.close(b.log)
	if held := b.tracker.Snapshot().Total.Current; held != 0 {
		t.Errorf("%d bytes are still counted", held)
	}
}
