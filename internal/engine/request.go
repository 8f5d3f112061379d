package engine

import (
	"errors"
	"fmt"
	"time"
)

// Errors of Submit and of streams. A stream may also end with the cause of its context: context.Canceled, context.DeadlineExceeded.
var (
	ErrInvalid     = errors.New("invalid request")                // wrapped by *LimitError
	ErrTooLong     = errors.New("request too long")               // wrapped by *LimitError: it could not run even alone
	ErrQueueFull   = errors.New("queue full")                     // wrapped by *QueueFullError
	ErrDuplicateID = errors.New("request id is already live")     // until the request that has it ended
	ErrDraining    = errors.New("engine is draining")             // no new work is taken
	ErrAborted     = errors.New("request aborted")                // by Abort, or by Close before it was done
	ErrNotFinite   = errors.New("logits not finite")              // the model made a NaN or an infinity in this request's row
	ErrForm        = errors.New("the output cannot get its form") // what a Former and the request's other masks leave led to no complete output
	ErrDeviceLost  = errors.New("engine lost its device")         // for good: the replica has to be replaced; the cause is wrapped too
)

// errMask ends a request whose own code in the loop panicked.
var errMask = errors.New("the mask of the request failed")

// Request asks for a continuation of Prompt. It must not be changed after Submit.
type Request struct {
	ID          string  // not empty; unique among live requests
	Prompt      []int32 // token ids, at least one
	N           int     // independent continuations, each a Stream; 0: 1
	Sampling    Sampling
	Stop        Stopping
	Mask        func() Masker // a new one for each continuation; nil: none
	Logprobs    Logprobs
	Pooling     Pooling // of the prompt's hidden states, for a request that generates nothing
	Cache       Cache
	Tenant      string      // who asks: the places are shared between tenants, and blocks of the prefix cache are not
	Speculation Speculation // never changes the output
	Priority    int         // of the tenant's requests: each level counts as PriorityStep of waiting

	Progress   bool      // the streams tell how far the prompt is
	PromptOnly bool      // generates nothing, and ends once the prompt has been computed
	Arrived    time.Time // where Queued and Total are counted from; zero: the time of Submit
}

// Cache says what the prefix cache may do for a request. Blocks are shared by requests of the same tenant and salt.
type Cache struct {
	Salt   string
	Bypass bool // it neither reads nor fills the cache
}

// Stopping says when the output ends. What ended it is the last token of the stream.
type Stopping struct {
	MaxTokens  int     // new tokens; 0: what is left of the context
	MinTokens  int     // no end or stop token is generated before this many new tokens
	EndTokens  []int32 // the model's
	StopTokens []int32 // the request's
	IgnoreEOS  bool    // end tokens are generated like any other, and the output goes on
	Loop       LoopDetection
}

// maxBanned bounds the end and stop tokens of a request: the ids that min_tokens keeps from being generated.
const maxBanned = 64

// MaxContinuations bounds those of one request.
const MaxContinuations = 16

// LimitError is a field of a request that is out of bounds. It wraps ErrTooLong or ErrInvalid.
type LimitError struct {
	Field string // as the API spells it
	Value any
	Limit string // "at most 2047 tokens (context 2048)"
	kind  error
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%s is %v, want %s", e.Field, e.Value, e.Limit)
}
func (e *LimitError) Unwrap() error { return e.kind }

// validate returns a *LimitError for the first field that is out of bounds. context is the tokens that one sequence may have, prompt
// and output together; vocabulary is the number of token ids.
func (r *Request) validate(context, vocabulary int) error {
	if r.ID == "" {
		return &LimitError{"request_id", `""`, "an id", ErrInvalid}
	}
	if r.N < 0 || r.N > MaxContinuations {
		return &LimitError{"n", r.N, fmt.Sprintf("1 to %d", MaxContinuations), ErrInvalid}
	}
	if err := r.validatePrompt(context, vocabulary); err != nil {
		return err
	}
	if err := r.Logprobs.validate(len(r.Prompt), vocabulary); err != nil {
		return err
	}
	if r.Priority < -MaxPriority || r.Priority > MaxPriority {
		return &LimitError{"priority", r.Priority, fmt.Sprintf("%d to %d", -MaxPriority, MaxPriority), ErrInvalid}
	}
	if r.PromptOnly && r.N > 1 {
		return &LimitError{"n", r.N, "1 for a request that generates nothing", ErrInvalid}
	}
	if r.PromptOnly {
		return nil
	}
	if r.Pooling != NoPooling {
		return &LimitError{"pooling", r.Pooling, "none for a request that generates", ErrInvalid}
	}
	if err := r.Stop.validate(len(r.Prompt), context, vocabulary); err != nil {
		return err
	}
	if err := r.Speculation.validate(); err != nil {
		return err
	}
	return r.Sampling.validate(vocabulary)
}

func (r *Request) validatePrompt(context, vocabulary int) error {
	if len(r.Prompt) == 0 {
		return &LimitError{"prompt", "empty", "at least 1 token", ErrInvalid}
	}
	if r.PromptOnly && len(r.Prompt) > context {
		return &LimitError{"prompt", fmt.Sprintf("%d tokens", len(r.Prompt)), fmt.Sprintf("at most %d tokens, the context", context), ErrTooLong}
	}
	if len(r.Prompt) >= context && !r.PromptOnly {
		limit := fmt.Sprintf("at most %d tokens (the context of %d, less one to generate)", context-1, context)
		return &LimitError{"prompt", fmt.Sprintf("%d tokens", len(r.Prompt)), limit, ErrTooLong}
	}
	return validateIDs("prompt", r.Prompt, vocabulary)
}

func validateIDs(field string, ids []int32, vocabulary int) error {
	for i, id := range ids {
		if id < 0 || int(id) >= vocabulary {
			return &LimitError{fmt.Sprintf("%s[%d]", field, i), id, fmt.Sprintf("0 to %d", vocabulary-1), ErrInvalid}
		}
	}
	return nil
}

func (s *Stopping) validate(prompt, context, vocabulary int) error {
	if s.MaxTokens < 0 {
		return &LimitError{"max_tokens", s.MaxTokens, "0 or more", ErrInvalid}
	}
	if s.MaxTokens > context-prompt {
		limit := fmt.Sprintf("at most %d (the context of %d, less %d of the prompt)", context-prompt, context, prompt)
		return &LimitError{"max_tokens", s.MaxTokens, limit, ErrTooLong}
	}
	if most := s.maxNew(prompt, context); s.MinTokens < 0 || s.MinTokens > most {
		return &LimitError{"min_tokens", s.MinTokens, fmt.Sprintf("0 to %d, the most that may be generated", most), ErrInvalid}
	}
	if n := len(s.EndTokens) + len(s.StopTokens); n > maxBanned {
		limit := fmt.Sprintf("at most %d beside the model's %d end tokens", maxBanned-len(s.EndTokens), len(s.EndTokens))
		return &LimitError{"stop_token_ids", fmt.Sprintf("%d ids", len(s.StopTokens)), limit, ErrInvalid}
	}
	if err := s.Loop.validate(); err != nil {
		return err
	}
	if err := validateIDs("end_token_ids", s.EndTokens, vocabulary); err != nil {
		return err
	}
	return validateIDs("stop_token_ids", s.StopTokens, vocabulary)
}

// maxNew is how many tokens may be generated after a prompt that leaves room for one.
func (s *Stopping) maxNew(prompt, context int) int {
	if s.MaxTokens > 0 {
		return s.MaxTokens
	}
	return context - prompt
}
