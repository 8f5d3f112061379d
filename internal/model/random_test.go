package model_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/memory"
	"github.com/inferno-serve/inferno/internal/model"
)

// counted counts a device's host memory that is out.
type counted struct {
	device.Device
	host atomic.Int64
}

func (c *counted) AllocHost(bytes int) ([]byte, error) {
	b, err := c.Device.AllocHost(bytes)
	c.host.Add(int64(len(b)))
	return b, err
}

func (c *counted) FreeHost(b []byte) {
	c.host.Add(-int64(len(b)))
	c.Device.FreeHost(b)
}

// A file that was cut while it was mapped ended other servers. CVE-2026-47478.
func TestFileThatBecomesShorterEndsTheLoad(t *testing.T) {
	path := copyCheckpoint(t, unchanged, nil)
	c := openCheckpoint(t, path)
	if err := os.Truncate(filepath.Join(path, "model.safetensors"), 200_000); err != nil {
		t.Fatal(err)
	}
	d := &counted{Device: openCPU(t)}
	uploads := 0
	o := model.Options{
		Device: d, Allocator: newPool(t, d, 16<<20), Limits: limits, Upload: func(device.Ptr, []byte) { uploads++ },
	}
	_, err := loader.Load(t.Context(), c, o)
	if err == nil || !strings.Contains(err.Error(), "tensor ") || !strings.Contains(err.Error(), "model.safetensors") ||
		!strings.Contains(err.Error(), "the file became shorter while it was read") {
		t.Errorf("error %v, want it to name file, tensor and fault", err)
	}
	if left := d.host.Load(); left != 0 || uploads != 0 || c.Revision() != "" {
		t.Errorf("%d bytes of host memory are out, %d uploads, revision %q; want nothing of a load", left, uploads, c.Revision())
	}
}

func TestRandomWeights(t *testing.T) {
	dir := filepath.Join("testdata", "llama3-rope-tied-sharded-bf16")
	d := &counted{Device: openCPU(t)}
	load := func(path string) *model.Checkpoint {
		t.Helper()
		c, err := model.OpenRandom(path)
		if err != nil {
			t.Fatal(err)
		}
		o := model.Options{Device: d, Limits: limits}
		need, _, err := loader.Measure(t.Context(), c, o)
		if err != nil {
			t.Fatal(err)
		}
		pool := newPool(t, d, need.Total())
		o.Allocator = pool
		var last, total int64
		o.Progress = func(loaded, of int64) { last, total = loaded, of }
		if _, err := loader.Load(t.Context(), c, o); err != nil {
			t.Fatal(err)
		}
		if left := pool.Available(); left >= memory.Alignment || last != total || d.host.Load() != 0 {
			t.Errorf("%d bytes of the pool left, progress %d of %d, %d bytes of host memory out", left, last, total, d.host.Load())
		}
		return c
	}
	a, b := load(dir), load(filepath.Join(dir, "config.json"))
	if a.Revision() != b.Revision() || len(a.Revision()) != 16 {
		t.Errorf("revisions %q and %q of one config", a.Revision(), b.Revision())
	}
	real := openCheckpoint(t, dir)
	wantCount, wantType := real.Parameters()
	if count, kind := a.Parameters(); count != wantCount || kind != wantType {
		t.Errorf("%d parameters of %s, want the checkpoint's %d of %s", count, kind, wantCount, wantType)
	}
	if err := errors.Join(a.Close(), b.Close()); err != nil {
		t.Error(err)
	}
	if _, err := model.OpenRandom(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no config: %v", err)
	}
}
