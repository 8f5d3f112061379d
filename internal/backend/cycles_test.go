package backend

import (
	"context"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/inferno-serve/inferno/internal/device"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

const (
	shortCycles = 20
	soakCycles  = 200
	warmCycles  = 5 // after which memory may not grow any more
	racers      = 4 // clients that ask all the time

	shortAnswer = 6  // tokens
	longAnswer  = 60 // of streams, which an unloading cuts now and then
)

// mostGrowth is how much resident memory may grow by over all cycles, in bytes.
const mostGrowth = 8 << 20

// race is requests for one name while its model changes.
type race struct {
	*models
	want map[string][]uint32 // the longest answer, by revision

	whole, cut, refused, unknown atomic.Int64
}

// answerOf loads a model alone and returns its revision and its longest answer.
func (m *models) answerOf(path string) (revision string, tokens []uint32) {
	m.t.Helper()
	m.mustLoad("alone", path, false)
	answer, err := m.inference.Generate(m.t.Context(), asked("alone", longAnswer))
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.unload("alone", time.Minute); err != nil {
		m.t.Fatal(err)
	}
	return answer.GetStart().GetModelRevision(), answer.GetCompletions()[0].GetTokenIds()
}

// TestRequestsRaceWithLoadsAndUnloads: two models that answer differently, under one name in turn. Every answer is that of the revision that it
// names, a request that gets none may be tried again, and nothing is left of a model that is gone.
func TestRequestsRaceWithLoadsAndUnloads(t *testing.T) {
	cycles := shortCycles
	if os.Getenv("SOAK") == "full" {
		cycles = soakCycles
	}
	raceOn(t, openCPU, cycles, mostGrowth)
}

// The same on a card, where another model's graphs are captured while one loads. The driver keeps memory of its own, on the host too.
func TestRequestsRaceWithLoadsAndUnloadsCUDA(t *testing.T) {
	const mostLost = 2 << 20 // of the card, bytes
	d, err := openCUDA()     // holds what a process takes of a card only once
	if errors.Is(err, device.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	raceOn(t, openCUDA, warmCycles+1, math.MaxInt)
	before := d.Info().FreeBytes
	raceOn(t, openCUDA, shortCycles, math.MaxInt)
	if lost := before - d.Info().FreeBytes; lost > mostLost {
		t.Errorf("%d KiB of the card were not given back, want at most %d", lost>>10, mostLost>>10)
	}
}

// raceDetected says whether the race detector runs, whose own memory grows with whatever was ever touched.
func raceDetected() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

func raceOn(t *testing.T, open func() (device.Device, error), cycles, mostGrowth int) {
	t.Helper()
	r := &race{models: startModelsOn(t, open, nil), want: map[string][]uint32{}}
	for _, path := range []string{"a", "b"} {
		revision, tokens := r.answerOf(path)
		r.want[revision] = tokens
	}
	var answers [][]uint32
	for _, tokens := range r.want {
		answers = append(answers, tokens[:shortAnswer])
	}
	if len(answers) != 2 || slices.Equal(answers[0], answers[1]) {
		t.Fatalf("the models answer %v: this would test nothing", answers)
	}
	r.log.full.Store(true) // it would grow with the requests
	allocations, devices := r.allocations.Load(), r.devices.Load()
	var resident, goroutines []int
	for i := range cycles {
		r.cycle(i)
		if r.allocations.Load() != allocations || r.devices.Load() != devices {
			t.Fatalf("cycle %d: %d allocations, %d devices are left", i, r.allocations.Load()-allocations, r.devices.Load()-devices)
		}
		resident, goroutines = append(resident, residentBytes(t)), append(goroutines, runtime.NumGoroutine())
	}
	t.Logf("%d cycles: %d whole answers, %d cut off, %d refused while loading or unloading, %d unknown", cycles,
		r.whole.Load(), r.cut.Load(), r.refused.Load(), r.unknown.Load())
	t.Logf("resident after cycle %d: %.1f MiB, at the end %.1f MiB; goroutines %d, %d", warmCycles, mib(resident[warmCycles]),
		mib(resident[cycles-1]), goroutines[warmCycles], goroutines[cycles-1])
	if cycles == soakCycles && r.cut.Load() == 0 {
		t.Error("no stream was cut by an unloading")
	}
	if r.whole.Load() == 0 || r.refused.Load() == 0 || r.unknown.Load() == 0 {
		t.Error("a kind of answer never came: the requests did not race")
	}
	if grown := resident[cycles-1] - resident[warmCycles]; grown > mostGrowth && !raceDetected() {
		t.Errorf("resident memory grew by %.1f MiB, want at most %d", mib(grown), mostGrowth>>20)
	}
	if grown := goroutines[cycles-1] - goroutines[warmCycles]; grown > 0 {
		t.Errorf("%d goroutines are left", grown)
	}
	r.stopped()
}

// cycle loads a model, has requests race with its coming and going, and returns when all have ended.
func (r *race) cycle(i int) {
	r.t.Helper()
	ctx, stop := context.WithCancel(r.t.Context())
	defer stop()
	var racing sync.WaitGroup
	for k := range racers {
		racing.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if k == 0 {
					r.stream()
				} else {
					r.generate()
				}
			}
		})
	}
	path, drain := "a", time.Minute
	if i%2 == 1 {
		path = "b"
	}
	if i%3 == 2 {
		drain = 0
	}
	loaded := r.mustLoad("x", path, false)
	for whole := r.whole.Load(); r.whole.Load() < whole+2*racers; { // some answers of this model
		r.generate()
	}
	if err := r.unload("x", drain); err != nil {
		r.t.Errorf("cycle %d: unload revision %s: %v", i, loaded.GetRevision(), err)
	}
	for unknown := r.unknown.Load(); r.unknown.Load() == unknown; {
		r.generate()
	}
	stop()
	racing.Wait()
}

