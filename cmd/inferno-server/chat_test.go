package main_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
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

// TestBrokenTemplateCostsTheChatsOnly serves a model whose template does not parse, beside one whose template does.
func TestBrokenTemplateCostsTheChatsOnly(t *testing.T) {
	broken := t.TempDir()
	if err := os.CopyFS(broken, os.DirFS(tiny)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(broken, "chat_template.jinja"), []byte("{% for m in messages %}\n{{ m.content }"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startServer(t, "--model", "tiny="+tiny, "--model", "broken="+broken)
	p.waitServing()
	conn := p.dial()
	list, err := infernov1.NewRegistryServiceClient(conn).ListModels(t.Context(), &infernov1.ListModelsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list.GetModels() {
		if want := m.GetName() == "tiny"; m.GetHasChatTemplate() != want {
			t.Errorf("model %s: has_chat_template is %t, want %t", m.GetName(), !want, want)
		}
	}
	client := infernov1.NewInferenceServiceClient(conn)
	chat := &infernov1.GenerateRequest{Input: &infernov1.GenerateRequest_Chat{Chat: &infernov1.ChatMessages{
		Messages: []*infernov1.ChatMessage{{Role: "user", Content: "the cat sat"}},
	}}, Stopping: generate(3).GetStopping()}
	chat.Model = "tiny"
	if answer, err := client.Generate(t.Context(), chat); err != nil || len(answer.GetCompletions()[0].GetTokenIds()) != 3 {
		t.Errorf("tiny: %v, %v", answer, err)
	}
	chat.Model, chat.RequestId = "broken", ""
	_, err = client.Generate(t.Context(), chat)
	if s := status.Convert(err); s.Code() != codes.FailedPrecondition || !strings.Contains(s.Message(), `"default" cannot be read: template line 2`) {
		t.Errorf("broken: %v", err)
	}
	text := generate(3)
	text.Model = "broken"
	if _, err := client.Generate(t.Context(), text); err != nil {
		t.Errorf("broken serves no token ids: %v", err)
	}
	if said := strings.Join(p.said(), "\n"); !strings.Contains(said, `msg="no chats" model=broken`) {
		t.Errorf("the log does not tell:\n%s", said)
	}
}
