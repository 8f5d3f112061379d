package chat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/inferno-serve/inferno/internal/model/modeldir"
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
	sources, err := config.sources()
	if err != nil {
		return &Template{err: err}
	}
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
	tokens := config.tokens()
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
type config map[string]json.RawMessage

// readConfig returns nothing where there is no such file.
func readConfig(dir *modeldir.Dir) (config, error) {
	data, err := dir.ReadFile("tokenizer_config.json", maxFileBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var c config
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("tokenizer_config.json: %w", err)
	}
	return c, nil
}

// sources are the templates by name.
func (c config) sources() (map[string]string, error) {
	raw := c["chat_template"]
	sources := map[string]string{}
	var one *string
	if raw == nil || json.Unmarshal(raw, &one) == nil {
		if one != nil {
			sources["default"] = *one
		}
		return sources, nil
	}
	var named []struct {
		Name     string  `json:"name"`
		Template *string `json:"template"`
	}
	if err := json.Unmarshal(raw, &named); err != nil {
		return nil, errors.New("tokenizer_config.json: chat_template: want a string, or a list of objects with name and template")
	}
	for i, n := range named {
		_, twice := sources[n.Name]
		switch {
		case n.Template == nil:
			return nil, fmt.Errorf("tokenizer_config.json: chat_template[%d]: template is missing", i)
		case twice:
			return nil, fmt.Errorf("tokenizer_config.json: chat_template[%d]: the name %q is taken", i, n.Name)
		}
		sources[n.Name] = *n.Template
	}
	return sources, nil
}

// tokens are the special tokens by the names that templates use. Each is a string, or an object with a content.
func (c config) tokens() map[string]jinja.Value {
	tokens := map[string]jinja.Value{}
	for _, name := range []string{"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"} {
		if text, ok := tokenText(c[name]); ok {
			tokens[name] = jinja.Trusted(text)
		}
	}
	return tokens
}

func tokenText(raw json.RawMessage) (string, bool) {
	var text *string
	if raw != nil && json.Unmarshal(raw, &text) == nil {
		if text == nil {
			return "", false
		}
		return *text, true
	}
	var object struct {
		Content *string `json:"content"`
	}
	if raw == nil || json.Unmarshal(raw, &object) != nil || object.Content == nil {
		return "", false
	}
	return *object.Content, true
}
