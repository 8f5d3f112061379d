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
	f.promptOptions(req.GetPromptOptions())
	if req.GetInput() == nil {
		f.add("input", "none is set, want exactly one of text and chat")
	}
	model, err := s.modelOf(&f, req.GetModel())
	if err != nil {
		return nil, err
	}
	most := 0
	if req.GetPieces() && !cuts(req.GetPromptOptions()) {
		most = maxPieces
	}
	var ids []int32
	rendered := ""
	switch input := req.GetInput().(type) {
	case *infernov1.TokenizeRequest_Text:
		if len(f.found) == 0 {
			ids, err = s.encode(ctx, &f, "text", input.Text, req.GetPromptOptions(), model, most)
		}
	case *infernov1.TokenizeRequest_Chat:
		ids, rendered, err = s.chatTokens(ctx, &f, input.Chat, req.GetPromptOptions(), model, most)
	}
	if err != nil {
		return nil, err
	}
	if n := len(ids); req.GetPieces() && n > maxPieces {
		f.add("pieces", "are of %d tokens, want at most %d", n, maxPieces)
		return nil, f.err()
	}
	size := len(rendered) + maxIDBytes*len(ids)
	if req.GetPieces() {
		size *= 2
	}
	if size > maxSendBytes-1<<10 {
		f.add("chat", "has a text of %d bytes and %d tokens, which fit no answer: want a shorter conversation", len(rendered), len(ids))
	}
	answer := &infernov1.TokenizeResponse{
		TokenIds: toUint32(ids), MaxContext: uint32(model.Info.MaxContext), Text: rendered, ModelRevision: model.Info.Revision,
	}
	if req.GetPieces() {
		answer.Pieces = f.pieces(ids, model)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	return answer, nil
}

// maxIDBytes is what an id takes in a message.
const maxIDBytes = 3

// maxPieceBytes bounds the pieces of an answer, which has to fit a message: a token may stand for less text than it has itself.
const maxPieceBytes = maxSendBytes / 2

// pieces are the bytes of each token.
func (f *faults) pieces(ids []int32, model *Model) [][]byte {
	pieces, size := make([][]byte, len(ids)), 0
	for i, id := range ids {
		piece, _ := model.Tokenizer.TokenBytes(id) // every id that Encode makes has one
		if size += len(piece); size > maxPieceBytes {
			f.add("pieces", "have more than %d bytes, want a shorter text", maxPieceBytes)
			return nil
		}
		pieces[i] = []byte(piece)
	}
	return pieces
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
	return &infernov1.DetokenizeResponse{Text: text.String(), ModelRevision: model.Info.Revision}, nil
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

// Abort ends requests by id: a caller's own, or for an administrator anybody's. Those of others are answered like ones that are unknown.
func (s inferenceService) Abort(ctx context.Context, req *infernov1.AbortRequest) (*infernov1.AbortResponse, error) {
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
		return &infernov1.AbortResponse{AbortedRequestIds: s.live.cancelAll(engine.ErrAborted, mayAbort(ctx))}, nil
	}
	return &infernov1.AbortResponse{AbortedRequestIds: s.live.cancel(ids, engine.ErrAborted, mayAbort(ctx))}, nil
}
