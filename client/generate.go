package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Event is what a stream yields: one Start, then any number of Tokens and Progress, then one Finish for each continuation and a Summary.
// Progress comes before Start, and only where the request asks for it.
type Event interface{ event() }

// Start is what the server knew when it began.
type Start struct {
	RequestID          string // the request's own, or the one that the server made
	Model              string
	ModelRevision      string // changes whenever the weights do
	PromptTokens       int
	CachedPromptTokens int                       // of PromptTokens, those that the prefix cache held
	Queued             time.Duration             // from arrival to the first step
	PromptLogprobs     []*infernov1.TokenLogprob // from output.prompt_logprobs_start on, if asked for
	// Effective holds every parameter after defaults, the seed included: sent again, they repeat the request.
	Effective *infernov1.EffectiveParameters
}

// Tokens are new tokens of one continuation.
type Tokens struct {
	Index    int    // which continuation
	Offset   int    // position of the first of IDs in the continuation
	Text     string // the text that became certain, if asked for; may be empty where IDs is not
	IDs      []uint32
	Logprobs []*infernov1.TokenLogprob
}

// Progress says how far the prompt has been computed.
type Progress struct {
	ComputedTokens, PromptTokens int
}

// Finish says why a continuation ended.
type Finish struct {
	Index      int
	Reason     infernov1.FinishReason
	StopString string  // what matched, where Reason is STOP_STRING
	TokenID    *uint32 // what matched, where an end token or a stop token did
}

// Summary is the last event: what the request cost, and when things happened.
type Summary struct {
	Usage   Usage
	Timings Timings
}

// Usage counts tokens.
type Usage struct {
	PromptTokens, CachedPromptTokens int
	CompletionTokens                 int // new tokens of all continuations, end tokens included
	DraftTokens, AcceptedDraftTokens int
	Preemptions                      int // how often the request was preempted and computed again
}

// Timings is when things happened, as the server saw it.
type Timings struct {
	Queued           time.Duration // arrival to first step
	Prefill          time.Duration // first step to first token
	Decode           time.Duration // first token to last token
	TimeToFirstToken time.Duration // arrival to first token
	Total            time.Duration // arrival to last token
}

func (Start) event()    {}
func (Tokens) event()   {}
func (Progress) event() {}
func (Finish) event()   {}
func (Summary) event()  {}

// Result is a whole answer.
type Result struct {
	Start       Start
	Completions []Completion // by index
	Summary
}

// Completion is one continuation of the prompt.
type Completion struct {
	Text     string
	TokenIDs []uint32
	Logprobs []*infernov1.TokenLogprob
	Finish   Finish
}

// Stream generates, and yields events as they come. An error is a gRPC status (see status.FromError) and the last thing yielded. Leaving
// the loop early ends the request on the server.
func (c *Client) Stream(ctx context.Context, req *infernov1.GenerateRequest) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if req.GetDryRun() {
			yield(nil, errors.New("client: the request has dry_run, which generates nothing: use DryRun"))
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := c.inference.GenerateStream(c.withPrefix(ctx, req), req)
		if err != nil {
			yield(nil, err)
			return
		}
		var r reader
		for {
			message, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF) && r.finished:
				return
			case errors.Is(err, io.EOF):
				err = errors.New("client: the stream ended without a finish")
			case err == nil:
				err = r.check(message)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yieldEvents(message, yield) {
				return
			}
		}
	}
}

// Generate generates, and returns the whole result at once. It streams underneath, so that an answer of any length arrives.
func (c *Client) Generate(ctx context.Context, req *infernov1.GenerateRequest) (*Result, error) {
	var result Result
	var texts [][]byte
	completion := func(i int) *Completion {
		for len(result.Completions) <= i {
			result.Completions = append(result.Completions, Completion{})
			texts = append(texts, nil)
		}
		return &result.Completions[i]
	}
	for event, err := range c.Stream(ctx, req) {
		if err != nil {
			return nil, err
		}
		switch e := event.(type) {
		case Start:
			result.Start = e
		case Tokens:
			part := completion(e.Index)
			part.TokenIDs = append(part.TokenIDs, e.IDs...)
			part.Logprobs = append(part.Logprobs, e.Logprobs...)
			texts[e.Index] = append(texts[e.Index], e.Text...)
		case Finish:
			completion(e.Index).Finish = e
		case Summary:
			result.Summary = e
		}
	}
	for i, text := range texts {
		result.Completions[i].Text = string(text)
	}
	return &result, nil
}

