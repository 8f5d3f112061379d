package main_test

import (
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// askingRequest asks for all that can be told of a golden prompt and four tokens behind it.
func askingRequest(ids []int32, output *infernov1.OutputOptions) *infernov1.GenerateRequest {
	return &infernov1.GenerateRequest{
		Model:    "tiny",
		Input:    &infernov1.GenerateRequest_TokenIds{TokenIds: tokenIDs(ids)},
		Sampling: &infernov1.SamplingParameters{Temperature: new(float32(0))},
		Stopping: &infernov1.StoppingParameters{MaxTokens: new(uint32(4)), IgnoreEos: new(true)},
		Output:   output,
	}
}

func TestLogprobsMatchGoldenLogits(t *testing.T) {
	p := startServer(t, "--model", "tiny="+tiny)
	p.waitServing()
	api := infernov1.NewInferenceServiceClient(p.dial())
	for _, g := range goldenPrompts(t) {
		start := uint32(len(g.Tokens) / 3)
		answer, err := api.Generate(t.Context(), askingRequest(g.Tokens, &infernov1.OutputOptions{
			Logprobs: new(uint32(3)), PromptLogprobs: new(uint32(1)), PromptLogprobsStart: &start, LogprobTokenIds: []uint32{11, 2},
		}))
		if err != nil {
			t.Fatal(err)
		}
		check := func(what string, got *infernov1.TokenLogprob, id int32, logits []float32, top int) {
			t.Helper()
			want := logSoftmax(logits)
			near(t, what, float64(got.GetLogprob()), want[id])
			if got.GetTokenId() != uint32(id) || len(got.GetAlternatives()) != top+2 {
				t.Fatalf("%s: %v", what, got)
			}
			order := slices.Clone(want)
			slices.Sort(order)
			for j, a := range got.GetAlternatives()[:top] {
				near(t, what+", likely", float64(a.GetLogprob()), order[len(order)-1-j])
				near(t, what+", likely by id", float64(a.GetLogprob()), want[a.GetTokenId()])
			}
			near(t, what+", token 11", float64(got.GetAlternatives()[top].GetLogprob()), want[11])
			near(t, what+", token 2", float64(got.GetAlternatives()[top+1].GetLogprob()), want[2])
		}
		prompt := answer.GetStart().GetPromptLogprobs()
		if len(prompt) != len(g.Tokens)-int(start) {
			t.Fatalf("%d log-probabilities of a prompt of %d from %d on", len(prompt), len(g.Tokens), start)
		}
		for j, l := range prompt {
			if at := int(start) + j; at > 0 {
				check("prompt", l, g.Tokens[at], g.Logits[at-1], 1)
			} else if l.Logprob != nil || l.GetRank() != 0 || l.GetTokenId() != uint32(g.Tokens[0]) || len(l.GetAlternatives()) > 0 {
				t.Errorf("the first token has %v", l)
			}
		}
		c := answer.GetCompletions()[0]
		if len(c.GetLogprobs()) != 4 || len(c.GetTokenIds()) != 4 {
			t.Fatalf("%d log-probabilities of %d tokens", len(c.GetLogprobs()), len(c.GetTokenIds()))
		}
		check("first new token", c.GetLogprobs()[0], g.Greedy[0], g.Logits[len(g.Logits)-1], 3)
		for j, l := range c.GetLogprobs() {
			if l.GetTokenId() != c.GetTokenIds()[j] || l.GetRank() != 1 {
				t.Errorf("new token %d is %d: %v", j, c.GetTokenIds()[j], l)
			}
		}
	}
}

// TestStreamsCarryLogprobsByDelta puts a stream together again and compares it with the answer in one piece.
func TestStreamsCarryLogprobsByDelta(t *testing.T) {
	p := startServer(t, "--model", "tiny="+tiny)
	p.waitServing()
	api := infernov1.NewInferenceServiceClient(p.dial())
	for name, change := range map[string]func(*infernov1.GenerateRequest){
		"plain":         func(*infernov1.GenerateRequest) {},
		"echo":          func(r *infernov1.GenerateRequest) { r.Output.Echo = new(true) },
		"text alone":    func(r *infernov1.GenerateRequest) { r.Output.TokenIds = new(false) },
		"three, echoed": func(r *infernov1.GenerateRequest) { r.Output.Echo, r.Sampling.N = new(true), new(uint32(3)) },
		"flushed":       func(r *infernov1.GenerateRequest) { r.Output.FlushTokens = new(uint32(7)) },
		"penalised":     func(r *infernov1.GenerateRequest) { r.Sampling.RepetitionPenalty = new(float32(1.3)) },
	} {
		t.Run(name, func(t *testing.T) {
			request := askingRequest(goldenPrompts(t)[1].Tokens, &infernov1.OutputOptions{Logprobs: new(uint32(2)), PromptLogprobs: new(uint32(0))})
			request.Sampling = &infernov1.SamplingParameters{Seed: new(uint64(5))}
			request.Stopping.MaxTokens, request.Stopping.IgnoreEos = new(uint32(300)), new(true) // more than go into one message
			change(request)
			whole, err := api.Generate(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			stream, err := api.GenerateStream(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]*infernov1.Completion, len(whole.GetCompletions()))
			for i := range got {
				got[i] = &infernov1.Completion{Index: uint32(i)}
			}
			messages := 0
			for {
				m, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if messages++; messages == 1 && !sameLogprobs(m.GetStart().GetPromptLogprobs(), whole.GetStart().GetPromptLogprobs()) {
					t.Error("the prompt's log-probabilities differ from those in one piece")
				}
				for _, d := range m.GetDeltas() {
					c := got[d.GetIndex()]
					if int(d.GetOffset()) != len(c.GetLogprobs()) || len(d.GetTokenIds()) != len(d.GetLogprobs()) && name != "text alone" {
						t.Errorf("a delta at %d has %d ids and %d log-probabilities", d.GetOffset(), len(d.GetTokenIds()), len(d.GetLogprobs()))
					}
					c.Text += d.GetText()
					c.TokenIds, c.Logprobs = append(c.TokenIds, d.GetTokenIds()...), append(c.Logprobs, d.GetLogprobs()...)
				}
				for _, f := range m.GetFinish().GetFinishes() {
					got[f.GetIndex()].Finish = f
				}
			}
			for i, want := range whole.GetCompletions() {
				if !proto.Equal(got[i], want) {
					t.Errorf("continuation %d: the stream has %v, in one piece %v", i, got[i], want)
				}
			}
			if messages < 2 {
				t.Errorf("%d messages: this tested nothing", messages)
			}
		})
	}
}

func sameLogprobs(a, b []*infernov1.TokenLogprob) bool {
	return slices.EqualFunc(a, b, func(x, y *infernov1.TokenLogprob) bool { return proto.Equal(x, y) })
}

// TestEchoPutsThePromptInFront is the oldest way to score: the prompt comes back with its log-probabilities.
func TestEchoPutsThePromptInFront(t *testing.T) {
	p := startServer(t, "--model", "tiny="+tiny)
	p.waitServing()
	api := infernov1.NewInferenceServiceClient(p.dial())
	request := askingRequest(nil, &infernov1.OutputOptions{Logprobs: new(uint32(1))})
	request.Input = &infernov1.GenerateRequest_Text{Text: "the cat sat on"}
	without, err := api.Generate(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	request.Output.Echo = new(true)
	with, err := api.Generate(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	n := int(with.GetStart().GetPromptTokens())
	a, b := with.GetCompletions()[0], without.GetCompletions()[0]
	if a.GetText() != "the cat sat on"+b.GetText() || !slices.Equal(a.GetTokenIds()[n:], b.GetTokenIds()) || !sameLogprobs(a.GetLogprobs()[n:], b.GetLogprobs()) {
		t.Errorf("with the prompt in front %v, without %v", a, b)
	}
	if first := a.GetLogprobs()[0]; first.Logprob != nil || len(a.GetLogprobs()) != len(a.GetTokenIds()) {
		t.Errorf("%d log-probabilities of %d tokens, the first is %v", len(a.GetLogprobs()), len(a.GetTokenIds()), first)
	}
	sum := 0.0
	for _, l := range a.GetLogprobs()[1:n] {
		sum += float64(l.GetLogprob())
	}
	score, err := api.Score(t.Context(), &infernov1.ScoreRequest{Model: "tiny", Inputs: []*infernov1.ScoreInput{
		{Continuation: &infernov1.ScoreInput_Text{Text: "the cat sat on"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got := score.GetResults()[0].GetLogprob(); math.Abs(got-sum) > 1e-6*math.Abs(sum) || len(with.GetStart().GetPromptLogprobs()) > 0 {
		t.Errorf("Score says %v, the echo %v", got, sum)
	}
	if with.GetUsage().GetCompletionTokens() != 4 {
		t.Errorf("usage %v, want 4 new tokens", with.GetUsage())
	}
}

func TestDryRunGeneratesNothing(t *testing.T) {
	p := startServer(t, "--model", "tiny="+tiny)
	p.waitServing()
	api := infernov1.NewInferenceServiceClient(p.dial())
	request := generate(5)
	request.DryRun = true
	for _, c := range []struct {
		prompt, most int
		fits         bool
	}{{3, 5, true}, {3, 509, true}, {3, 510, false}, {511, 1, true}, {512, 1, false}, {5000, 7, false}} {
		request.Input = &infernov1.GenerateRequest_TokenIds{TokenIds: &infernov1.TokenIds{Ids: slices.Repeat([]uint32{7}, c.prompt)}}
		request.Stopping.MaxTokens = new(uint32(c.most))
		answer, err := api.Generate(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		dry := answer.GetDryRun()
		if int(dry.GetPromptTokens()) != c.prompt || dry.GetFits() != c.fits || len(answer.GetCompletions()) > 0 || answer.GetUsage() != nil {
			t.Errorf("a prompt of %d and %d new tokens: %v", c.prompt, c.most, answer)
		}
		if queue := dry.GetEstimatedQueueTime(); c.fits != (queue != nil) || queue.AsDuration() != 0 || dry.GetQueueLength() != 0 {
			t.Errorf("an idle server estimates %v", dry)
		}
		stream, err := api.GenerateStream(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		m, err := stream.Recv()
		if err != nil || !proto.Equal(m.GetDryRun(), dry) || m.GetStart().GetModel() != "tiny" {
			t.Errorf("the stream has %v, %v", m, err)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("after the dry run comes %v", err)
		}
	}
	metrics := p.metrics()
	for _, name := range []string{"inferno_request_seconds_count", "inferno_output_tokens_total"} {
		if line := name + `{model="tiny"} 0` + "\n"; !strings.Contains(metrics, line) {
			t.Errorf("after dry runs alone metrics lack %s", line)
		}
	}
}
