package main_test

import (
	"bufio"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/inferno-serve/inferno/internal/model/modeltest"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// logprobTolerance is for arithmetic in float32 throughout.
const logprobTolerance = 1e-3

// logSoftmax turns reference logits into log-probabilities, in float64.
func logSoftmax(logits []float32) []float64 {
	sum, most := 0.0, float64(slices.Max(logits))
	for _, v := range logits {
		sum += math.Exp(float64(v) - most)
	}
	out := make([]float64, len(logits))
	for i, v := range logits {
		out[i] = float64(v) - most - math.Log(sum)
	}
	return out
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if !(math.Abs(got-want) <= logprobTolerance) {
		t.Errorf("%s: log-probability %v, want %v", what, got, want)
	}
}

func tokenIDs(ids []int32) *infernov1.TokenIds {
	out := &infernov1.TokenIds{}
	for _, id := range ids {
		out.Ids = append(out.Ids, uint32(id))
	}
	return out
}

func goldenPrompts(t *testing.T) []modeltest.Prompt {
	t.Helper()
	return modeltest.ReadGolden(t, filepath.Join(tiny, "golden.safetensors"))
}

func TestScoreMatchesGoldenLogits(t *testing.T) {
	p := startServer(t, "--model", "tiny="+tiny, "--max-batch=3", "--max-queue=2")
	p.waitServing()
	prompts := goldenPrompts(t)
	request := &infernov1.ScoreRequest{Model: "tiny", TopLogprobs: new(uint32(2)), LogprobTokenIds: []uint32{319, 4}}
	var contexts []int // of each input
	var of []modeltest.Prompt
	for _, g := range prompts {
		for context := range len(g.Tokens) {
			if context%13 > 1 {
				continue
			}
			in := &infernov1.ScoreInput{Continuation: &infernov1.ScoreInput_TokenIds{TokenIds: tokenIDs(g.Tokens[context:])}}
			if context > 0 {
				in.Context = &infernov1.ScoreInput_ContextIds{ContextIds: tokenIDs(g.Tokens[:context])}
			}
			request.Inputs, contexts, of = append(request.Inputs, in), append(contexts, context), append(of, g)
		}
	}
	answer, err := infernov1.NewInferenceServiceClient(p.dial()).Score(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if len(answer.GetResults()) != len(request.GetInputs()) {
		t.Fatalf("%d results for %d inputs", len(answer.GetResults()), len(request.GetInputs()))
	}
	total := 0
	for i, result := range answer.GetResults() {
		g, first := of[i], max(contexts[i], 1)
		total += len(g.Tokens)
		sum, greedy := 0.0, true
		if len(result.GetTokens()) != len(g.Tokens)-first {
			t.Fatalf("input %d: %d tokens scored, want %d", i, len(result.GetTokens()), len(g.Tokens)-first)
		}
		for j, got := range result.GetTokens() {
			want := logSoftmax(g.Logits[first+j-1])
			id := g.Tokens[first+j]
			near(t, "token", float64(got.GetLogprob()), want[id])
			if got.GetTokenId() != uint32(id) || len(got.GetAlternatives()) != 4 {
				t.Fatalf("input %d, token %d: %v", i, j, got)
			}
			near(t, "likeliest", float64(got.GetAlternatives()[0].GetLogprob()), slices.Max(want))
			near(t, "token 319", float64(got.GetAlternatives()[2].GetLogprob()), want[319])
			near(t, "token 4", float64(got.GetAlternatives()[3].GetLogprob()), want[4])
			sum += want[id]
			greedy = greedy && want[id] == slices.Max(want)
		}
		if math.Abs(result.GetLogprob()-sum) > logprobTolerance*float64(len(g.Tokens)) {
			t.Errorf("input %d: sum %v, want %v", i, result.GetLogprob(), sum)
		}
		if result.GetGreedy() != greedy || int(result.GetScoredTokens()) != len(result.GetTokens()) || int(result.GetPromptTokens()) != len(g.Tokens) {
			t.Errorf("input %d: %v, want greedy %t", i, result, greedy)
		}
	}
	if int(answer.GetUsage().GetPromptTokens()) != total || answer.GetUsage().GetCompletionTokens() != 0 || answer.GetRequestId() == "" {
		t.Errorf("usage %v, want %d prompt tokens", answer.GetUsage(), total)
	}
}

// A golden continuation is what greedy decoding makes, and nothing else is.
func TestScoreKnowsTheGreedyContinuation(t *testing.T) {
	p := startServer(t, "--model", "tiny="+tiny)
	p.waitServing()
	for i, g := range goldenPrompts(t) {
		n := slices.IndexFunc(g.Margin, func(m float32) bool { return m < 0.02 }) // from there on another order of summation may differ
		if n < 0 {
			n = len(g.Greedy)
		}
		if n == 0 {
			continue
		}
		other := slices.Clone(g.Greedy[:n])
		other[n-1] = (other[n-1] + 1) % 320
		request := &infernov1.ScoreRequest{Model: "tiny", Tokens: new(false)}
		for _, continuation := range [][]int32{g.Greedy[:n], other} {
			request.Inputs = append(request.Inputs, &infernov1.ScoreInput{
				Context:      &infernov1.ScoreInput_ContextIds{ContextIds: tokenIDs(g.Tokens)},
				Continuation: &infernov1.ScoreInput_TokenIds{TokenIds: tokenIDs(continuation)},
			})
		}
		answer, err := infernov1.NewInferenceServiceClient(p.dial()).Score(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		r := answer.GetResults()
		if !r[0].GetGreedy() || r[1].GetGreedy() || r[0].GetLogprob() <= r[1].GetLogprob() || len(r[0].GetTokens()) > 0 {
			t.Errorf("prompt %d: %v", i, r)
		}
	}
}

func TestEmbedMatchesAReference(t *testing.T) {
	p := startServer(t, "--model", "tiny="+tiny)
	p.waitServing()
	reference := modeltest.NewReference(t, tiny)
	for _, pooling := range []infernov1.Pooling{infernov1.Pooling_POOLING_UNSPECIFIED, infernov1.Pooling_POOLING_LAST_TOKEN} {
		for _, normalize := range []*bool{nil, new(false)} {
			request := &infernov1.EmbedRequest{Model: "tiny", Pooling: pooling, Normalize: normalize}
			for _, g := range goldenPrompts(t) {
				request.Inputs = append(request.Inputs, &infernov1.EmbedInput{Input: &infernov1.EmbedInput_TokenIds{TokenIds: tokenIDs(g.Tokens)}})
			}
			answer, err := infernov1.NewInferenceServiceClient(p.dial()).Embed(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			for i, g := range goldenPrompts(t) {
				hidden := reference.Hidden(g.Tokens)
				if pooling == infernov1.Pooling_POOLING_LAST_TOKEN {
					hidden = hidden[len(hidden)-1:]
				}
				want, squares := make([]float64, len(hidden[0])), 0.0
				for k := range want {
					for _, h := range hidden {
						want[k] += h[k] / float64(len(hidden))
					}
					squares += want[k] * want[k]
				}
				got := answer.GetResults()[i].GetEmbedding()
				if len(got) != len(want) || int(answer.GetResults()[i].GetPromptTokens()) != len(g.Tokens) {
					t.Fatalf("input %d: %d numbers of %d tokens", i, len(got), answer.GetResults()[i].GetPromptTokens())
				}
				for k := range want {
					if normalize == nil {
						want[k] /= math.Sqrt(squares)
					}
					if math.Abs(float64(got[k])-want[k]) > 1e-4 {
						t.Errorf("%v, input %d: number %d is %v, want %v", pooling, i, k, got[k], want[k])
					}
				}
			}
		}
	}
}

// smolCase is a line of smollm2/cases.jsonl: a float64 forward pass over the weights of the default model's file.
type smolCase struct {
	Name string
	IDs  []int32      `json:"ids"`
	Top  [][2]float64 // id, log-probability behind the text
}

func fixture(t *testing.T, elements ...string) string {
	t.Helper()
	root := os.Getenv("INFERNO_FIXTURES")
	if root == "" {
		root = filepath.Join("..", "..", "..", "shared", "fixtures")
	}
	path := filepath.Join(append([]string{root}, elements...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no fixtures (INFERNO_FIXTURES): %v", err)
	}
	return path
}

func smolCases(t *testing.T) (cases []smolCase) {
	t.Helper()
	f, err := os.Open(fixture(t, "smollm2", "cases.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c smolCase
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		cases = append(cases, c)
	}
	if len(cases) == 0 || lines.Err() != nil {
		t.Fatalf("%d cases, %v", len(cases), lines.Err())
	}
	return cases
}

// TestHarnessScoringAgreesWithTheReference scores as an evaluation harness does: continuations of the text of each case, of which the
// reference has the log-probabilities. All 20 are told beside the first; of short texts two more are scored by themselves.
func TestHarnessScoringAgreesWithTheReference(t *testing.T) {
	cases := smolCases(t)
	p := startServer(t, "--model", "smollm2="+smolLM2(t), "--exact")
	p.waitServing()
	api := infernov1.NewInferenceServiceClient(p.dial())
	worst, scored := 0.0, 0
	agree := func(c smolCase, got, want float64) {
		near(t, c.Name, got, want)
		worst = max(worst, math.Abs(got-want))
		scored++
	}
	for _, c := range cases {
		request := &infernov1.ScoreRequest{Model: "smollm2"}
		for i, pair := range c.Top {
			request.LogprobTokenIds = append(request.LogprobTokenIds, uint32(pair[0]))
			if i == 0 || len(c.IDs) < 60 && (i == 1 || i == 7) {
				request.Inputs = append(request.Inputs, &infernov1.ScoreInput{
					Context:      &infernov1.ScoreInput_ContextIds{ContextIds: tokenIDs(c.IDs)},
					Continuation: &infernov1.ScoreInput_TokenIds{TokenIds: tokenIDs([]int32{int32(pair[0])})},
				})
			}
		}
		answer, err := api.Score(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		for i, result := range answer.GetResults() {
			which := []int{0, 1, 7}[i]
			agree(c, result.GetLogprob(), c.Top[which][1])
			if result.GetScoredTokens() != 1 || result.GetGreedy() != (i == 0) || len(result.GetTokens()) != 1 {
				t.Fatalf("%s, continuation %d: %v", c.Name, which, result)
			}
			if rank := result.GetTokens()[0].GetRank(); rank != uint32(which+1) && gap(c, which) > logprobTolerance {
				t.Errorf("%s: continuation %d has rank %d", c.Name, which, rank)
			}
		}
		for i, a := range answer.GetResults()[0].GetTokens()[0].GetAlternatives() {
			agree(c, float64(a.GetLogprob()), c.Top[i][1])
		}
	}
	t.Logf("%d log-probabilities, largest difference %.6f", scored, worst)
}

// gap is how far the log-probability of a case's i-th likeliest token is from those of its neighbours.
func gap(c smolCase, i int) float64 {
	least := math.Inf(1)
	for _, j := range []int{i - 1, i + 1} {
		if j >= 0 && j < len(c.Top) {
			least = min(least, math.Abs(c.Top[i][1]-c.Top[j][1]))
		}
	}
	return least
}

// TestRollingLogLikelihoodOfAText scores the beginning of a text, as perplexities are measured; the reference has the mean of every 128
// scores of a window.
func TestRollingLogLikelihoodOfAText(t *testing.T) {
	text, err := os.ReadFile(fixture(t, "smollm2", "nll.txt"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(fixture(t, "smollm2", "nll.json"))
	if err != nil {
		t.Fatal(err)
	}
	var reference struct {
		Per128 [][]float64 `json:"per_128"`
	}
	if err := json.Unmarshal(raw, &reference); err != nil {
		t.Fatal(err)
	}
	p := startServer(t, "--model", "smollm2="+smolLM2(t), "--exact")
	p.waitServing()
	api := infernov1.NewInferenceServiceClient(p.dial())
	tokens, err := api.Tokenize(t.Context(), &infernov1.TokenizeRequest{Model: "smollm2", Input: &infernov1.TokenizeRequest_Text{Text: string(text)}})
	if err != nil {
		t.Fatal(err)
	}
	const group, groups = 128, 4
	ids := &infernov1.TokenIds{Ids: tokens.GetTokenIds()[:group*groups+1]}
	answer, err := api.Score(t.Context(), &infernov1.ScoreRequest{Model: "smollm2", Inputs: []*infernov1.ScoreInput{
		{Continuation: &infernov1.ScoreInput_TokenIds{TokenIds: ids}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	r := answer.GetResults()[0]
	if len(r.GetTokens()) != group*groups {
		t.Fatalf("%d tokens scored, want %d", len(r.GetTokens()), group*groups)
	}
	for i := range groups {
		mean := 0.0
		for _, l := range r.GetTokens()[i*group : (i+1)*group] {
			mean -= float64(l.GetLogprob()) / group
		}
		near(t, "group of 128", mean, reference.Per128[0][i])
	}
}