// reader checks that the messages of one stream follow each other as the API promises.
type reader struct {
	started, finished bool
	next              map[uint32]uint32 // index → offset that its next delta must have; kept only where token ids tell
}

// maxContinuations is the most that a request may ask for; an index beyond is a broken server, and must not size our memory.
const maxContinuations = 16

func (r *reader) check(m *infernov1.GenerateStreamResponse) error {
	if r.finished {
		return errors.New("client: the server sent a message after its finish")
	}
	switch {
	case m.GetStart() != nil && r.started:
		return errors.New("client: the server sent a second start")
	case m.GetStart() == nil && !r.started && m.GetProgress() == nil:
		return errors.New("client: the server sent no start with its first tokens")
	}
	r.started = r.started || m.GetStart() != nil
	r.finished = m.GetFinish() != nil
	for _, f := range m.GetFinish().GetFinishes() {
		if f.GetIndex() >= maxContinuations {
			return fmt.Errorf("client: continuation %d, want one below %d", f.GetIndex(), maxContinuations)
		}
	}
	for _, d := range m.GetDeltas() {
		if err := r.checkDelta(d); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) checkDelta(d *infernov1.Delta) error {
	if d.GetIndex() >= maxContinuations {
		return fmt.Errorf("client: continuation %d, want one below %d", d.GetIndex(), maxContinuations)
	}
	if len(d.GetTokenIds()) == 0 {
		return nil
	}
	if want := r.next[d.GetIndex()]; d.GetOffset() != want {
		return fmt.Errorf("client: tokens of continuation %d start at %d, want %d: a message is lost", d.GetIndex(), d.GetOffset(), want)
	}
	if r.next == nil {
		r.next = map[uint32]uint32{}
	}
	r.next[d.GetIndex()] += uint32(len(d.GetTokenIds()))
	return nil
}

// yieldEvents takes a message apart, and reports whether the caller wants more.
func yieldEvents(m *infernov1.GenerateStreamResponse, yield func(Event, error) bool) bool {
	if p := m.GetProgress(); p != nil && !yield(Progress{int(p.GetComputedTokens()), int(p.GetPromptTokens())}, nil) {
		return false
	}
	if s := m.GetStart(); s != nil && !yield(start(s), nil) {
		return false
	}
	for _, d := range m.GetDeltas() {
		if !yield(tokens(d), nil) {
			return false
		}
	}
	f := m.GetFinish()
	if f == nil {
		return true
	}
	for _, one := range f.GetFinishes() {
		if !yield(finish(one), nil) {
			return false
		}
	}
	return yield(Summary{Usage: usage(f.GetUsage()), Timings: timings(f.GetTimings())}, nil)
}

func start(s *infernov1.GenerationStart) Start {
	return Start{
		RequestID:          s.GetRequestId(),
		Model:              s.GetModel(),
		ModelRevision:      s.GetModelRevision(),
		PromptTokens:       int(s.GetPromptTokens()),
		CachedPromptTokens: int(s.GetCachedPromptTokens()),
		Queued:             s.GetQueued().AsDuration(),
		PromptLogprobs:     s.GetPromptLogprobs(),
		Effective:          s.GetEffective(),
	}
}

func tokens(d *infernov1.Delta) Tokens {
	return Tokens{
		Index:    int(d.GetIndex()),
		Offset:   int(d.GetOffset()),
		Text:     d.GetText(),
		IDs:      d.GetTokenIds(),
		Logprobs: d.GetLogprobs(),
	}
}

func finish(f *infernov1.Finish) Finish {
	out := Finish{Index: int(f.GetIndex()), Reason: f.GetReason(), StopString: f.GetStopString()}
	if match, ok := f.GetMatch().(*infernov1.Finish_TokenId); ok {
		out.TokenID = &match.TokenId
	}
	return out
}

func usage(u *infernov1.Usage) Usage {
	return Usage{
		PromptTokens:        int(u.GetPromptTokens()),
		CachedPromptTokens:  int(u.GetCachedPromptTokens()),
		CompletionTokens:    int(u.GetCompletionTokens()),
		DraftTokens:         int(u.GetDraftTokens()),
		AcceptedDraftTokens: int(u.GetAcceptedDraftTokens()),
		Preemptions:         int(u.GetPreemptions()),
	}
}

func timings(t *infernov1.Timings) Timings {
	return Timings{
		Queued:           t.GetQueued().AsDuration(),
		Prefill:          t.GetPrefill().AsDuration(),
		Decode:           t.GetDecode().AsDuration(),
		TimeToFirstToken: t.GetTimeToFirstToken().AsDuration(),
		Total:            t.GetTotal().AsDuration(),
	}
}
