package main_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// progressRequest has a prompt of some hundred tokens.
func progressRequest(prompt string) *infernov1.GenerateRequest {
	return &infernov1.GenerateRequest{
		Model: "smollm2", Input: &infernov1.GenerateRequest_Text{Text: strings.Repeat(prompt, 40)},
		Sampling: &infernov1.SamplingParameters{Temperature: new(float32(0))}, Stopping: &infernov1.StoppingParameters{MaxTokens: new(uint32(2))},
		Output: &infernov1.OutputOptions{PromptProgress: new(true)},
	}
}

// readProgress reads a stream to its end: what it told of the prompt, and the start.
func readProgress(t *testing.T, stream infernov1.InferenceService_GenerateStreamClient) (told []uint32, start *infernov1.GenerationStart) {
	t.Helper()
	for {
		m, err := stream.Recv()
		switch p := m.GetProgress(); {
		case errors.Is(err, io.EOF):
			return told, start
		case err != nil:
			t.Fatal(err)
		case p != nil && start != nil:
			t.Errorf("%v after the start", p)
		case p != nil:
			told = append(told, p.GetComputedTokens())
		case m.GetStart() != nil:
			start = m.GetStart()
		}
	}
}

// The default model's prompts are told step by step, those that are cached from there on, and to who waits for a place at once.
func TestPromptsAreToldAsTheyGo(t *testing.T) {
	p := startServer(t, "--model=smollm2="+smolLM2(t), "--max-batch=1", "--max-batch-tokens=64", "--device=cpu")
	p.waitServing()
	client := infernov1.NewInferenceServiceClient(p.dial())
	ask := func(r *infernov1.GenerateRequest) infernov1.InferenceService_GenerateStreamClient {
		stream, err := client.GenerateStream(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	for _, cached := range []bool{false, true} { // the same prompt twice
		told, start := readProgress(t, ask(progressRequest("The river flows to the sea. ")))
		n, found := start.GetPromptTokens(), start.GetCachedPromptTokens()
		if len(told) == 0 || told[0] != 0 || !slices.IsSorted(told) || len(slices.Compact(slices.Clone(told))) != len(told) || told[len(told)-1] >= n {
			t.Fatalf("cached %t: told %v of a prompt of %d tokens", cached, told, n)
		}
		if cached != (found > 0) || len(told) > 1 && told[1] < found {
			t.Errorf("told %v where %d of %d tokens came from the cache", told, found, n)
		}
		if !cached && (n < 200 || told[len(told)-1] < n-65) {
			t.Errorf("told %v of a prompt of %d tokens in steps of 64", told, n)
		}
	}

	long := progressRequest("Once upon a time. ")
	long.Stopping, long.Output = &infernov1.StoppingParameters{MaxTokens: new(uint32(400)), IgnoreEos: new(true)}, nil
	first := ask(long)
	if _, err := first.Recv(); err != nil { // it has the one place
		t.Fatal(err)
	}
	waits := ask(progressRequest("Another story. "))
	m, err := waits.Recv()
	if err != nil || m.GetProgress() == nil || m.GetProgress().GetComputedTokens() != 0 || m.GetProgress().GetPromptTokens() < 100 {
		t.Errorf("a request that waits is told %v, %v", m, err)
	}
	if told, start := readProgress(t, waits); start == nil || !slices.IsSorted(told) {
		t.Errorf("then %v, %v", told, start)
	}
}
