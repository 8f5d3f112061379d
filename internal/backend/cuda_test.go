package backend

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	"github.com/inferno-serve/inferno/internal/discovery/static"
	"github.com/inferno-serve/inferno/internal/engine"
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
	r := b.replicas.find("m")
	err = r.start(t.Context(), b, 0)
	taken, counted := before-d.Info().FreeBytes, b.tracker.Snapshot()
	r.close(b.log, closeTimeout)
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

// countedDevice counts what is taken of a device beside its ops.
type countedDevice struct {
	device.Device
	taken *atomic.Int64
}

func (d countedDevice) Alloc(bytes int64) (device.Ptr, error) {
	d.taken.Add(1)
	return d.Device.Alloc(bytes)
}

func (d countedDevice) AllocHost(bytes int) ([]byte, error) {
	d.taken.Add(1)
	return d.Device.AllocHost(bytes)
}

func (d countedDevice) AllocMapped(bytes int) (device.HostBlock, error) {
	d.taken.Add(1)
	return d.Device.AllocMapped(bytes)
}

func (d countedDevice) Capture(record func()) (device.Graph, error) {
	d.taken.Add(1)
	return d.Device.Capture(record)
}

// TestStepsTakeNoMemoryCUDA: once a model is up, requests of all kinds and lengths, alone and in large batches, take nothing of a card, nor
// of what it shares with the host; the driver's own count agrees.
func TestStepsTakeNoMemoryCUDA(t *testing.T) {
	d, err := openCUDA() // to ask the driver by
	if errors.Is(err, device.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var taken atomic.Int64
	c, err := config.Load([]string{
		"--model=m=../model/testdata/shapes/smollm2-135m", "--load-format=random", "--device=cuda", "--kv-memory=8GiB", "--max-batch=256",
	}, "test", os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Load(t.Context(), Options{
		Config: c, Version: "test", Log: slog.New(slog.DiscardHandler), Registry: static.New(),
		Architectures: map[string]model.Builder{"llama": llama.New},
		OpenDevice: func() (device.Device, error) {
			card, err := openCUDA()
			return countedDevice{card, &taken}, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	atStart, free := taken.Load(), d.Info().FreeBytes
	if atStart == 0 {
		t.Fatal("the start took nothing: this tests nothing")
	}
	for _, n := range []int{1, 7, 64, 200} {
		decodeAll(t, l.Engine, n)
	}
	s := l.Engine.Stats()
	t.Logf("%d steps; %d calls that take memory, all at the start; %d KiB less are free", s.Steps, atStart, (free-d.Info().FreeBytes)>>10)
	if now := taken.Load(); now != atStart {
		t.Errorf("steps took memory %d times", now-atStart)
	}
	if now := d.Info().FreeBytes; now != free {
		t.Errorf("the driver has %d bytes less than before the steps", free-now)
	}
}

// decodeAll has n requests of every kind run together.
func decodeAll(t *testing.T, e *engine.Engine, n int) {
	t.Helper()
	var streams []*engine.Stream
	for i := range n {
		q := &engine.Request{ID: fmt.Sprint("r", i), Prompt: slices.Repeat([]int32{int32(i + 1)}, 1+i*i*31%1500)}
		q.Stop = engine.Stopping{MaxTokens: 4 + i%60, IgnoreEOS: true}
		switch i % 5 {
		case 1:
			q.Sampling = engine.Sampling{Temperature: 1, Seed: uint64(i), TopK: 50, TopP: 0.9, MinP: 0.01}
		case 2:
			q.Sampling = engine.Sampling{Temperature: 0.7, RepetitionPenalty: 1.2, FrequencyPenalty: 0.3}
			q.Sampling.LogitBias = []engine.Bias{{ID: 5, Value: 3}}
		case 3:
			q.Logprobs = engine.Logprobs{Output: true, Prompt: i%2 == 0, Top: 5}
		case 4:
			q.PromptOnly, q.Pooling = i%2 == 0, engine.NoPooling
			if q.PromptOnly {
				q.Pooling = engine.MeanPooling
			}
		}
		more, err := e.Submit(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, more...)
	}
	for _, s := range streams {
		for {
			_, finish, err := s.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if finish != nil {
				break
			}
		}
	}
}
