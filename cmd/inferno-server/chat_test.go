package main_test

import (
	"bufio"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestInterruptedChatFreesItsBlocks talks as a person does, and stops an answer that would go on for long.
func TestInterruptedChatFreesItsBlocks(t *testing.T) {
	p := startServer(t, "--model", "smollm2="+smolLM2(t))
	tool := filepath.Join(t.TempDir(), "inferno")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", tool, "../inferno").CombinedOutput(); err != nil {
		t.Fatalf("build inferno: %v\n%s", err, out)
	}
	p.waitServing()

	chat := exec.Command(tool, "chat", "--addr", p.grpc, "--temperature", "0", "--max-tokens", "1000")
	keys, err := chat.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	answer, err := chat.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	told, err := chat.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := chat.Start(); err != nil {
		t.Fatal(err)
	}
	done := time.AfterFunc(2*time.Minute, func() { _ = chat.Process.Kill() })
	defer done.Stop()
	if _, err := io.WriteString(keys, "Write a very long story about a ferry.\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := answer.Read(make([]byte, 64)); err != nil {
		t.Fatalf("no answer: %v", err)
	}
	if err := chat.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(told).ReadString('\n')
	if err != nil || line != "[stopped]\n" {
		t.Fatalf("the chat says %q, %v", line, err)
	}

	// The chat goes on, and by the end of its next answer the engine has let the first request go.
	if _, err := io.WriteString(keys, "/clear\nWhat is the capital of Italy? Answer with its name.\n"); err != nil {
		t.Fatal(err)
	}
	_ = keys.Close()
	rest, err := io.ReadAll(answer)
	if err != nil || !strings.Contains(string(rest), "\n") {
		t.Errorf("after the stop it says %q, %v", rest, err)
	}
	if err := chat.Wait(); err != nil {
		t.Errorf("the chat ended with %v", err)
	}
	metrics := p.metrics()
	for _, want := range []string{
		`inferno_requests_cancelled_total{model="smollm2",phase="decode"} 1` + "\n", `inferno_kv_blocks_used{model="smollm2"} 0` + "\n",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s:\n%s", want, metrics)
		}
	}
}
