package server

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/tokenizer"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// endless makes one token a call of Poll, `left` times, as fast as it is asked.
type endless struct{ left int }

func (e *endless) Submit(context.Context, *engine.Request) ([]Stream, error) { return []Stream{e}, nil }

func (e *endless) Poll() ([]int32, *engine.Finish, error) {
	if e.left--; e.left > 0 {
		return []int32{'x'}, nil, nil
	}
	return []int32{'x'}, finished(engine.MaxTokens, 'x'), nil
}

func (e *endless) Wait(context.Context) error { return nil }

func (e *endless) Finish(engine.FinishReason) {}

func (e *endless) Started() engine.Start { return engine.Start{} }

func (e *endless) Computed() int { return 0 }

func (e *endless) PromptLogprobs() []engine.TokenLogprob { return nil }

func (e *endless) Logprobs(int) []engine.TokenLogprob { return nil }

func (e *endless) Full(string, int, int) error { return nil }

func (e *endless) Outlook(*engine.Request) (engine.Outlook, error) { return engine.Outlook{}, nil }

// BenchmarkStreamedToken is what one token costs from the engine's stream to the client's Recv, one a message, both ends in this process.
func BenchmarkStreamedToken(b *testing.B) {
	b.ReportAllocs()
	f := start(b, &endless{left: b.N})
	stream, err := f.api.GenerateStream(b.Context(), &infernov1.GenerateRequest{Model: "m", Input: textRequest("hi").Input})
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N { // not b.Loop: the stream has to know its length
		if _, err := stream.Recv(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBannedStrings is the mask of an output that ends with hundreds of starts of as many banned strings as there may be, with the
// vocabulary of a reference tokenizer.
func BenchmarkBannedStrings(b *testing.B) {
	path := filepath.Join(os.Getenv("INFERNO_FIXTURES"), "tokenizers", "llama3_1", "tokenizer.json")
	tok, err := tokenizer.LoadFile(path)
	if err != nil {
		b.Skipf("no reference tokenizer (INFERNO_FIXTURES): %v", err)
	}
	run := strings.Repeat("a", maxBannedBytes-2)
	var texts []string
	for i := range maxBannedStrings {
		texts = append(texts, fmt.Sprintf("%s%02x", run, i))
	}
	g := &generation{model: &Model{Tokenizer: tok, Info: ModelInfo{VocabularySize: tok.NumTokens()}}, request: &engine.Request{}}
	masker := newBannedText(g, texts)()
	ids, err := tok.Encode(run[:200], tokenizer.EncodeOptions{})
	if err != nil {
		b.Fatal(err)
	}
	for _, id := range ids {
		masker.Accept(id)
	}
	for b.Loop() {
		masker.Accept(ids[0])
		masker.Mask()
	}
}

// BenchmarkBannedStringsSetUp is what a request with as many banned strings as there may be costs before it is queued.
func BenchmarkBannedStringsSetUp(b *testing.B) {
	path := filepath.Join(os.Getenv("INFERNO_FIXTURES"), "tokenizers", "llama3_1", "tokenizer.json")
	tok, err := tokenizer.LoadFile(path)
	if err != nil {
		b.Skipf("no reference tokenizer (INFERNO_FIXTURES): %v", err)
	}
	var texts []string
	for i := range maxBannedStrings {
		texts = append(texts, fmt.Sprintf("%c%x, and then", ' '+i%96, i))
	}
	g := &generation{model: &Model{Tokenizer: tok, Info: ModelInfo{VocabularySize: tok.NumTokens()}}, request: &engine.Request{}}
	newBannedText(g, texts[:1])() // which makes the order of the vocabulary
	for b.Loop() {
		newBannedText(g, texts)()
	}
}

// BenchmarkPrepare is what checking and tokenizing a short request costs.
func BenchmarkPrepare(b *testing.B) {
	b.ReportAllocs()
	s := &Server{models: models{{
		Info:   ModelInfo{Name: "m", State: ModelReady, VocabularySize: vocabularySize, MaxContext: maxContext},
		Engine: newScript(), Tokenizer: byteTokenizer(b), EndTokens: []int32{eosID},
	}}}
	req := textRequest("The capital of France")
	req.Sampling = &infernov1.SamplingParameters{Temperature: new(float32(0.7)), TopP: new(float32(0.9)), Seed: new(uint64(1))}
	req.Stopping = &infernov1.StoppingParameters{MaxTokens: new(uint32(4))}
	for b.Loop() {
		if _, err := s.prepare(b.Context(), req, startOfTests); err != nil {
			b.Fatal(err)
		}
	}
}