func (r *race) generate() {
	answer, err := r.inference.Generate(r.t.Context(), asked("x", shortAnswer))
	if err != nil {
		r.refusal(err, false)
		return
	}
	r.answered(answer.GetStart().GetModelRevision(), answer.GetCompletions()[0].GetTokenIds(), shortAnswer)
	r.whole.Add(1)
}

func (r *race) stream() {
	stream, err := r.inference.GenerateStream(r.t.Context(), asked("x", longAnswer))
	var revision string
	var tokens []uint32
	for err == nil {
		var m *infernov1.GenerateStreamResponse
		if m, err = stream.Recv(); err == nil {
			if m.GetStart() != nil {
				revision = m.GetStart().GetModelRevision()
			}
			for _, d := range m.GetDeltas() {
				tokens = append(tokens, d.GetTokenIds()...)
			}
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		r.answered(revision, tokens, longAnswer)
		r.whole.Add(1)
		return
	case len(tokens) > 0:
		r.answered(revision, tokens, len(tokens))
	}
	r.refusal(err, len(tokens) > 0)
}

func (r *race) answered(revision string, tokens []uint32, n int) {
	want, known := r.want[revision]
	if !known || !slices.Equal(tokens, want[:n]) {
		r.t.Errorf("revision %q answers %v, want %v", revision, tokens, want)
	}
}

// refusal counts a request that may be tried again, here or elsewhere.
func (r *race) refusal(err error, begun bool) {
	switch code := status.Code(err); {
	case code == codes.Unavailable && begun:
		r.cut.Add(1)
	case code == codes.Unavailable:
		r.refused.Add(1)
	case code == codes.NotFound && !begun:
		r.unknown.Add(1)
	default:
		r.t.Errorf("a request ended with %v, want UNAVAILABLE or NOT_FOUND", err)
	}
}

// residentBytes is the memory of this process, once what nobody holds is given back.
func residentBytes(t *testing.T) int {
	t.Helper()
	debug.FreeOSMemory()
	text, err := os.ReadFile(filepath.Join("/proc", "self", "statm"))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

func mib(bytes int) float64 { return float64(bytes) / (1 << 20) }
