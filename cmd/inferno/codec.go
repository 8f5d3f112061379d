package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/inferno-serve/inferno/client"
	"github.com/inferno-serve/inferno/internal/model/gguf"
	"github.com/inferno-serve/inferno/internal/tokenizer"
	"github.com/inferno-serve/inferno/internal/tokenizer/chat"
	"github.com/inferno-serve/inferno/internal/tokenizer/chat/jinja"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// codec turns text into token ids and back.
type codec interface {
	// encode reads the text; nil means the default.
	encode(ctx context.Context, text string, addSpecial, parseSpecial *bool) ([]uint32, error)
	// chat returns the text of a conversation too.
	chat(ctx context.Context, c *infernov1.ChatMessages, addSpecial *bool) (string, []uint32, error)
	decode(ctx context.Context, ids []uint32, skipSpecial bool) (string, error)
	Close() error
}

func openCodec(ctx context.Context, r remote, v vocabulary) (codec, error) {
	if v.Tokenizer != "" {
		return openFile(v.Tokenizer)
	}
	server, err := r.dial()
	if err != nil {
		return nil, err
	}
	model, err := onlyModel(ctx, server, v.Model)
	if err != nil {
		return nil, errors.Join(err, server.Close())
	}
	return serverCodec{server, model}, nil
}

// openFile reads a Hugging Face directory, a tokenizer.json or a GGUF file.
func openFile(path string) (codec, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("load tokenizer: %w", err)
	}
	if info.IsDir() {
		t, err := tokenizer.LoadDir(path)
		if err != nil {
			return nil, err
		}
		return fileCodec{t, chat.LoadDir(path, t)}, nil
	}
	isGGUF, err := startsWith(path, "GGUF")
	if err != nil {
		return nil, fmt.Errorf("load tokenizer: %w", err)
	}
	if !isGGUF {
		t, err := tokenizer.LoadFile(path)
		if err != nil {
			return nil, err
		}
		return fileCodec{t, chat.LoadDir(filepath.Dir(path), t)}, nil
	}
	file, err := gguf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("load tokenizer: %w", err)
	}
	defer file.Close()
	t, err := tokenizer.FromGGUF(file.Metadata())
	if err != nil {
		return nil, fmt.Errorf("load tokenizer %s: %w", path, err)
	}
	return fileCodec{t, chat.FromGGUF(file.Metadata(), t)}, nil
}

func startsWith(path, magic string) (bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	start := make([]byte, len(magic))
	if _, err := io.ReadFull(file, start); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return string(start) == magic, nil
}

// fileCodec needs no server.
type fileCodec struct {
	tokenizer *tokenizer.Tokenizer
	template  *chat.Template
}

func (f fileCodec) encode(_ context.Context, text string, addSpecial, parseSpecial *bool) ([]uint32, error) {
	ids, err := f.tokenizer.Encode(text, tokenizer.EncodeOptions{
		AddSpecial: addSpecial == nil || *addSpecial, ParseSpecial: parseSpecial == nil || *parseSpecial,
	})
	return unsigned(ids), err
}

func (f fileCodec) chat(ctx context.Context, c *infernov1.ChatMessages, addSpecial *bool) (string, []uint32, error) {
	conversation, err := conversationOf(c)
	if err != nil {
		return "", nil, err
	}
	prompt, err := f.template.Render(ctx, conversation, jinja.Options{})
	if err != nil {
		return "", nil, err
	}
	options := tokenizer.EncodeOptions{ParseSpecial: true, AddSpecial: addSpecial != nil && *addSpecial}
	if !c.GetParseSpecialInContent() {
		options.Content = prompt.Content
	}
	ids, err := f.tokenizer.Encode(prompt.Text, options)
	return prompt.Text, unsigned(ids), err
}

// conversationOf is a line of input as a template takes it.
func conversationOf(c *infernov1.ChatMessages) (out chat.Conversation, err error) {
	if len(c.GetMessages()) == 0 {
		return out, errors.New("messages: is empty, want at least 1 message")
	}
	if c.GetContinueFinalMessage() && c.GetAddGenerationPrompt() {
		return out, errors.New("continue_final_message: is true, want false where add_generation_prompt is true")
	}
	out.Options = chat.Continuation{
		AddGenerationPrompt:  c.AddGenerationPrompt == nil || c.GetAddGenerationPrompt(),
		ContinueFinalMessage: c.GetContinueFinalMessage(),
	}
	for i, m := range c.GetMessages() {
		one := chat.Message{Role: m.GetRole(), Content: m.GetContent()}
		if m.GetExtraJson() != "" {
			if one.Extra, err = chat.ParseExtra([]byte(m.GetExtraJson())); err != nil {
				return out, fmt.Errorf("messages[%d]: %w", i, err)
			}
		}
		out.Messages = append(out.Messages, one)
	}
	if c.GetToolsJson() != "" {
		tools, err := chat.ParseTools([]byte(c.GetToolsJson()))
		if err != nil {
			return out, fmt.Errorf("tools: %w", err)
		}
		if len(tools.Items) > 0 {
			out.Tools = tools
		}
	}
	return out, nil
}

func unsigned(ids []int32) []uint32 {
	out := make([]uint32, len(ids))
	for i, id := range ids {
		out[i] = uint32(id)
	}
	return out
}

func (f fileCodec) decode(_ context.Context, ids []uint32, skipSpecial bool) (string, error) {
	in := make([]int32, len(ids))
	for i, id := range ids {
		if uint64(id) >= uint64(f.tokenizer.NumTokens()) {
			return "", fmt.Errorf("token_ids[%d] is %d, want 0 to %d", i, id, f.tokenizer.NumTokens()-1)
		}
		in[i] = int32(id)
	}
	return f.tokenizer.Decode(in, skipSpecial)
}

func (f fileCodec) Close() error { return nil }

// serverCodec asks a server.
type serverCodec struct {
	server *client.Client
	model  string
}

func (s serverCodec) encode(ctx context.Context, text string, addSpecial, parseSpecial *bool) ([]uint32, error) {
	answer, err := s.server.Inference().Tokenize(ctx, &infernov1.TokenizeRequest{
		Model: s.model, Input: &infernov1.TokenizeRequest_Text{Text: text},
		PromptOptions: &infernov1.PromptOptions{AddSpecialTokens: addSpecial, ParseSpecial: parseSpecial},
	})
	return answer.GetTokenIds(), err
}

func (s serverCodec) chat(ctx context.Context, c *infernov1.ChatMessages, addSpecial *bool) (string, []uint32, error) {
	answer, err := s.server.Inference().Tokenize(ctx, &infernov1.TokenizeRequest{
		Model: s.model, Input: &infernov1.TokenizeRequest_Chat{Chat: c}, PromptOptions: &infernov1.PromptOptions{AddSpecialTokens: addSpecial},
	})
	return answer.GetText(), answer.GetTokenIds(), err
}

func (s serverCodec) decode(ctx context.Context, ids []uint32, skipSpecial bool) (string, error) {
	answer, err := s.server.Inference().Detokenize(ctx, &infernov1.DetokenizeRequest{
		Model: s.model, TokenIds: ids, SkipSpecialTokens: &skipSpecial,
	})
	return answer.GetText(), err
}

func (s serverCodec) Close() error { return s.server.Close() }
