package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

func TestStandardClientsWork(t *testing.T) {
	p := startServer(t, "--model", "tiny="+tiny)
	p.waitServing()

	code, out := runTool(t, "grpcurl", "-plaintext", p.grpc, "list")
	for _, service := range []string{
		"inferno.v1.InferenceService", "inferno.v1.HealthService", "inferno.v1.RegistryService",
		"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
	} {
		if code != 0 || !strings.Contains(out, service) {
			t.Errorf("grpcurl list exits %d and lacks %s:\n%s", code, service, out)
		}
	}
	code, out = runTool(t, "grpcurl", "-plaintext", p.grpc, "describe", "inferno.v1.InferenceService.Generate")
	if code != 0 || !strings.Contains(out, "rpc Generate ( .inferno.v1.GenerateRequest ) returns ( .inferno.v1.GenerateResponse )") {
		t.Errorf("grpcurl describe exits %d:\n%s", code, out)
	}

	request := `{"model":"tiny","text":"the cat sat","sampling":{"temperature":0},"stopping":{"max_tokens":5,"ignore_eos":true}}`
	code, out = runTool(t, "grpcurl", "-plaintext", "-d", request, p.grpc, "inferno.v1.InferenceService/Generate")
	var answer struct {
		Start       struct{ RequestID, Model string }
		Completions []struct {
			Text     string
			TokenIDs []int `json:"tokenIds"`
			Finish   struct{ Reason string }
		}
		Usage struct{ PromptTokens, CompletionTokens int }
	}
	if err := json.Unmarshal([]byte(out), &answer); code != 0 || err != nil {
		t.Fatalf("grpcurl Generate exits %d (%v):\n%s", code, err, out)
	}
	if len(answer.Completions) != 1 || len(answer.Completions[0].TokenIDs) != 5 || answer.Completions[0].Text == "" ||
		answer.Completions[0].Finish.Reason != "FINISH_REASON_MAX_TOKENS" || answer.Usage.CompletionTokens != 5 ||
		answer.Usage.PromptTokens < 1 || answer.Start.RequestID == "" || answer.Start.Model != "tiny" {
		t.Errorf("grpcurl Generate answered %s", out)
	}

	for _, service := range []string{"", "inferno.v1.InferenceService", "inferno.v1.HealthService", "inferno.v1.RegistryService"} {
		if code, out := p.probe("-service=" + service); code != 0 {
			t.Errorf("probe of %q exits %d: %s", service, code, out)
		}
	}
	if code, out := p.probe("-service=inferno.v1.Nobody"); code != 3 {
		t.Errorf("probe of an unknown service exits %d, want 3: %s", code, out)
	}

	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
}

func TestMetricsCountWhatHappened(t *testing.T) {
	p := startServer(t, "--model", "tiny="+tiny)
	p.waitServing()
	before := p.metrics()
	if !strings.Contains(before, `inferno_kv_blocks_used{model="tiny"} 0`) {
		t.Errorf("no inferno_kv_blocks_used in:\n%s", before)
	}
	client := infernov1.NewInferenceServiceClient(p.dial())
	for range 20 { // a tiny model may be done before the news comes
		cancelOne(t, client)
		if strings.Contains(p.metrics(), `inferno_requests_cancelled_total{model="tiny",phase="decode"} 1`) {
			break
		}
	}
	if _, err := client.Generate(t.Context(), generate(3)); err != nil {
		t.Fatal(err)
	}
	after := p.metrics()
	for _, line := range []string{
		`grpc_server_handled_total{grpc_code="OK",grpc_method="Generate",grpc_service="inferno.v1.InferenceService",grpc_type="unary"} 1`,
		`inferno_requests_cancelled_total{model="tiny",phase="decode"} 1`,
		`inferno_kv_blocks_used{model="tiny"} 0`,
	} {
		if !strings.Contains(after, line) {
			t.Errorf("metrics lack %s:\n%s", line, after)
		}
	}
}

