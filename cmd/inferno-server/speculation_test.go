package main_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// What people ask for whose answers say much of the prompt again, and one thing where they do not.
const (
	amazonText = `The Amazon rainforest covers about 5.5 million square kilometres of South America. Most of it, 60 percent, lies in Brazil, followed by ` +
		`Peru with 13 percent and Colombia with 10 percent. It holds more than half of the remaining rainforest of the planet, and about 390 billion trees ` +
		`of some 16,000 species. Since the 1970s about a fifth of the forest in Brazil has been cut down, mostly for cattle. Researchers warn that once ` +
		`another part is lost, the forest may no longer make enough rain for itself, and much of it would turn into savannah. Brazil says that it will ` +
		`end illegal cutting by 2030.`
	totalCode = `def total(items):
    result = 0
    for item in items:
        if item.price > 0:
            result += item.price * item.count
    return result


def average(items):
    count = 0
    for item in items:
        count += item.count
    return total(items) / count`
)

var speculated = []struct{ name, message string }{
	{"copy-editing", "Write this text as a list of bullet points, one for each sentence.\n\n" + amazonText},
	{"editing code", "Here is some Python code. Write it again with the name result replaced by amount.\n\n" + totalCode},
	{"quoting", "What are the most important sentences of this text? Quote them.\n\n" + amazonText},
	{"summarising", "Summarize this text.\n\n" + amazonText},
	{"a story", "Write a short story about a lighthouse keeper."},
}

// TestSpeculationChangesNoAnswer compares whole answers of the default model with and without guesses, and tells how long they took: with -v it
// is the measurement in docs/performance.md.
func TestSpeculationChangesNoAnswer(t *testing.T) {
	p := startServer(t, "--device=cpu", "--model", "smollm2="+smolLM2(t))
	p.waitServing()
	client := infernov1.NewInferenceServiceClient(p.dial())
	accepted := uint32(0)
	for i, s := range speculated {
		for j, c := range []struct {
			name     string
			sampling *infernov1.SamplingParameters
			stopping *infernov1.StoppingParameters
		}{
			{"greedy", &infernov1.SamplingParameters{Temperature: new(float32(0))}, &infernov1.StoppingParameters{}},
			{"sampled", &infernov1.SamplingParameters{Temperature: new(float32(0.7)), TopP: new(float32(0.9)), Seed: new(uint64(3))},
				&infernov1.StoppingParameters{}},
			{"greedy, with stop strings", &infernov1.SamplingParameters{Temperature: new(float32(0))},
				&infernov1.StoppingParameters{StopStrings: []string{"Brazil, followed", "for item in", " sea"}}},
		} {
			if i > 1 && j > 0 {
				continue // there is nothing more to learn
			}
			c.stopping.MaxTokens = new(uint32(160))
			r := &infernov1.GenerateRequest{
				Model: "smollm2", Sampling: c.sampling, Stopping: c.stopping,
				Input: &infernov1.GenerateRequest_Chat{Chat: &infernov1.ChatMessages{Messages: []*infernov1.ChatMessage{{Role: "user", Content: s.message}}}},
			}
			plain, err := client.Generate(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			r.Speculation = &infernov1.SpeculationOptions{Ngram: &infernov1.NgramSpeculation{}}
			guessed, err := client.Generate(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := guessed.GetCompletions()[0], plain.GetCompletions()[0]; !proto.Equal(got, want) {
				t.Errorf("%s, %s:\ngot   %v\nplain %v", s.name, c.name, got, want)
			}
			u, tokens := guessed.GetUsage(), plain.GetUsage().GetCompletionTokens()
			if u.GetCompletionTokens() != tokens || plain.GetUsage().GetDraftTokens() != 0 {
				t.Errorf("%s, %s: usage %v, plain %v", s.name, c.name, u, plain.GetUsage())
			}
			accepted += u.GetAcceptedDraftTokens()
			before, after := plain.GetTimings().GetDecode().AsDuration(), guessed.GetTimings().GetDecode().AsDuration()
			t.Logf("%s, %s: %d tokens, %d of %d guesses right; decode %v, plain %v", s.name, c.name, tokens, u.GetAcceptedDraftTokens(), u.GetDraftTokens(),
				after, before)
		}
	}
	if accepted == 0 {
		t.Error("no guess was right")
	}
	if metrics := p.metrics(); strings.Contains(metrics, `inferno_accepted_draft_tokens_total{model="smollm2"} 0`+"\n") {
		t.Errorf("metrics do not count what usages do:\n%s", metrics)
	}
}
