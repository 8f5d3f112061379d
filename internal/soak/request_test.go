package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/inferno-serve/inferno/internal/device/devicescript"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// request is one of n tokens for a prompt.
func request(prompt []int32, n int) *infernov1.GenerateRequest {
	ids := make([]uint32, len(prompt))
	for i, id := range prompt {
		ids[i] = uint32(id)
	}
	return &infernov1.GenerateRequest{
		Model: "m", Input: &infernov1.GenerateRequest_TokenIds{TokenIds: &infernov1.TokenIds{Ids: ids}},
		Stopping: &infernov1.StoppingParameters{MaxTokens: new(uint32(n)), IgnoreEos: new(true)},
	}
}

// prompt is one of n tokens that no other seed has.
func prompt(seed, n int) []int32 {
	p := make([]int32, n)
	for i := range p {
		p[i] = int32('a' + (seed>>(4*i))%16)
	}
	return p
}

// generate runs a request to its end and returns its tokens.
func generate(ctx context.Context, client infernov1.InferenceServiceClient, q *infernov1.GenerateRequest) ([]int32, error) {
	stream, err := client.GenerateStream(ctx, q)
	if err != nil {
		return nil, err
	}
	var tokens []int32
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return tokens, nil
		}
		if err != nil {
			return tokens, err
		}
		for _, d := range m.GetDeltas() {
			for _, id := range d.GetTokenIds() {
				tokens = append(tokens, int32(id))
			}
		}
	}
}

// checkTokens says what is wrong with an output.
func checkTokens(got, prompt []int32, n int) error {
	if want := devicescript.Continue(prompt, n); !slices.Equal(got, want) {
		return fmt.Errorf("%d tokens %v…, want %d, %v…", len(got), got[:min(8, len(got))], n, want[:min(8, n)])
	}
	return nil
}