// cancelOne cancels a stream after its first message; when it returns, the engine has seen that.
func cancelOne(t *testing.T, client infernov1.InferenceServiceClient) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := client.GenerateStream(ctx, generate(400))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	for err == nil {
		_, err = stream.Recv()
	}
	next, err := client.GenerateStream(t.Context(), generate(1))
	for err == nil {
		_, err = next.Recv()
	}
}

func TestSigtermLetsStreamsFinish(t *testing.T) {
	p := startServer(t, "--model", "tiny="+tiny, "--drain-timeout=60s")
	p.waitServing()
	results := p.streamMany(32, 300)
	p.signal(syscall.SIGTERM)
	for range 32 {
		r := <-results
		if r.err != nil || r.tokens != 300 {
			t.Errorf("stream ended with %d tokens and %v, want all 300", r.tokens, r.err)
		}
	}
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestDrainDeadlineEndsStreamsWithUnavailable(t *testing.T) {
	p := startServer(t, "--model", "tiny="+tiny, "--drain-timeout=1ms", "--max-batch=4")
	p.waitServing()
	results := p.streamMany(4, 490)
	more := p.startStreams(28, 490) // wait in the queue
	p.signal(syscall.SIGTERM)
	unavailable := 0
	for range 32 {
		var r streamed
		select {
		case r = <-results:
		case r = <-more:
		}
		switch status.Code(r.err) {
		case codes.OK:
		case codes.Unavailable:
			unavailable++
		default:
			t.Errorf("stream ended with %v", r.err)
		}
	}
	if unavailable == 0 {
		t.Error("every stream finished within a millisecond: this tested nothing")
	}
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// TestServesAModelFromAHubCache: the cache of the Hugging Face hub keeps a model's files, its tokenizer's too, as links to its blobs.
func TestServesAModelFromAHubCache(t *testing.T) {
	repository := filepath.Join(t.TempDir(), "models--org--tiny")
	blobs, snapshot := filepath.Join(repository, "blobs"), filepath.Join(repository, "snapshots", "0123abcd")
	files, err := os.ReadDir(tiny)
	if err := errors.Join(err, os.MkdirAll(blobs, 0o700), os.MkdirAll(snapshot, 0o700)); err != nil {
		t.Fatal(err)
	}
	for i, file := range files {
		data, err := os.ReadFile(filepath.Join(tiny, file.Name()))
		blob := fmt.Sprintf("%040x", i)
		if err := errors.Join(
			err, os.WriteFile(filepath.Join(blobs, blob), data, 0o600),
			os.Symlink(filepath.Join("..", "..", "blobs", blob), filepath.Join(snapshot, file.Name())),
		); err != nil {
			t.Fatal(err)
		}
	}
	p := startServer(t, "--model", "tiny="+snapshot)
	p.waitServing()
	answer, err := infernov1.NewInferenceServiceClient(p.dial()).Tokenize(t.Context(), &infernov1.TokenizeRequest{
		Model: "tiny", Input: &infernov1.TokenizeRequest_Text{Text: "hi"},
	})
	if err != nil || len(answer.GetTokenIds()) == 0 {
		t.Errorf("tokens of its own tokenizer: %v, %v", answer, err)
	}
}

func TestSecondSigtermEndsAtOnce(t *testing.T) {
	p := startServer(t, "--model", "tiny="+tiny, "--drain-delay=10m", "--drain-timeout=10m")
	p.waitServing()
	results := p.streamMany(4, 490)
	p.signal(syscall.SIGTERM)
	p.waitSaid("msg=draining")
	p.signal(syscall.SIGTERM)
	for range 4 {
		if r := <-results; r.err != nil && status.Code(r.err) != codes.Unavailable {
			t.Errorf("stream ended with %v", r.err)
		}
	}
	if code := p.exit(); code != 1 {
		t.Errorf("exit code %d, want 1: requests were cut off", code)
	}
}

func TestBadStartsEndWithTwoAndAReason(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"no model", nil, "model: none given"},
		{"unknown flag", []string{"--modle=a=b"}, "--modle"},
		{"no such file", []string{"--model", "m=" + filepath.Join(dir, "none.gguf")}, "none.gguf"},
		{"empty file", []string{"--model", "m=" + write("empty.gguf", "")}, "empty.gguf"},
		{"not a model", []string{"--model", "m=" + write("text.gguf", strings.Repeat("text ", 100))}, "text.gguf"},
		{"no card", []string{"--model", "m=" + tiny, "--device=cuda", "--cuda-library=" + filepath.Join(dir, "none.so")}, "none.so"},
		{"address in use", []string{"--model", "m=" + tiny, "--listen=256.0.0.1:1"}, "256.0.0.1"},
		{"context too large", []string{"--model", "m=" + tiny, "--context=100000"}, "context"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			code, out := runServer(t, test.args...)
			if code != 2 || !strings.Contains(out, test.want) {
				t.Errorf("exit code %d, want 2 and %q in:\n%s", code, test.want, out)
			}
		})
	}
	if code, out := runServer(t, "--version"); code != 0 || strings.TrimSpace(out) != "test" {
		t.Errorf("--version exits %d and prints %q", code, out)
	}
}

