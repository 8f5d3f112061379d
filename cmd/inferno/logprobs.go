package main

import (
	"context"
	"fmt"
	"time"

	"github.com/inferno-serve/inferno/client"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// logprobFlags say what to tell beside tokens.
type logprobFlags struct {
	Logprobs        *uint32  `help:"Print log-probabilities of the new tokens and of this many of the most likely; with --json."`
	PromptLogprobs  *uint32  `name:"prompt-logprobs" help:"The same of the prompt's tokens; with --json."`
	LogprobTokenIDs []uint32 `name:"logprob-token-ids" placeholder:"ID" help:"Tokens whose log-probabilities to print at every place."`
	Echo            bool     `help:"Put the prompt in front of the output."`
	DryRun          bool     `name:"dry-run" help:"Generate nothing: print how many tokens the prompt has, whether they fit, and how long they would wait."`
}

// apply adds them to a request; asJSON says that there is a way to print them.
func (f *logprobFlags) apply(req *infernov1.GenerateRequest, asJSON bool) error {
	if (f.Logprobs != nil || f.PromptLogprobs != nil) && !asJSON {
		return fmt.Errorf("%w: --logprobs and --prompt-logprobs need --json", errUsage)
	}
	o := req.GetOutput()
	o.Logprobs, o.PromptLogprobs, o.LogprobTokenIds = f.Logprobs, f.PromptLogprobs, f.LogprobTokenIDs
	if f.Echo {
		o.Echo = &f.Echo
	}
	return nil
}

// logprobJSON is a token in its place; its log-probability is null where nothing precedes it.
type logprobJSON struct {
	TokenID      uint32            `json:"token_id"`
	Logprob      *float32          `json:"logprob"`
	Rank         uint32            `json:"rank,omitempty"`
	Alternatives []alternativeJSON `json:"alternatives,omitempty"`
}

type alternativeJSON struct {
	TokenID uint32  `json:"token_id"`
	Logprob float32 `json:"logprob"`
}

func logprobsJSON(all []*infernov1.TokenLogprob) (out []logprobJSON) {
	for _, l := range all {
		one := logprobJSON{TokenID: l.GetTokenId(), Logprob: l.Logprob, Rank: l.GetRank()}
		for _, a := range l.GetAlternatives() {
			one.Alternatives = append(one.Alternatives, alternativeJSON{a.GetTokenId(), a.GetLogprob()})
		}
		out = append(out, one)
	}
	return out
}

// promptLine is the first line of JSON, where the prompt's log-probabilities are asked for.
type promptLine struct {
	PromptLogprobs []logprobJSON `json:"prompt_logprobs"`
}

// dryRunLine is all that a dry run prints as JSON.
type dryRunLine struct {
	PromptTokens int      `json:"prompt_tokens"`
	Cached       int      `json:"cached_prompt_tokens"`
	Fits         bool     `json:"fits"`
	QueueLength  int      `json:"queue_length"`
	Wait         *float64 `json:"estimated_queue_ms,omitempty"`
}

func (g *generateCommand) dryRun(ctx context.Context, c *console, server *client.Client, req *infernov1.GenerateRequest) error {
	_, dry, err := server.DryRun(ctx, req)
	if err != nil {
		return err
	}
	if g.JSON {
		line := dryRunLine{dry.PromptTokens, dry.CachedPromptTokens, dry.Fits, dry.QueueLength, nil}
		if dry.EstimatedQueueTime != nil {
			line.Wait = new(milliseconds(*dry.EstimatedQueueTime))
		}
		return c.writeJSON(line)
	}
	fits, wait := "fits", "unknown wait"
	if !dry.Fits {
		fits = "does not fit"
	}
	if dry.EstimatedQueueTime != nil {
		wait = fmt.Sprintf("about %v to the first step", dry.EstimatedQueueTime.Round(time.Millisecond))
	}
	_, err = fmt.Fprintf(c.out, "%d prompt tokens, %d of them cached: %s; %d requests wait, %s\n",
		dry.PromptTokens, dry.CachedPromptTokens, fits, dry.QueueLength, wait)
	return err
}
