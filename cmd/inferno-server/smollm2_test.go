package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// smolLM2 is the path of the default model, which `make test` fetches.
func smolLM2(t *testing.T) string {
	t.Helper()
	path := os.Getenv("INFERNO_SMOLLM2")
	if path == "" {
		t.Skip("INFERNO_SMOLLM2 is not set to the path of SmolLM2-135M-Instruct.Q4_1.gguf: `make test` sets it")
	}
	return path
}

// The first thing that a stranger tries.
func TestDefaultModelAnswersGrpcurl(t *testing.T) {
	p := startServer(t, "--model", "smollm2="+smolLM2(t))
	p.waitServing()
	request := `{"model":"smollm2","text":"The capital of France is","sampling":{"temperature":0},"stopping":{"max_tokens":8}}`
	code, out := runTool(t, "grpcurl", "-plaintext", "-d", request, p.grpc, "inferno.v1.InferenceService/Generate")
	var answer struct {
		Completions []struct{ Text string }
		Usage       struct{ PromptTokens, CompletionTokens int }
	}
	if err := json.Unmarshal([]byte(out), &answer); code != 0 || err != nil || len(answer.Completions) != 1 {
		t.Fatalf("grpcurl exits %d (%v):\n%s", code, err, out)
	}
	if !strings.HasPrefix(answer.Completions[0].Text, " Paris") || answer.Usage.PromptTokens != 5 {
		t.Errorf("grpcurl answered %s", out)
	}
}

// company is how a server runs by which requests get the same tokens alone and together.
type company struct {
	model  string
	ids    bool     // prompts are token ids: there is no tokenizer
	longer int      // times the usual lengths of outputs: by several blocks, so that sequences that run outgrow what was left free at their start
	few    []string // flags for KV blocks for a fraction of the requests
}

func TestCompanyChangesNoToken(t *testing.T) {
	testCompany(t, company{model: smolLM2(t), longer: 2, few: []string{"--kv-memory=12MiB", "--context=512", "--target-itl=0s"}}, "--device=cpu")
}

// TestCompanyChangesNoTokenCUDA has steps of up to 64 rows, which is as far as a card keeps the promise.
func TestCompanyChangesNoTokenCUDA(t *testing.T) {
	flags := append(card(t), "--max-batch=32", "--max-batch-tokens=64")
	c := company{longer: 3, few: []string{"--kv-memory=9MiB", "--context=256", "--target-itl=0s"}} // 6 blocks of 64 tokens
	t.Run("random weights", func(t *testing.T) {
		c.model, c.ids = shape("smollm2-135m"), true
		testCompany(t, c, append(flags, "--load-format=random")...)
	})
	t.Run("the model itself", func(t *testing.T) {
		c.model, c.ids = smolLM2(t), false
		testCompany(t, c, flags...)
	})
}

// testCompany: requests of mixed lengths and parameters get the same tokens alone and together, preempted ones too.
func testCompany(t *testing.T, c company, args ...string) {
	t.Helper()
	args = append(args, "--model=smollm2="+c.model)
	alone := startProcess(t, nil, args...)
	alone.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	requests := make([]*infernov1.GenerateRequest, 32)
	want := make([][]uint32, len(requests))
	client := infernov1.NewInferenceServiceClient(alone.dial())
	for i := range requests {
		requests[i] = c.request(i)
		answer, err := client.Generate(t.Context(), requests[i])
		if err != nil {
			t.Fatal(err)
		}
		want[i] = answer.GetCompletions()[0].GetTokenIds()
	}
	if slices.Equal(want[1], want[3]) {
		t.Error("two seeds gave the same tokens: this tests less than it should")
	}

	together := startProcess(t, nil, append(args, c.few...)...)
	together.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	client = infernov1.NewInferenceServiceClient(together.dial())
	var calls sync.WaitGroup
	for i, r := range requests {
		calls.Go(func() {
			answer, err := client.Generate(t.Context(), r)
			if err != nil {
				t.Errorf("request %d: %v", i, err)
				return
			}
			if got := answer.GetCompletions()[0].GetTokenIds(); !slices.Equal(got, want[i]) {
				t.Errorf("request %d: tokens %v, alone %v", i, got, want[i])
			}
		})
	}
	calls.Wait()
	metrics := together.metrics()
	if !strings.Contains(metrics, `inferno_kv_blocks_used{model="smollm2"} 0`+"\n") {
		t.Errorf("blocks are still in use:\n%s", metrics)
	}
	if strings.Contains(metrics, `inferno_preemptions_total{model="smollm2"} 0`+"\n") {
		t.Error("nothing was preempted: this tests less than it should")
	}
}

// request is greedy for even i and seeded for odd ones; prompts differ in length.
func (c company) request(i int) *infernov1.GenerateRequest {
	maxTokens, ignore, temperature, seed, topP := uint32(c.longer*(24+5*(i%7))), true, float32(0), uint64(i), float32(0.95)
	if i%2 == 1 {
		temperature = 0.9
	}
	prompt := fmt.Sprintf("Story number %d. ", i) + strings.Repeat("Once upon a time there was a river. ", i%9)
	r := &infernov1.GenerateRequest{
		Model:    "smollm2",
		Input:    &infernov1.GenerateRequest_Text{Text: prompt},
		Sampling: &infernov1.SamplingParameters{Temperature: &temperature, Seed: &seed, TopP: &topP},
		Stopping: &infernov1.StoppingParameters{MaxTokens: &maxTokens, IgnoreEos: &ignore},
	}
	if c.ids {
		r.Input = &infernov1.GenerateRequest_TokenIds{TokenIds: &infernov1.TokenIds{Ids: slices.Repeat([]uint32{uint32(i), 17}, 3+i%9*5)}}
	}
	return r
}
