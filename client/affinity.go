package client

import (
	"context"
	"encoding/binary"
	"strings"

	"github.com/inferno-serve/inferno/client/internal/balance"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// prefixBytes is how much of a prompt says where it belongs: long enough to tell system prompts apart, and shorter than most, so that
// prompts which share one meet at the replica whose cache holds it.
const prefixBytes = 1024

// WithAffinity is a context whose calls are kept together with all others of the same key, a session's id for instance, on a client
// with affinity. Stream and Generate use the beginning of the prompt where there is no key.
func WithAffinity(ctx context.Context, key string) context.Context { return balance.WithKey(ctx, key) }

// withPrefix gives a call without a key that of its prompt.
func (c *Client) withPrefix(ctx context.Context, req *infernov1.GenerateRequest) context.Context {
	if !c.affinity || balance.HasKey(ctx) {
		return ctx
	}
	if prefix := promptPrefix(req); prefix != "" {
		return balance.WithKey(ctx, prefix)
	}
	return ctx
}

// promptPrefix is the first bytes of a prompt. What the prefix cache keeps apart (models, salts) is kept apart here.
func promptPrefix(req *infernov1.GenerateRequest) string {
	var b strings.Builder
	add := func(text string) bool {
		b.WriteString(text[:min(len(text), prefixBytes-b.Len())])
		return b.Len() < prefixBytes
	}
	switch in := req.GetInput().(type) {
	case *infernov1.GenerateRequest_Text:
		add(in.Text)
	case *infernov1.GenerateRequest_TokenIds:
		for _, id := range in.TokenIds.GetIds() {
			if !add(string(binary.LittleEndian.AppendUint32(nil, id))) {
				break
			}
		}
	case *infernov1.GenerateRequest_Chat:
		for _, m := range in.Chat.GetMessages() {
			if !add(m.GetRole()) || !add("\x00") || !add(m.GetContent()) || !add("\x00") {
				break
			}
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return req.GetModel() + "\x00" + req.GetCache().GetSalt() + "\x00" + b.String()
}
