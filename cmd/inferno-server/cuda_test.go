package main_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// faultyServer is a server on a card whose library goes wrong when it is told to. INFERNO_CUDA_FAULTS_LIBRARY names that library, which
// `make cuda-faults` builds; without it, or without a card, the test is skipped.
type faultyServer struct {
	*process
	file string // what it says goes wrong
}

func startFaulty(t *testing.T) faultyServer {
	t.Helper()
	library := os.Getenv("INFERNO_CUDA_FAULTS_LIBRARY")
	if library == "" {
		t.Skip("INFERNO_CUDA_FAULTS_LIBRARY names no library: `make cuda-faults` builds it")
	}
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
	file := filepath.Join(t.TempDir(), "fault")
	s := faultyServer{file: file}
	s.process = startProcess(t, []string{"INFERNO_CUDA_FAULT=" + file}, "--device=cuda", "--cuda-library="+library, "--model=tiny="+tiny,
		"--kv-memory=64MiB")
	s.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	return s
}

// waitState reads HealthService.Watch until the whole is in the state, and returns that report.
func (s faultyServer) waitState(want infernov1.HealthState) *infernov1.HealthReport {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	watch, err := infernov1.NewHealthServiceClient(s.dial()).Watch(ctx, &infernov1.WatchRequest{})
	if err != nil {
		s.t.Fatal(err)
	}
	for {
		m, err := watch.Recv()
		if err != nil {
			s.t.Fatalf("waiting for %v: %v", want, err)
		}
		if m.GetReport().GetState() == want {
			return m.GetReport()
		}
	}
}

// cause has the fault happen in the next step.
func (s faultyServer) cause(fault string) {
	s.t.Helper()
	if err := os.WriteFile(s.file+".new", []byte(fault), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(s.file+".new", s.file); err != nil {
		s.t.Fatal(err)
	}
}

// endless opens a stream and returns it behind its first token; it has hundreds to go.
func (s faultyServer) endless() infernov1.InferenceService_GenerateStreamClient {
	s.t.Helper()
	stream, err := infernov1.NewInferenceServiceClient(s.dial()).GenerateStream(s.t.Context(), generate(500))
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		s.t.Fatal(err)
	}
	return stream
}

func drain(stream infernov1.InferenceService_GenerateStreamClient) (err error) {
	for err == nil {
		_, err = stream.Recv()
	}
	return err
}

// TestFaultsEndTheProcessCUDA: a kernel that writes where nobody may, and one that never ends.
func TestFaultsEndTheProcessCUDA(t *testing.T) {
	for fault, reason := range map[string]string{"write": "illegal memory access", "spin": "a step has been running for"} {
		t.Run(fault, func(t *testing.T) {
			s := startFaulty(t)
			s.cause(fault) // before the stream: the tiny model might be done otherwise
			stream, err := infernov1.NewInferenceServiceClient(s.dial()).GenerateStream(t.Context(), generate(500))
			if err != nil {
				t.Fatal(err)
			}
			caused := time.Now()
			if err := drain(stream); status.Code(err) != codes.Unavailable {
				t.Errorf("the stream ended with %v, want UNAVAILABLE", err)
			}
			told := time.Now()
			code := s.exit()
			t.Logf("stream ended after %v, process %v later", told.Sub(caused).Round(time.Millisecond), time.Since(told).Round(time.Millisecond))
			if said := strings.Join(s.said(), "\n"); code != 3 || !strings.Contains(said, reason) {
				t.Errorf("exit code %d, want 3 and %q in:\n%s", code, reason, said)
			}
		})
	}
}

// TestNotFiniteEndsItsOwnRequestAloneCUDA: one of two requests gets a NaN; the server and the other go on.
func TestNotFiniteEndsItsOwnRequestAloneCUDA(t *testing.T) {
	s := startFaulty(t)
	const rounds = 5 // in one both may be over before the fault comes
	for round := range rounds {
		streams := []infernov1.InferenceService_GenerateStreamClient{s.endless(), s.endless()}
		s.cause("nan")
		ended := map[codes.Code]int{}
		for _, stream := range streams {
			err := drain(stream)
			if errors.Is(err, io.EOF) {
				err = nil
			}
			ended[status.Code(err)]++
		}
		if ended[codes.Internal] == 1 && ended[codes.OK] == 1 {
			break
		}
		if ended[codes.OK] != 2 || round == rounds-1 {
			t.Fatalf("streams ended with %v, want one INTERNAL and one OK", ended)
		}
	}
	s.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	if err := drain(s.endless()); !errors.Is(err, io.EOF) {
		t.Errorf("a later request ended with %v", err)
	}
}
