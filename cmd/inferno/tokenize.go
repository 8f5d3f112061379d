package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/inferno-serve/inferno/client"
	"github.com/inferno-serve/inferno/internal/model/gguf"
	"github.com/inferno-serve/inferno/internal/model/strictjson"
	"github.com/inferno-serve/inferno/internal/tokenizer"
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

	AddSpecial   bool     `negatable:"" default:"true" help:"Add the special tokens that the model's tokenizer adds."`
	ParseSpecial bool     `negatable:"" default:"true" help:"Turn special tokens written in the text into control tokens."`
	Text         []string `arg:"" optional:"" help:"Texts. Without any, standard input has a line {\"text\": ...} for each."`
}

// Run prints the token ids of each text.
func (t *tokenizeCommand) Run(ctx context.Context, c *console) error {
	codec, err := openCodec(ctx, t.remote, t.vocabulary)
	if err != nil {
		return err
	}
	defer codec.Close()
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
	return eachLine(c, "text", (*strictjson.Reader).String, func(text string) (any, error) {
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
	return eachLine(c, "token_ids", readIDs, func(ids []uint32) (any, error) {
		text, err := codec.decode(ctx, ids, d.SkipSpecial)
		return line{text}, err
	})
}

// maxLineBytes bounds a line of standard input: the longest text of a tokenizer, with every byte escaped.
const maxLineBytes = 6 * 16 << 20

// eachLine answers each JSON object of standard input, a line each, whose only member is key.
func eachLine[T any](c *console, key string, read func(*strictjson.Reader) (T, error), answer func(T) (any, error)) error {
	lines := bufio.NewScanner(c.in)
	lines.Buffer(make([]byte, 0, 64<<10), maxLineBytes)
	out := bufio.NewWriter(c.out)
	buffered := &console{out: out}
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		in, err := readMember(lines.Bytes(), key, read)
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

// readMember reads a JSON object that has one member. Nothing of it is mended: half a surrogate pair would be another text.
func readMember[T any](data []byte, key string, read func(*strictjson.Reader) (T, error)) (value T, err error) {
	r, err := strictjson.NewReader(data)
	if err != nil {
		return value, err
	}
	found := false
	err = r.Object(func(name string) (err error) {
		if name != key {
			return fmt.Errorf("unknown key, want %q", key)
		}
		found = true
		value, err = read(r)
		return err
	})
	if err == nil {
		err = r.End()
	}
	if err == nil && !found {
		err = fmt.Errorf("%q is missing", key)
	}
	return value, err
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

// codec turns text into token ids and back.
type codec interface {
	encode(ctx context.Context, text string, addSpecial, parseSpecial bool) ([]uint32, error)
	decode(ctx context.Context, ids []uint32, skipSpecial bool) (string, error)
	Close() error
}

func openCodec(ctx context.Context, r remote, v vocabulary) (codec, error) {
	if v.Tokenizer != "" {
		t, err := loadTokenizer(v.Tokenizer)
		if err != nil {
			return nil, err
		}
		return fileCodec{t}, nil
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

// loadTokenizer reads a Hugging Face directory, a tokenizer.json or a GGUF file.
func loadTokenizer(path string) (*tokenizer.Tokenizer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("load tokenizer: %w", err)
	}
	if info.IsDir() {
		return tokenizer.LoadDir(path)
	}
	isGGUF, err := startsWith(path, "GGUF")
	if err != nil {
		return nil, fmt.Errorf("load tokenizer: %w", err)
	}
	if !isGGUF {
		return tokenizer.LoadFile(path)
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
	return t, nil
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
type fileCodec struct{ tokenizer *tokenizer.Tokenizer }

func (f fileCodec) encode(_ context.Context, text string, addSpecial, parseSpecial bool) ([]uint32, error) {
	ids, err := f.tokenizer.Encode(text, tokenizer.EncodeOptions{AddSpecial: addSpecial, ParseSpecial: parseSpecial})
	out := make([]uint32, len(ids))
	for i, id := range ids {
		out[i] = uint32(id)
	}
	return out, err
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

func (s serverCodec) encode(ctx context.Context, text string, addSpecial, parseSpecial bool) ([]uint32, error) {
	answer, err := s.server.Inference().Tokenize(ctx, &infernov1.TokenizeRequest{
		Model: s.model, Input: &infernov1.TokenizeRequest_Text{Text: text},
		PromptOptions: &infernov1.PromptOptions{AddSpecialTokens: &addSpecial, ParseSpecial: &parseSpecial},
	})
	return answer.GetTokenIds(), err
}

func (s serverCodec) decode(ctx context.Context, ids []uint32, skipSpecial bool) (string, error) {
	answer, err := s.server.Inference().Detokenize(ctx, &infernov1.DetokenizeRequest{
		Model: s.model, TokenIds: ids, SkipSpecialTokens: &skipSpecial,
	})
	return answer.GetText(), err
}

func (s serverCodec) Close() error { return s.server.Close() }
