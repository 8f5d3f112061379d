package main

import (
	"context"
	"fmt"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

type scoreCommand struct {
	remote `embed:""`

	Model       string   `help:"Name of the model; may be left out where the server has one only."`
	Context     string   `help:"What the texts follow, itself not scored."`
	Tokens      bool     `help:"Also print each token's log-probability and rank; with --json."`
	TopLogprobs *uint32  `name:"top-logprobs" help:"Also print this many of the most likely tokens at each place; with --tokens."`
	AddSpecial  bool     `negatable:"" default:"true" help:"Add the special tokens that the model's tokenizer adds."`
	Text        []string `arg:"" optional:"" help:"Texts. Without any, standard input has a line {\"context\": ..., \"text\": ...} for each."`
}

// scored is a text and what it follows.
type scored struct{ context, text string }

// scoreLine is what is told of one.
type scoreLine struct {
	Logprob float64       `json:"logprob"` // the sum, natural logarithm
	Tokens  uint32        `json:"tokens"`  // scored
	Greedy  bool          `json:"greedy"`
	Each    []logprobJSON `json:"token_logprobs,omitempty"`
}

// Run prints how likely each text is.
func (s *scoreCommand) Run(ctx context.Context, c *console) error {
	if s.Tokens && !s.JSON && len(s.Text) > 0 || s.TopLogprobs != nil && !s.Tokens {
		return fmt.Errorf("%w: --tokens needs --json, and --top-logprobs needs --tokens", errUsage)
	}
	server, err := s.dial()
	if err != nil {
		return err
	}
	defer server.Close()
	model, err := onlyModel(ctx, server, s.Model)
	if err != nil {
		return err
	}
	score := func(in scored) (any, error) { return s.score(ctx, server.Inference(), model, in) }
	for _, text := range s.Text {
		line, err := score(scored{s.Context, text})
		if err != nil {
			return err
		}
		if err := s.print(c, line.(scoreLine)); err != nil {
			return err
		}
	}
	if len(s.Text) > 0 {
		return nil
	}
	return eachLine(ctx, c, readScored, score)
}

func (s *scoreCommand) score(ctx context.Context, api infernov1.InferenceServiceClient, model string, in scored) (any, error) {
	answer, err := api.Score(ctx, &infernov1.ScoreRequest{
		Model: model, Tokens: &s.Tokens, TopLogprobs: s.TopLogprobs, PromptOptions: &infernov1.PromptOptions{AddSpecialTokens: &s.AddSpecial},
		Inputs: []*infernov1.ScoreInput{{
			Context: &infernov1.ScoreInput_ContextText{ContextText: in.context}, Continuation: &infernov1.ScoreInput_Text{Text: in.text},
		}},
	})
	if err != nil {
		return nil, err
	}
	r := answer.GetResults()[0]
	if e := r.GetError(); e != nil {
		return nil, itemError(e)
	}
	return scoreLine{r.GetLogprob(), r.GetScoredTokens(), r.GetGreedy(), logprobsJSON(r.GetTokens())}, nil
}

func itemError(e *infernov1.ItemError) error {
	return fmt.Errorf("%s: %s", e.GetReason(), e.GetMessage())
}

func (s *scoreCommand) print(c *console, line scoreLine) error {
	if s.JSON {
		return c.writeJSON(line)
	}
	greedy := ""
	if line.Greedy {
		greedy = " greedy"
	}
	_, err := fmt.Fprintf(c.out, "%.4f of %d tokens%s\n", line.Logprob, line.Tokens, greedy)
	return err
}

// readScored reads {"context": ..., "text": ...}, of which the context may be missing.
func readScored(r *strictjson.Reader) (in scored, err error) {
	found := false
	err = r.Object(func(name string) (err error) {
		switch name {
		case "context":
			in.context, err = r.String()
		case "text":
			in.text, err = r.String()
			found = true
		default:
			err = fmt.Errorf("unknown key, want \"context\" or \"text\"")
		}
		return err
	})
	if err == nil && !found {
		err = fmt.Errorf("\"text\" is missing")
	}
	return in, err
}

type embedCommand struct {
	remote `embed:""`

	Model      string   `help:"Name of the model; may be left out where the server has one only."`
	Pooling    string   `enum:"mean,last-token" default:"mean" help:"How the tokens' hidden states become one vector: mean or last-token."`
	Normalize  bool     `negatable:"" default:"true" help:"Scale vectors to length 1."`
	AddSpecial bool     `negatable:"" default:"true" help:"Add the special tokens that the model's tokenizer adds."`
	Text       []string `arg:"" optional:"" help:"Texts. Without any, standard input has a line {\"text\": ...} for each."`
}

// Run prints the vector of each text, as a line of JSON.
func (e *embedCommand) Run(ctx context.Context, c *console) error {
	server, err := e.dial()
	if err != nil {
		return err
	}
	defer server.Close()
	model, err := onlyModel(ctx, server, e.Model)
	if err != nil {
		return err
	}
	type line struct {
		Embedding []float32 `json:"embedding"`
	}
	embed := func(text string) (any, error) {
		answer, err := server.Inference().Embed(ctx, &infernov1.EmbedRequest{
			Model: model, Normalize: &e.Normalize, Pooling: e.pooling(), PromptOptions: &infernov1.PromptOptions{AddSpecialTokens: &e.AddSpecial},
			Inputs: []*infernov1.EmbedInput{{Input: &infernov1.EmbedInput_Text{Text: text}}},
		})
		if err != nil {
			return nil, err
		}
		r := answer.GetResults()[0]
		if e := r.GetError(); e != nil {
			return nil, itemError(e)
		}
		return line{r.GetEmbedding()}, nil
	}
	for _, text := range e.Text {
		vector, err := embed(text)
		if err == nil {
			err = c.writeJSON(vector)
		}
		if err != nil {
			return err
		}
	}
	if len(e.Text) > 0 {
		return nil
	}
	return eachLine(ctx, c, member("text", (*strictjson.Reader).String), embed)
}

func (e *embedCommand) pooling() infernov1.Pooling {
	if e.Pooling == "last-token" {
		return infernov1.Pooling_POOLING_LAST_TOKEN
	}
	return infernov1.Pooling_POOLING_MEAN
}
