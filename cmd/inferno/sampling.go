package main

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/inferno-serve/inferno/client"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// samplingFlags say how tokens are chosen. What is left out is the model's own default.
type samplingFlags struct {
	Temperature *float32 `help:"0 takes the most likely token."`
	TopK        *uint32  `help:"Keep the k most likely tokens; 0 keeps all."`
	TopP        *float32 `help:"Keep the most likely tokens up to this probability."`
	MinP        *float32 `help:"Keep tokens of at least this share of the most likely one's probability."`
	TypicalP    *float32 `help:"Keep the tokens of the most usual surprise up to this probability."`
	Seed        *uint64  `help:"Fix the randomness."`
	N           *uint32  `short:"n" name:"n" help:"How many continuations to make."`

	RepetitionPenalty *float32           `help:"Divide the logits of tokens seen."`
	PresencePenalty   *float32           `help:"Subtract from the logits of tokens generated."`
	FrequencyPenalty  *float32           `help:"Subtract once for each time that a token was generated."`
	PenaltyWindow     *uint32            `help:"Last tokens that the repetition penalty looks at; 0 is all."`
	LogitBias         map[uint32]float32 `mapsep:"," placeholder:"ID=VALUE" help:"Add to the logits of tokens."`
	AllowedTokenIDs   []uint32           `name:"allowed-token-ids" placeholder:"ID" help:"Choose only these tokens."`
	BannedTokenIDs    []uint32           `name:"banned-token-ids" placeholder:"ID" help:"Never choose these tokens."`
	BannedStrings     []string           `name:"ban" sep:"none" placeholder:"TEXT" help:"A text that the output never contains. Repeatable."`
}

func (f *samplingFlags) parameters() *infernov1.SamplingParameters {
	return &infernov1.SamplingParameters{
		Temperature: f.Temperature, TopK: f.TopK, TopP: f.TopP, MinP: f.MinP, TypicalP: f.TypicalP, Seed: f.Seed, N: f.N,
		RepetitionPenalty: f.RepetitionPenalty, PresencePenalty: f.PresencePenalty, FrequencyPenalty: f.FrequencyPenalty,
		PenaltyWindow: f.PenaltyWindow, LogitBias: f.LogitBias, AllowedTokenIds: f.AllowedTokenIDs, BannedTokenIds: f.BannedTokenIDs,
		BannedStrings: f.BannedStrings,
	}
}

// stoppingFlags say when to stop.
type stoppingFlags struct {
	MaxTokens    *uint32       `help:"Most new tokens."`
	MinTokens    *uint32       `help:"Fewest new tokens."`
	StopStrings  []string      `name:"stop" sep:"none" placeholder:"TEXT" help:"A text that ends the output, left out. Repeatable."`
	StopTokenIDs []uint32      `name:"stop-token-ids" placeholder:"ID" help:"Tokens that end the output."`
	IncludeStop  bool          `help:"Keep in the text what ended it."`
	IgnoreEOS    bool          `name:"ignore-eos" help:"Go on after the model's end tokens."`
	TimeLimit    time.Duration `help:"End the output normally after this time. Unset means never."`
	StopLoops    bool          `help:"End output that repeats itself."`
}

func (f *stoppingFlags) parameters() *infernov1.StoppingParameters {
	p := &infernov1.StoppingParameters{
		MaxTokens: f.MaxTokens, MinTokens: f.MinTokens, StopStrings: f.StopStrings, StopTokenIds: f.StopTokenIDs,
		IncludeStop: &f.IncludeStop, IgnoreEos: &f.IgnoreEOS,
	}
	if f.TimeLimit != 0 {
		p.TimeLimit = durationpb.New(f.TimeLimit)
	}
	if f.StopLoops {
		p.LoopDetection = &infernov1.LoopDetection{}
	}
	return p
}

// continuations are the texts of several continuations, which are printed one after the other once all have ended.
type continuations struct {
	texts    map[int]*strings.Builder
	ids      map[int][]uint32
	finishes []client.Finish
}

func newContinuations() *continuations {
	return &continuations{texts: map[int]*strings.Builder{}, ids: map[int][]uint32{}}
}

func (t *continuations) add(e client.Tokens) {
	if t.texts[e.Index] == nil {
		t.texts[e.Index] = &strings.Builder{}
	}
	t.texts[e.Index].WriteString(e.Text)
	t.ids[e.Index] = append(t.ids[e.Index], e.IDs...)
}

// print shows all, where there is more than one each under its number and why it ended.
func (t *continuations) print(c *console) error {
	for _, f := range t.finishes {
		text := ""
		if b := t.texts[f.Index]; b != nil {
			text = b.String()
		}
		if text == "" {
			text = joinIDs(t.ids[f.Index])
		}
		if _, err := fmt.Fprintf(c.out, "[%d, %s]\n%s\n", f.Index, reasonName(f.Reason), c.safe(text)); err != nil {
			return err
		}
	}
	return nil
}
