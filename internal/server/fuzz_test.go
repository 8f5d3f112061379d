package server

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// FuzzSmallRequests sends arbitrary bytes as the requests of all calls that answer at once. Nothing panics, and what is refused is refused by a
// status that was meant.
func FuzzSmallRequests(f *testing.F) {
	for _, m := range []proto.Message{
		&infernov1.TokenizeRequest{Model: "m", Input: &infernov1.TokenizeRequest_Text{Text: "hi</s>"}, Pieces: true},
		&infernov1.DetokenizeRequest{Model: "m", TokenIds: []uint32{104, 105, 258, 300}}, &infernov1.AbortRequest{RequestIds: []string{"x"}, All: true},
		&infernov1.CheckRequest{Components: []string{"engine/m"}}, &infernov1.GetModelRequest{Name: "m"}, &infernov1.ListInstancesRequest{Model: "m"},
	} {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
	fixture := start(f, newScript())
	inference, health, registry := inferenceService{Server: fixture.Server}, healthService{Server: fixture.Server}, registryService{Server: fixture.Server}
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx := t.Context()
		answers(ctx, t, data, inference.Tokenize)
		answers(ctx, t, data, inference.Detokenize)
		answers(ctx, t, data, inference.Abort)
		answers(ctx, t, data, health.Check)
		answers(ctx, t, data, registry.ListModels)
		answers(ctx, t, data, registry.GetModel)
		answers(ctx, t, data, registry.UnloadModel)
		answers(ctx, t, data, registry.ListInstances)
	})
}

// answers calls a method with the request that data is, if it is one.
func answers[Q any, P interface {
	*Q
	proto.Message
}, A proto.Message](ctx context.Context, t *testing.T, data []byte, call func(context.Context, P) (A, error)) {
	req := P(new(Q))
	if proto.Unmarshal(data, req) != nil {
		return
	}
	answer, err := call(ctx, req)
	if err != nil {
		if grpcCode(toStatus(err, "")) == codes.Internal {
			t.Errorf("%v: %v, which nobody foresaw", req, err)
		}
		return
	}
	if _, err := proto.Marshal(answer); err != nil {
		t.Errorf("%v: the answer cannot be sent: %v", req, err)
	}
}
