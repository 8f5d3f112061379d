package chat

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/inferno-serve/inferno/internal/model/modeldir"
	"github.com/inferno-serve/inferno/internal/model/strictjson"
	"github.com/inferno-serve/inferno/internal/tokenizer"
	"github.com/inferno-serve/inferno/internal/tokenizer/chat/jinja"
)

// maxFileBytes bounds tokenizer_config.json and chat_template.jinja.
const maxFileBytes = 16 << 20

// LoadDir reads the template of a Hugging Face directory: chat_template.jinja, with that for tools in additional_chat_templates, or
// chat_template of tokenizer_config.json, which is one template or a list of named ones. What is wrong with it, Err says: a model serves
// without.
func LoadDir(dir string, t *tokenizer.Tokenizer) *Template {
	files, err := modeldir.Open(dir)
	if err != nil {
		return &Template{err: err}
	}
	defer files.Close()
	config, err := readConfig(files)
	if err != nil {
		return &Template{err: err}
	}
	sources := config.sources
	own := map[string]string{}
	for name, file := range map[string]string{"default": "chat_template.jinja", "tool_use": "additional_chat_templates/tool_use.jinja"} {
		source, err := files.ReadFile(file, maxFileBytes)
		switch {
		case err == nil:
			own[name] = string(source)
		case !errors.Is(err, fs.ErrNotExist):
			return &Template{err: err}
		}
	}
	if len(own) > 0 {
		sources = own
	}
	tokens := config.tokens
	addToken(tokens, "bos_token", t.BOS, t)
	addToken(tokens, "eos_token", t.EOS, t)
	return newTemplate(sources, tokens)
}

// FromGGUF reads the template of a GGUF file: tokenizer.chat_template, and for tools tokenizer.chat_template.tool_use.
func FromGGUF(md tokenizer.Metadata, t *tokenizer.Tokenizer) *Template {
	const key = "tokenizer.chat_template"
	sources := map[string]string{}
	if source, ok := md.String(key); ok {
		sources["default"] = source
	}
	if source, ok := md.String(key + ".tool_use"); ok {
		sources["tool_use"] = source
	}
	tokens := map[string]jinja.Value{}
	addToken(tokens, "bos_token", t.BOS, t)
	addToken(tokens, "eos_token", t.EOS, t)
	for name, key := range map[string]string{
		"unk_token": "unknown_token_id", "pad_token": "padding_token_id", "sep_token": "seperator_token_id", // as the format spells it
		"cls_token": "cls_token_id", "mask_token": "mask_token_id",
	} {
		addToken(tokens, name, func() (int32, bool) {
			id, ok := md.Uint("tokenizer.ggml." + key)
			return int32(min(id, 1<<31-1)), ok
		}, t)
	}
	return newTemplate(sources, tokens)
}

// addToken names a token of the vocabulary, unless the name is taken.
func addToken(tokens map[string]jinja.Value, name string, id func() (int32, bool), t *tokenizer.Tokenizer) {
	if _, taken := tokens[name]; taken {
		return
	}
	if i, ok := id(); ok {
		if text, ok := t.Token(i); ok {
			tokens[name] = jinja.Trusted(text)
		}
	}
}

// newTemplate parses the templates, and has them make a prompt: one that does not come to an end is found here, not by the first request.
func newTemplate(sources map[string]string, tokens map[string]jinja.Value) *Template {
	t := &Template{named: map[string]*jinja.Template{}, tokens: tokens}
	if len(sources) == 0 {
		t.err = ErrNoTemplate
		return t
	}
	for name, source := range sources {
		parsed, err := jinja.Parse(source)
		if err != nil {
			t.err = fmt.Errorf("the chat template %q cannot be read: %w", name, err)
			return t
		}
		t.named[name] = parsed
	}
	if t.named["default"] == nil {
		t.err = fmt.Errorf(`%w called "default"`, ErrNoTemplate)
		return t
	}
	sample := Conversation{Messages: []Message{{Role: "user", Content: "Hi"}}, Options: Continuation{AddGenerationPrompt: true}}
	limits := limitsOf(sample)
	limits.Time = time.Hour // a host that is busy is no fault of the template
	var limit *jinja.LimitError
	if _, err := t.Render(context.Background(), sample, jinja.Options{Limits: limits}); errors.As(err, &limit) {
		t.err = fmt.Errorf("the chat template cannot be used: for one message it %s", limit.Limit)
	}
	return t
}

// config is what tokenizer_config.json says of chats.
type config struct {
	sources map[string]string      // the templates by name
	tokens  map[string]jinja.Value // special tokens by the names that templates use
}

// readConfig returns nothing where there is no such file. It reads it as the tokenizer does, which takes its special tokens from there too: what
// has two meanings has none.
func readConfig(dir *modeldir.Dir) (config, error) {
	data, err := dir.ReadFile("tokenizer_config.json", maxFileBytes)
	if errors.Is(err, fs.ErrNotExist) {
		data, err = []byte("{}"), nil
	}
	if err != nil {
		return config{}, err
	}
	c, err := parseConfig(data)
	if err != nil {
		return config{}, fmt.Errorf("tokenizer_config.json: %w", err)
	}
	return c, nil
}

func parseConfig(data []byte) (config, error) {
	c := config{sources: map[string]string{}, tokens: map[string]jinja.Value{}}
	r, err := strictjson.NewReader(data)
	if err == nil {
		err = r.Object(func(key string) error { return c.member(r, key) })
	}
	if err == nil {
		err = r.End()
	}
	return c, err
}

func (c *config) member(r *strictjson.Reader, key string) error {
	switch key {
	case "chat_template":
		return c.templates(r)
	case "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token":
		text, ok, err := tokenText(r)
		if ok {
			c.tokens[key] = jinja.Trusted(text)
		}
		return err
	}
	return r.Skip()
}

// templates reads one template, or a list of named ones.
func (c *config) templates(r *strictjson.Reader) error {
	kind, err := r.Kind()
	switch {
	case err != nil:
		return err
	case kind == strictjson.Null:
		return r.Null()
	case kind == strictjson.String:
		c.sources["default"], err = r.String()
		return err
	case kind != strictjson.Array:
		return fmt.Errorf("is %v, want a string, or a list of objects with name and template", kind)
	}
	return r.Array(func(int) error {
		var name, template string
		found := false
		err := r.Object(func(key string) (err error) {
			switch key {
			case "name":
				name, err = r.String()
			case "template":
				template, err = r.String()
				found = true
			default:
				err = r.Skip()
			}
			return err
		})
		_, taken := c.sources[name]
		switch {
		case err != nil:
			return err
		case !found:
			return errors.New("template is missing")
		case taken:
			return fmt.Errorf("the name %q is taken", name)
		}
		c.sources[name] = template
		return nil
	})
}

// tokenText reads a token: a string, an object with a content, or anything else, which is none.
func tokenText(r *strictjson.Reader) (text string, ok bool, err error) {
	switch kind, err := r.Kind(); {
	case err != nil:
		return "", false, err
	case kind == strictjson.String:
		text, err = r.String()
		return text, true, err
	case kind != strictjson.Object:
		return "", false, r.Skip()
	}
	err = r.Object(func(key string) error {
		if kind, err := r.Kind(); err != nil || key != "content" || kind != strictjson.String {
			return errors.Join(err, r.Skip())
		}
		ok = true
		text, err = r.String()
		return err
	})
	return text, ok, err
}
