package main_test

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// TestLogThatNobodyReadsHoldsNothingUp: neither requests, nor health, nor the end.
func TestLogThatNobodyReadsHoldsNothingUp(t *testing.T) {
	stderr, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	p := &process{t: t, ended: make(chan struct{})}
	p.cmd = exec.Command(
		binary, "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--device=cpu", "--model", "tiny="+tiny, "--log-level=debug")
	p.cmd.Env = append(os.Environ(), "INFERNO_LOG_FORMAT=text")
	p.cmd.Stderr = theirs
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // its verdict is in ProcessState
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
	})
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			p.grpc, p.admin = m[1], m[2]
			break // and nothing is read any more
		}
	}
	p.waitServing()
	client := infernov1.NewInferenceServiceClient(p.dial())
	calls := 0
	for ; ; calls++ {
		if _, err := client.Generate(t.Context(), &infernov1.GenerateRequest{Model: strings.Repeat("x", 400)}); err == nil {
			t.Fatal("a model of no such name was found")
		}
		if calls%1000 == 0 && !strings.Contains(p.metrics(), "inferno_log_lines_lost_total 0\n") {
			break
		}
	}
	t.Logf("lines were lost after %d calls", calls)
	if _, err := client.Generate(t.Context(), generate(3)); err != nil {
		t.Error(err)
	}
	if code, out := p.probe(); code != 0 {
		t.Errorf("grpc-health-probe exits %d: %s", code, out)
	}
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}
