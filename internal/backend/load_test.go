package backend

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/discovery/static"
	"github.com/inferno-serve/inferno/internal/model"
	"github.com/inferno-serve/inferno/internal/model/llama"
	"github.com/inferno-serve/inferno/internal/server"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
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
	}, security{}, "test")
	if err != nil {
		t.Fatal(err)
	}
	r := b.replicas.find("m")
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
	r.close(b.log, closeTimeout)
	if held := b.tracker.Snapshot().Total.Current; held != 0 {
		t.Errorf("%d bytes are still counted", held)
	}
}

// A request that leaves everything open gets the defaults and end tokens of the checkpoint's generation_config.json, and is told of them.
func TestRequestsGetTheCheckpointsDefaults(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(tiny)); err != nil {
		t.Fatal(err)
	}
	text := `{"temperature":0.5,"top_k":30,"top_p":0.75,"min_p":0.125,"typical_p":0.875,"repetition_penalty":1.25,"eos_token_id":[7,5]}`
	if err := os.WriteFile(filepath.Join(dir, "generation_config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, false, func(c *config.Config) { c.Models[0].Path = dir })
	r.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	answer, err := infernov1.NewInferenceServiceClient(r.dial()).Generate(t.Context(), &infernov1.GenerateRequest{
		Model: "tiny", Input: &infernov1.GenerateRequest_TokenIds{TokenIds: &infernov1.TokenIds{Ids: []uint32{1, 2, 3}}},
		Stopping: &infernov1.StoppingParameters{MaxTokens: new(uint32(4))},
	})
	if err != nil {
		t.Fatal(err)
	}
	e := answer.GetStart().GetEffective()
	s := e.GetSampling()
	if s.GetTemperature() != 0.5 || s.GetTopK() != 30 || s.GetTopP() != 0.75 || s.GetMinP() != 0.125 || s.GetTypicalP() != 0.875 ||
		s.GetRepetitionPenalty() != 1.25 || s.GetPenaltyWindow() != 0 || s.GetN() != 1 || s.Seed == nil || !slices.Equal(e.GetEndTokenIds(), []uint32{5, 7}) {
		t.Errorf("effective parameters %v", e)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}
