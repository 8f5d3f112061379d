package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/inferno-serve/inferno/client"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

type generateCommand struct {
	remote `embed:""`

	Model     string        `help:"Name of the model; may be left out where the server has one only."`
	Prompt    *string       `xor:"prompt" required:"" help:"The prompt; - reads it from standard input."`
	User      *string       `xor:"prompt" required:"" help:"A user's message, in the model's chat template; - reads it from standard input."`
	System    string        `help:"The system message before it."`
	TokenIDs  []uint32      `name:"token-ids" xor:"prompt" required:"" placeholder:"ID" help:"The prompt as token ids, taken as they are."`
	RequestID string        `name:"request-id" help:"Name of the request in logs and for aborting it."`
	Timeout   time.Duration `help:"Give up after this time. Unset means never."`

	AddSpecial   *bool `negatable:"" help:"Add the special tokens that the model's tokenizer adds. Unset means yes, but with --user no."`
	ParseSpecial *bool `negatable:"" help:"Turn special tokens in the prompt into control tokens. Unset means yes, but with --user no."`
	SkipSpecial  bool  `negatable:"" default:"true" help:"Leave special tokens out of the text."`

	samplingFlags `embed:""`
	stoppingFlags `embed:""`
	logprobFlags  `embed:""`
	queueFlags    `embed:""`
	formFlags     `embed:""`

	Speculate *uint32 `placeholder:"N" help:"Have up to so many tokens at a time, 1 to 15, guessed from what the prompt and the output say twice: faster where they do, and the same output."`
}

// Run streams the answer to the console.
func (g *generateCommand) Run(ctx context.Context, c *console) error {
	if g.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, g.Timeout)
		defer cancel()
	}
	server, err := g.dial()
	if err != nil {
		return err
	}
	defer server.Close()
	req, err := g.request(c)
	if err != nil {
		return err
	}
	if err := g.apply(req, g.JSON); err != nil {
		return err
	}
	if req.Model, err = onlyModel(ctx, server, g.Model); err != nil {
		return err
	}
	ctx = g.queue(ctx, req)
	if g.DryRun {
		return g.dryRun(ctx, c, server, req)
	}
	if g.JSON {
		return printJSON(ctx, c, server, req)
	}
	return printText(ctx, c, server, req)
}

func (g *generateCommand) request(c *console) (*infernov1.GenerateRequest, error) {
	req := &infernov1.GenerateRequest{
		RequestId: g.RequestID,
		PromptOptions: &infernov1.PromptOptions{
			AddSpecialTokens: g.AddSpecial, ParseSpecial: g.ParseSpecial,
		},
		Sampling: g.samplingFlags.parameters(),
		Stopping: g.stoppingFlags.parameters(),
		Output:   &infernov1.OutputOptions{SkipSpecialTokens: &g.SkipSpecial},
	}
	var err error
	if req.Constraint, err = g.constraint(); err != nil {
		return nil, err
	}
	if g.Speculate != nil {
		req.Speculation = &infernov1.SpeculationOptions{Ngram: &infernov1.NgramSpeculation{MaxDraftTokens: g.Speculate}}
	}
	switch {
	case g.System != "" && g.User == nil:
		return nil, fmt.Errorf("%w: --system needs --user", errUsage)
	case g.User != nil:
		text, err := c.textOr(*g.User)
		req.Input = &infernov1.GenerateRequest_Chat{Chat: g.chat(text)}
		req.PromptOptions.ParseSpecial = nil // the template's always are; of the message --parse-special tells
		return req, err
	case g.Prompt != nil:
		text, err := c.textOr(*g.Prompt)
		req.Input = &infernov1.GenerateRequest_Text{Text: text}
		return req, err
	}
	req.Input = &infernov1.GenerateRequest_TokenIds{TokenIds: &infernov1.TokenIds{Ids: g.TokenIDs}}
	return req, nil
}

// chat is a conversation of one message and perhaps a system message.
func (g *generateCommand) chat(text string) *infernov1.ChatMessages {
	chat := &infernov1.ChatMessages{ParseSpecialInContent: g.ParseSpecial}
	if g.System != "" {
		chat.Messages = append(chat.Messages, &infernov1.ChatMessage{Role: "system", Content: g.System})
	}
	chat.Messages = append(chat.Messages, &infernov1.ChatMessage{Role: "user", Content: text})
	return chat
}

// textOr is a text, or where it is - what standard input has.
func (c *console) textOr(text string) (string, error) {
	if text != "-" {
		return text, nil
	}
	all, err := io.ReadAll(c.in)
	if err != nil {
		return "", fmt.Errorf("read the prompt: %w", err)
	}
	return string(all), nil
}

// tokensLine is a line of JSON for new tokens.
type tokensLine struct {
	Index    int           `json:"index,omitempty"` // which continuation
	TokenIDs []uint32      `json:"token_ids"`
	Text     string        `json:"text"`
	Logprobs []logprobJSON `json:"logprobs,omitempty"`
}

// finishLine is the last line of JSON. It has no token_ids and no text, so that joining those of all lines gives the output.
type finishLine struct {
	finishJSON
	Finishes  []finishJSON `json:"finishes,omitempty"` // of all continuations but the first
	RequestID string       `json:"request_id"`
	Model     string       `json:"model"`
	Seed      uint64       `json:"seed"`
	Usage     usageJSON    `json:"usage"`
	Timings   timingsJSON  `json:"timings"`
}

