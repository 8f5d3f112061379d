package server

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Tokenize turns text into token ids.
func (s inferenceService) Tokenize(ctx context.Context, req *infernov1.TokenizeRequest) (*infernov1.TokenizeResponse, error) {
	var f faults
	f.unsupported("", req.ProtoReflect())
	if req.GetInput() == nil {
		f.add("input", "none is set, want exactly one of text and chat")
	}
	model, err := s.modelOf(&f, req.GetModel())
	if err != nil {
		return nil, err
	}
	var ids []int32
	if text, ok := req.GetInput().(*infernov1.TokenizeRequest_Text); ok {
		release, err := s.takeEncoder(ctx, len(text.Text))
		if err != nil {
			return nil, err
		}
		ids = f.encode("text", text.Text, req.GetPromptOptions(), model, 0)
		release()
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	answer := &infernov1.TokenizeResponse{TokenIds: toUint32(ids), MaxContext: uint32(model.Info.MaxContext)}
	if req.GetPieces() {
		for _, id := range ids {
			piece, _ := model.Tokenizer.TokenBytes(id) // every id that Encode makes has one
			answer.Pieces = append(answer.Pieces, []byte(piece))
		}
	}
	return answer, nil
}

// longText is a text, in bytes, whose tokenizing takes more than a moment and some tens of its size in memory: only so many calls do
// that at once as there are cores, the others wait with their contexts.
const longText = 16 << 10

// takeEncoder waits for leave to tokenize a text of so many bytes, which the caller gives back.
func (s *Server) takeEncoder(ctx context.Context, bytes int) (release func(), err error) {
	if bytes <= longText {
		return func() {}, nil
	}
	select {
	case s.encoders <- struct{}{}:
		return func() { <-s.encoders }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Detokenize turns token ids into text.
func (s inferenceService) Detokenize(_ context.Context, req *infernov1.DetokenizeRequest) (*infernov1.DetokenizeResponse, error) {
	var f faults
	f.unsupported("", req.ProtoReflect())
	model, err := s.modelOf(&f, req.GetModel())
	if err != nil {
		return nil, err
	}
	f.ids("token_ids", req.GetTokenIds(), model.Info.VocabularySize)
	if model.Tokenizer == nil {
		f.add("model", "is %s, which has no tokenizer", quote(model.Info.Name))
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	decoder := model.Tokenizer.NewDecoder(orElse(req.SkipSpecialTokens, true))
	var text strings.Builder
	for _, id := range req.GetTokenIds() {
		text.WriteString(decoder.Write(int32(id)))
		if text.Len() > maxTextBytes {
			f.add("token_ids", "has a text of more than %d bytes, want fewer ids", maxTextBytes)
			return nil, f.err()
		}
	}
	text.WriteString(decoder.Flush())
	return &infernov1.DetokenizeResponse{Text: text.String()}, nil
}

// maxTextBytes bounds the text of Detokenize: a few bytes of ids may stand for much text, and an answer has to fit a message.
const maxTextBytes = maxSendBytes - 1<<10

// modelOf returns the model that a request names; the error holds all faults found so far, if there are any.
func (s *Server) modelOf(f *faults, name string) (*Model, error) {
	f.modelName("model", name)
	if err := f.err(); err != nil {
		return nil, err
	}
	return s.lookup(name)
}

// lookup tells of an unknown model in our own words, whoever answers.
func (s *Server) lookup(name string) (*Model, error) {
	model, err := s.models.Get(name)
	if errors.Is(err, ErrUnknownModel) {
		return nil, fmt.Errorf("model %s: %w", quote(name), ErrUnknownModel)
	}
	return model, err
}

// Abort ends requests by id.
func (s inferenceService) Abort(_ context.Context, req *infernov1.AbortRequest) (*infernov1.AbortResponse, error) {
	var f faults
	f.unsupported("", req.ProtoReflect())
	ids := req.GetRequestIds()
	if len(ids) > maxAbortRequests {
		f.add("request_ids", "has %d ids, want at most %d", len(ids), maxAbortRequests)
	}
	if req.GetAll() && len(ids) > 0 {
		f.add("request_ids", "has %d ids, want none where all is true", len(ids))
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	if req.GetAll() {
		return &infernov1.AbortResponse{AbortedRequestIds: s.live.cancelAll(engine.ErrAborted)}, nil
	}
	return &infernov1.AbortResponse{AbortedRequestIds: s.live.cancel(ids, engine.ErrAborted)}, nil
}
