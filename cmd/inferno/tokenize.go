package main

import (
	"context"
	"fmt"
	"math"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// vocabulary says whose tokens are meant: those of a file, without a server, or those of a server's model.
type vocabulary struct {
	Tokenizer string `xor:"vocabulary" placeholder:"DIR|FILE.gguf" help:"Use this tokenizer, without a server: a Hugging Face directory or a GGUF file."`
	Model     string `xor:"vocabulary" help:"Ask the server to use this model's tokenizer; may be left out where it has one model only."`
}

type tokenizeCommand struct {
	remote     `embed:""`
	vocabulary `embed:""`

	AddSpecial   *bool    `negatable:"" help:"Add the special tokens that the model's tokenizer adds. Unset means yes, but with --chat no."`
	ParseSpecial *bool    `negatable:"" help:"Turn special tokens written in the text into control tokens. Unset means yes."`
	Chat         bool     `help:"Lines are conversations, {\"messages\": ...}; print the text that the chat template makes, and its ids."`
	Text         []string `arg:"" optional:"" help:"Texts. Without any, standard input has a line {\"text\": ...} for each."`
}

// Run prints the token ids of each text.
func (t *tokenizeCommand) Run(ctx context.Context, c *console) error {
	if t.Chat && (len(t.Text) > 0 || t.ParseSpecial != nil) {
		return fmt.Errorf("%w: --chat takes neither texts nor --parse-special; a line may have parse_special_in_content", errUsage)
	}
	codec, err := openCodec(ctx, t.remote, t.vocabulary)
	if err != nil {
		return err
	}
	defer codec.Close()
	if t.Chat {
		type line struct {
			Text     string   `json:"text"`
			TokenIDs []uint32 `json:"token_ids"`
		}
		return eachLine(ctx, c, readChat, func(m *infernov1.ChatMessages) (any, error) {
			text, ids, err := codec.chat(ctx, m, t.AddSpecial)
			return line{text, append([]uint32{}, ids...)}, err
		})
	}
	type line struct {
		TokenIDs []uint32 `json:"token_ids"`
	}
	encode := func(text string) ([]uint32, error) { return codec.encode(ctx, text, t.AddSpecial, t.ParseSpecial) }
	for _, text := range t.Text {
		ids, err := encode(text)
		if err != nil {
			return err
		}
		if !t.JSON {
			fmt.Fprintln(c.out, joinIDs(ids))
		} else if err := c.writeJSON(line{append([]uint32{}, ids...)}); err != nil {
			return err
		}
	}
	if len(t.Text) > 0 {
		return nil
	}
	return eachLine(ctx, c, member("text", (*strictjson.Reader).String), func(text string) (any, error) {
		ids, err := encode(text)
		return line{append([]uint32{}, ids...)}, err
	})
}

type detokenizeCommand struct {
	remote     `embed:""`
	vocabulary `embed:""`

	SkipSpecial bool     `negatable:"" default:"true" help:"Leave special tokens out."`
	TokenIDs    []uint32 `arg:"" optional:"" name:"token-id" help:"Token ids of one text. Without any, standard input has a line {\"token_ids\": [...]} for each."`
}

// Run prints the text of each sequence of token ids.
func (d *detokenizeCommand) Run(ctx context.Context, c *console) error {
	codec, err := openCodec(ctx, d.remote, d.vocabulary)
	if err != nil {
		return err
	}
	defer codec.Close()
	type line struct {
		Text string `json:"text"`
	}
	if len(d.TokenIDs) > 0 {
		text, err := codec.decode(ctx, d.TokenIDs, d.SkipSpecial)
		if err != nil {
			return err
		}
		if d.JSON {
			return c.writeJSON(line{text})
		}
		_, err = fmt.Fprintln(c.out, c.safe(text))
		return err
	}
	return eachLine(ctx, c, member("token_ids", readIDs), func(ids []uint32) (any, error) {
		text, err := codec.decode(ctx, ids, d.SkipSpecial)
		return line{text}, err
	})
}

func readIDs(r *strictjson.Reader) ([]uint32, error) {
	var ids []uint32
	err := r.Array(func(int) error {
		id, err := r.Int()
		if err == nil && (id < 0 || id > math.MaxUint32) {
			err = fmt.Errorf("is %d, want 0 to %d", id, uint32(math.MaxUint32))
		}
		ids = append(ids, uint32(id))
		return err
	})
	return ids, err
}