// finishJSON is why a continuation ended.
type finishJSON struct {
	Index        int     `json:"index,omitempty"`
	FinishReason string  `json:"finish_reason"`
	StopString   string  `json:"matched_stop_string,omitempty"`
	TokenID      *uint32 `json:"matched_token_id,omitempty"`
}

type usageJSON struct {
	PromptTokens       int `json:"prompt_tokens"`
	CachedPromptTokens int `json:"cached_prompt_tokens"`
	CompletionTokens   int `json:"completion_tokens"`
	Preemptions        int `json:"preemptions"`
	Drafts             int `json:"draft_tokens,omitempty"`
	Accepted           int `json:"accepted_draft_tokens,omitempty"`
}

func newUsageJSON(u client.Usage) usageJSON {
	return usageJSON{u.PromptTokens, u.CachedPromptTokens, u.CompletionTokens, u.Preemptions, u.DraftTokens, u.AcceptedDraftTokens}
}

type timingsJSON struct {
	Queued           float64 `json:"queued_ms"`
	Prefill          float64 `json:"prefill_ms"`
	Decode           float64 `json:"decode_ms"`
	TimeToFirstToken float64 `json:"time_to_first_token_ms"`
	Total            float64 `json:"total_ms"`
}

func printJSON(ctx context.Context, c *console, server *client.Client, req *infernov1.GenerateRequest) error {
	var last finishLine
	for event, err := range server.Stream(ctx, req) {
		if err != nil {
			return err
		}
		switch e := event.(type) {
		case client.Start:
			last.RequestID, last.Model, last.Seed = e.RequestID, e.Model, e.Effective.GetSampling().GetSeed()
			if len(e.PromptLogprobs) == 0 {
				continue
			}
			if err := c.writeJSON(promptLine{logprobsJSON(e.PromptLogprobs)}); err != nil {
				return err
			}
		case client.Tokens:
			line := tokensLine{Index: e.Index, TokenIDs: append([]uint32{}, e.IDs...), Text: e.Text, Logprobs: logprobsJSON(e.Logprobs)}
			if err := c.writeJSON(line); err != nil {
				return err
			}
		case client.Finish:
			finish := finishJSON{e.Index, reasonName(e.Reason), e.StopString, e.TokenID}
			if e.Index == 0 {
				last.finishJSON = finish
			} else {
				last.Finishes = append(last.Finishes, finish)
			}
		case client.Summary:
			last.Usage = newUsageJSON(e.Usage)
			t := e.Timings
			last.Timings = timingsJSON{
				milliseconds(t.Queued), milliseconds(t.Prefill), milliseconds(t.Decode), milliseconds(t.TimeToFirstToken), milliseconds(t.Total),
			}
		}
	}
	return c.writeJSON(last)
}

func reasonName(r infernov1.FinishReason) string { return enumName(r, "FINISH_REASON_") }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// printText prints the text as it comes, or the token ids where the model has no text. What it cost goes to the other stream, and only
// where a person sees it.
func printText(ctx context.Context, c *console, server *client.Client, req *infernov1.GenerateRequest) error {
	var ids []uint32
	var reason string
	printed, several := false, newContinuations()
	many := req.GetSampling().GetN() > 1
	prompt := promptProgress{c: c}
	prompt.ask(req.GetOutput())
	defer prompt.end()
	for event, err := range server.Stream(ctx, req) {
		if err != nil {
			if printed {
				fmt.Fprintln(c.out)
			}
			return err
		}
		switch e := event.(type) {
		case client.Progress:
			prompt.draw(e)
		case client.Start:
			prompt.end()
		case client.Tokens:
			if many {
				several.add(e)
				continue
			}
			ids = append(ids, e.IDs...)
			printed = printed || e.Text != ""
			if _, err := io.WriteString(c.out, c.safe(e.Text)); err != nil {
				return err
			}
		case client.Finish:
			reason = reasonName(e.Reason)
			several.finishes = append(several.finishes, e)
		case client.Summary:
			if many {
				if err := several.print(c); err != nil {
					return err
				}
			} else {
				if !printed {
					fmt.Fprint(c.out, joinIDs(ids))
				}
				fmt.Fprintln(c.out)
			}
			if c.errTerm {
				fmt.Fprintln(c.err, costLine(reason, e))
			}
		}
	}
	return nil
}

func costLine(reason string, s client.Summary) string {
	rate := "-"
	if n := s.Usage.CompletionTokens - 1; n > 0 && s.Timings.Decode > 0 {
		rate = fmt.Sprintf("%.1f", float64(n)/s.Timings.Decode.Seconds())
	}
	return fmt.Sprintf("[%d + %d tokens, first after %.0f ms, then %s tokens/s, %s]",
		s.Usage.PromptTokens, s.Usage.CompletionTokens, milliseconds(s.Timings.TimeToFirstToken), rate, reason)
}

// safe keeps a model's text from steering the terminal: control characters but line ends and tabs are shown as U+FFFD.
func (c *console) safe(text string) string {
	if !c.outTerm {
		return text
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

func joinIDs(ids []uint32) string { return strings.Trim(fmt.Sprint(ids), "[]") }