// streamed is how one stream ended.
type streamed struct {
	tokens int
	err    error
}

// streamMany starts streams and returns once each has made its first token.
func (p *process) streamMany(n int, maxTokens uint32) <-chan streamed {
	p.t.Helper()
	results := make(chan streamed, n)
	first := make(chan error, n)
	for range n {
		go p.stream(maxTokens, first, results)
	}
	for range n {
		if err := <-first; err != nil {
			p.t.Fatal(err)
		}
	}
	return results
}

// startStreams starts streams and does not wait for them.
func (p *process) startStreams(n int, maxTokens uint32) <-chan streamed {
	results := make(chan streamed, n)
	first := make(chan error, n)
	for range n {
		go p.stream(maxTokens, first, results)
	}
	return results
}

func (p *process) stream(maxTokens uint32, first chan<- error, results chan<- streamed) {
	stream, err := infernov1.NewInferenceServiceClient(p.dial()).GenerateStream(context.Background(), generate(maxTokens))
	tokens, told := 0, false
	for err == nil {
		var m *infernov1.GenerateStreamResponse
		m, err = stream.Recv()
		if !told {
			first <- err
			told = true
		}
		for _, d := range m.GetDeltas() {
			tokens += len(d.GetTokenIds())
		}
	}
	if !told {
		first <- err
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	results <- streamed{tokens: tokens, err: err}
}

// generate asks the tiny model for exactly so many tokens.
func generate(maxTokens uint32) *infernov1.GenerateRequest {
	greedy, ignore := float32(0), true
	return &infernov1.GenerateRequest{
		Model:    "tiny",
		Input:    &infernov1.GenerateRequest_TokenIds{TokenIds: &infernov1.TokenIds{Ids: []uint32{1, 5, 9}}},
		Sampling: &infernov1.SamplingParameters{Temperature: &greedy},
		Stopping: &infernov1.StoppingParameters{MaxTokens: &maxTokens, IgnoreEos: &ignore},
	}
}

// TestKilledServerLeavesNothingInTheWay: the next process takes the same addresses, port and socket.
func TestKilledServerLeavesNothingInTheWay(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "unix://" + filepath.Join(t.TempDir(), "s")} {
		p := startServer(t, "--listen="+listen, "--model=tiny="+tiny)
		p.waitServing()
		stream, err := infernov1.NewInferenceServiceClient(p.dial()).GenerateStream(t.Context(), generate(500))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		p.signal(syscall.SIGKILL)
		if err := drain(stream); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: the stream ended with %v, want UNAVAILABLE", listen, err)
		}
		p.exit()
		again := startServer(t, "--listen="+p.grpc, "--admin-listen="+p.admin, "--model=tiny="+tiny)
		again.waitServing()
		again.signal(syscall.SIGTERM)
		if code := again.exit(); code != 0 || again.grpc != p.grpc || again.admin != p.admin {
			t.Errorf("the next process listened at %s and %s and ended with %d, want %s, %s and 0", again.grpc, again.admin, code, p.grpc, p.admin)
		}
	}
}
