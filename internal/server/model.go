package server

import (
	"context"
	"errors"
	"time"

	"github.com/inferno-serve/inferno/internal/discovery"
	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/health"
	"github.com/inferno-serve/inferno/internal/tokenizer"
	"github.com/inferno-serve/inferno/internal/tokenizer/chat"
)

// Errors of Models.Get.
var (
	ErrUnknownModel  = errors.New("unknown model")
	ErrModelNotReady = errors.New("model is not ready") // it is known, and may be tried again
)

// Models is what the server knows of models. Methods are called from any goroutine and never wait for the device.
type Models interface {
	// Get returns the model that takes requests under this name. The error wraps ErrUnknownModel or ErrModelNotReady.
	Get(name string) (*Model, error)
	// List returns every model by name, whatever its state.
	List() []ModelInfo
}

// Model is what the server needs to answer requests for one model. It does not change.
type Model struct {
	Info        ModelInfo
	Engine      Generator
	Tokenizer   *tokenizer.Tokenizer // nil: the model takes and gives token ids only
	Chat        *chat.Template       // nil: it takes no conversations
	Constraints *Constraints         // of the same tokenizer; nil where there is none
	EndTokens   []int32              // each ends an output, unless the request ignores them
	Defaults    GenerationDefaults
	Leaving     context.Context // ends when the model is being unloaded: its engine then takes no requests, and may abort some. nil: it stays
}

// isLeaving says whether the model is being unloaded, or has been.
func (m *Model) isLeaving() bool { return m.Leaving != nil && m.Leaving.Err() != nil }

// Generator makes tokens. An engine is one by FromEngine.
type Generator interface {
	// Submit takes a request, which ends with ctx at the latest, and returns a stream for each continuation. It does not wait for a place: a
	// full queue is an error.
	Submit(ctx context.Context, r *engine.Request) ([]Stream, error)
	// Full says why Submit would refuse a request of so many continuations and prompt tokens for want of a place; nil: it would not.
	Full(tenant string, continuations, tokens int) error
	// Outlook says what would become of a request. The error is what Submit would refuse it with, but for its length.
	Outlook(r *engine.Request) (engine.Outlook, error)
}

// Stream is one continuation of a request.
type Stream interface {
	// Poll returns what is new, if anything, without waiting. With the last tokens, or after them, comes the finish; or an error.
	Poll() (tokens []int32, finish *engine.Finish, err error)
	// Wait returns when Poll of this stream or of another one of the request may have more, or with the error of ctx.
	Wait(ctx context.Context) error
	// Finish ends the continuation normally, for a reason that the caller found. What was made until then, and the finish, still come.
	Finish(reason engine.FinishReason)
	// Computed is how many tokens of the prompt have been computed so far, as far as the request asks for progress.
	Computed() int
	// Started says how the request began. It may be called once Poll has returned tokens or a finish.
	Started() engine.Start
	// PromptLogprobs are those of the prompt, where they were asked for; it may be called when Started may.
	PromptLogprobs() []engine.TokenLogprob
	// Logprobs are those of the n tokens that Poll returned last, where they were asked for.
	Logprobs(n int) []engine.TokenLogprob
}

// FromEngine makes an engine a Generator.
func FromEngine(e *engine.Engine) Generator { return fromEngine{e} }

type fromEngine struct{ engine *engine.Engine }

func (g fromEngine) Submit(ctx context.Context, r *engine.Request) ([]Stream, error) {
	made, err := g.engine.Submit(ctx, r)
	streams := make([]Stream, len(made))
	for i := range made {
		streams[i] = made[i]
	}
	return streams, err
}

func (g fromEngine) Full(tenant string, continuations, tokens int) error {
	return g.engine.Full(tenant, continuations, tokens)
}

func (g fromEngine) Outlook(r *engine.Request) (engine.Outlook, error) { return g.engine.Outlook(r) }

// GenerationDefaults are the model's own, for what a request leaves unset. Nil means that the model has none.
type GenerationDefaults struct {
	Temperature       *float32
	TopK              *int
	TopP              *float32
	MinP              *float32
	TypicalP          *float32
	RepetitionPenalty *float32
	PenaltyWindow     *int
}

// Health is the state of the server's components; *health.Checker.
type Health interface {
	Report() health.Report
	Watch(ctx context.Context) <-chan health.Report
}

// Instances is the fleet; any discovery.Provider.
type Instances interface {
	List(ctx context.Context) ([]discovery.Instance, error)
	ListWithLeases(ctx context.Context) ([]discovery.Instance, error)
	Watch(ctx context.Context) (<-chan discovery.Event, error)
}

// ModelState is where a model is in its life.
type ModelState int

// The states of a model.
const (
	ModelLoading ModelState = iota + 1
	ModelReady
	ModelDraining
	ModelUnloaded
	ModelFailed
)

// ModelInfo describes a model for ListModels.
type ModelInfo struct {
	Name            string
	Revision        string // identifies the weights
	State           ModelState
	Reason          string // why, where it is not ready
	Since           time.Time
	Architecture    string // "llama"
	Parameters      int64  // number of weights
	WeightType      string // of most weights: "Q8_0"
	KVType          string // "F16"
	Device          string // "cpu: AMD EPYC 9654 (avx512-vnni)"
	VocabularySize  int    // width of the logits: token ids are below it
	MaxContext      int    // tokens of one request, prompt and output together
	MaxBatch        int    // requests that run at once
	MaxQueue        int    // requests that wait
	HasTokenizer    bool
	HasChatTemplate bool
	KVBlockSize     int // tokens in a block
	KVBlocks        int
	WeightBytes     int64
	ActivationBytes int64
	KVBytes         int64
	Pinned          bool // never unloaded to make room
}
