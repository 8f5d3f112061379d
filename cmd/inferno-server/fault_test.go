package main_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/device/native"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Servers on devices that go wrong: a card with the library of `make cuda-faults`, and, where there is none, the CPU's sources behind a
// table that does the like. Either does once what it finds in a file, and removes that.

// faultyCUDA is the library that INFERNO_CUDA_FAULTS_LIBRARY names; without it, or without a card, the test is skipped.
func faultyCUDA(t *testing.T) string {
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
	return library
}

// faultyC is what of a device goes wrong in the CPU's library, in the words of kernels/cuda/fault.cu.
const faultyC = `
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "inferno.h"
const inferno_table *cpu_device_table(void);
static int32_t faulty_sync(inferno_device *dev, char *reason, size_t bytes) {
  static int lost;
  char word[16] = "", *path = getenv("INFERNO_CUDA_FAULT");
  FILE *f = path ? fopen(path, "r") : NULL;
  if (f) {
    if (fscanf(f, "%15s", word) != 1) word[0] = 0;
    fclose(f);
    unlink(path);
  }
  while (!strcmp(word, "spin")) sleep(1);
  if (!strcmp(word, "abort")) abort();
  if (!strcmp(word, "segv")) *(volatile int *)8 = 1;
  if (!strcmp(word, "write")) lost = 1;
  if (!lost) return cpu_device_table()->sync(dev, reason, bytes);
  snprintf(reason, bytes, "an illegal memory access was encountered");
  return INFERNO_DEVICE_LOST;
}
__attribute__((visibility("default"))) const inferno_table *inferno_device_table(void) {
  static inferno_table t;
  t = *cpu_device_table();
  t.sync = faulty_sync;
  return &t;
}
`

func faultyCPU(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("no gcc to build a device library with")
	}
	sources, err := filepath.Glob("../../kernels/cpu/*.c")
	if err != nil || len(sources) == 0 {
		t.Fatalf("no sources of the CPU device: %v", err)
	}
	folder := t.TempDir()
	library, source := filepath.Join(folder, "faulty.so"), filepath.Join(folder, "faulty.c")
	if err := os.WriteFile(source, []byte(faultyC), 0o600); err != nil {
		t.Fatal(err)
	}
	gcc := func(args ...string) {
		t.Helper()
		args = append([]string{"-std=c11", "-D_GNU_SOURCE", "-Wno-psabi", "-fPIC", "-fvisibility=hidden", "-pthread", "-I../../kernels"}, args...)
		if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
			t.Fatalf("gcc %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	link := []string{"-shared", "-o", library, source}
	for _, source := range sources {
		object := filepath.Join(folder, filepath.Base(source)+".o")
		gcc("-O0", "-Dinferno_device_table=cpu_device_table", "-c", source, "-o", object)
		link = append(link, object)
	}
	gcc(append(link, "-lm")...)
	return library
}

// faultyServer is a server on such a device.
type faultyServer struct {
	*process
	file string // what it says goes wrong
}

func startFaulty(t *testing.T, library string) faultyServer {
	t.Helper()
	s := faultyServer{file: filepath.Join(t.TempDir(), "fault")}
	s.process = startProcess(t, []string{"INFERNO_CUDA_FAULT=" + s.file}, "--device=cuda", "--cuda-library="+library, "--model=tiny="+tiny,
		"--kv-memory=64MiB")
	s.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	return s
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

func TestFaultsEndTheProcess(t *testing.T) {
	library := faultyCPU(t)
	testFaults(t, library)
	t.Run("crash", func(t *testing.T) { testCrashes(t, library) })
	t.Run("spin at the start", func(t *testing.T) { testSignalsEndAHangingStart(t, library) })
}

func TestFaultsEndTheProcessCUDA(t *testing.T) { testFaults(t, faultyCUDA(t)) }

// testFaults: a kernel that writes where nobody may, and one that never ends.
func testFaults(t *testing.T, library string) {
	t.Helper()
	for fault, reason := range map[string]string{"write": "illegal memory access", "spin": "a step has been running for"} {
		t.Run(fault, func(t *testing.T) {
			s := startFaulty(t, library)
			s.cause(fault)
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

// testCrashes: C that goes down takes the process with it, at once, with the stacks of all goroutines and by a signal, which no exit code
// is mistaken for. A supervisor then starts it again.
func testCrashes(t *testing.T, library string) {
	t.Helper()
	for fault, signal := range map[string]string{"abort": "SIGABRT", "segv": "SIGSEGV"} {
		t.Run(fault, func(t *testing.T) {
			s := startFaulty(t, library)
			stream := s.endless()
			caused := time.Now()
			s.cause(fault)
			if err := drain(stream); status.Code(err) != codes.Unavailable {
				t.Errorf("the stream ended with %v, want UNAVAILABLE", err)
			}
			s.exit()
			took := time.Since(caused)
			ended := s.cmd.ProcessState.Sys().(syscall.WaitStatus)
			said := strings.Join(s.said(), "\n")
			if !ended.Signaled() || ended.Signal() != syscall.SIGABRT || ended.CoreDump() {
				t.Errorf("ended with %v, want SIGABRT and no core", s.cmd.ProcessState)
			}
			if !strings.Contains(said, signal) || !strings.Contains(said, "engine.(*Engine).Run") {
				t.Errorf("no %s, or no stack of the engine, in:\n%s", signal, said)
			}
			restarted := time.Now()
			again := startFaulty(t, library)
			t.Logf("gone after %v, serving again %v after the restart", took.Round(time.Millisecond), time.Since(restarted).Round(time.Millisecond))
			again.signal(syscall.SIGTERM)
			if code := again.exit(); code != 0 {
				t.Errorf("the next process ended with %d", code)
			}
		})
	}
}

// testSignalsEndAHangingStart: nothing watches a warm-up, whose steps may be long, but two signals end it.
func testSignalsEndAHangingStart(t *testing.T, library string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "fault")
	if err := os.WriteFile(file, []byte("spin"), 0o600); err != nil {
		t.Fatal(err)
	}
	gone := watchRemoval(t, filepath.Dir(file))
	p := startProcess(t, []string{"INFERNO_CUDA_FAULT=" + file}, "--device=cuda", "--cuda-library="+library, "--model=tiny="+tiny,
		"--kv-memory=64MiB")
	gone() // the device hangs
	p.signal(syscall.SIGTERM)
	p.waitSaid("msg=stopping ")
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
}

// watchRemoval returns a function that waits until a file of a directory is removed, from now on.
func watchRemoval(t *testing.T, dir string) func() {
	t.Helper()
	events, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(events) })
	if _, err := unix.InotifyAddWatch(events, dir, unix.IN_DELETE); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		for {
			ready, err := unix.Poll([]unix.PollFd{{Fd: int32(events), Events: unix.POLLIN}}, int(2*time.Minute/time.Millisecond))
			if ready > 0 {
				return
			}
			if !errors.Is(err, unix.EINTR) {
				t.Fatalf("nothing was removed in two minutes: %v", err)
			}
		}
	}
}
