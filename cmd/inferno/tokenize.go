package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
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
		return eachLine(c, readChat, func(m *infernov1.ChatMessages) (any, error) {
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
	return eachLine(c, member("text", (*strictjson.Reader).String), func(text string) (any, error) {
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
	return eachLine(c, member("token_ids", readIDs), func(ids []uint32) (any, error) {
		text, err := codec.decode(ctx, ids, d.SkipSpecial)
		return line{text}, err
	})
}

// maxLineBytes bounds a line of standard input: the longest text of a tokenizer, with every byte escaped.
const maxLineBytes = 6 * 16 << 20

// eachLine answers each JSON object of standard input, a line each.
func eachLine[T any](c *console, read func(*strictjson.Reader) (T, error), answer func(T) (any, error)) error {
	lines := bufio.NewScanner(c.in)
	lines.Buffer(make([]byte, 0, 64<<10), maxLineBytes)
	out := bufio.NewWriter(c.out)
	buffered := &console{out: out}
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		in, err := readLine(lines.Bytes(), read)
		var reply any
		if err == nil {
			reply, err = answer(in)
		}
		if err == nil {
			err = buffered.writeJSON(reply)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, errors.Join(err, out.Flush()))
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read standard input: %w", errors.Join(err, out.Flush()))
	}
	return out.Flush()
}

// readLine reads all of a line. Nothing of it is mended: half a surrogate pair would be another text.
func readLine[T any](data []byte, read func(*strictjson.Reader) (T, error)) (value T, err error) {
	r, err := strictjson.NewReader(data)
	if err != nil {
		return value, err
	}
	if value, err = read(r); err == nil {
		err = r.End()
	}
	return value, err
}

// member makes a reader of an object that has one member.
func member[T any](key string, read func(*strictjson.Reader) (T, error)) func(*strictjson.Reader) (T, error) {
	return func(r *strictjson.Reader) (value T, err error) {
		found := false
		err = r.Object(func(name string) (err error) {
			if name != key {
				return fmt.Errorf("unknown key, want %q", key)
			}
			found = true
			value, err = read(r)
			return err
		})
		if err == nil && !found {
			err = fmt.Errorf("%q is missing", key)
		}
		return value, err
	}
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
