// Package chat makes prompts of conversations by a model's own chat template, as Hugging Face's apply_chat_template does. It finds the
// template in a checkpoint's files, runs it (package jinja), and tells the text of the template from the text of messages: so what somebody
// writes into a message cannot become a control token, whatever the template does with it.
//
// A Template is read-only after load: any goroutine may use it.
package chat

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/inferno-serve/inferno/internal/tokenizer"
	"github.com/inferno-serve/inferno/internal/tokenizer/chat/jinja"
)

// ErrNoTemplate is why a model whose files have none cannot chat.
var ErrNoTemplate = errors.New("the model's files have no chat template")

// ErrFinalMessage means that a template does not print the final message, so that there is nothing to go on with.
var ErrFinalMessage = errors.New("the chat template does not print the final message as it is")

// Template is what a model's files say about chats. Nil is the template of a model whose files say nothing.
type Template struct {
	named  map[string]*jinja.Template // "default", and for conversations with tools "tool_use"
	tokens map[string]jinja.Value     // bos_token and the like
	err    error                      // why it cannot be used
}

// Err tells why the template cannot be used: ErrNoTemplate, or what is wrong with it. Nil means that it can.
func (t *Template) Err() error {
	if t == nil {
		return ErrNoTemplate
	}
	return t.err
}

// Conversation is what a template renders.
type Conversation struct {
	Messages []Message    // at least one
	Tools    *jinja.List  // as the template expects them; nil for none
	Options  Continuation // where the prompt ends
}

// Message is one turn.
type Message struct {
	Role    string
	Content string
	Extra   *jinja.Dict // further members; one called content takes the place of Content. Nil for none
}

// Continuation is where a prompt ends.
type Continuation struct {
	AddGenerationPrompt  bool // with the opening of the assistant's turn
	ContinueFinalMessage bool // within the last message, for the model to go on with. Excludes AddGenerationPrompt
}

// Prompt is a rendered conversation.
type Prompt struct {
	Text    string
	Content []tokenizer.Span // bytes of Text that come from messages and tools, for tokenizer.EncodeOptions
}

// roles are what a message may have for a role and still be taken for the template's own word. Some templates make a control token of the
// role ("<|" + role + "|>"), which must not be a way to any other one.
var roles = []string{
	"system", "developer", "user", "assistant", "tool", "function", "model", "ipython", "observation", "environment", "context", "documents",
}

// continueTag is put behind the final message to find its end in the prompt. The word and the blank at its end, by which a template that
// trims is told from one that does not, are those of Hugging Face.
const continueTag = "CONTINUE_FINAL_MESSAGE_TAG "

// Render makes a prompt; limits that are not given are those that the conversation deserves. The error wraps ErrFinalMessage, or is that of jinja's Render, of Err or of ctx.
func (t *Template) Render(ctx context.Context, c Conversation, o jinja.Options) (Prompt, error) {
	if err := t.Err(); err != nil {
		return Prompt{}, err
	}
	messages, final, err := messagesOf(c)
	if err != nil {
		return Prompt{}, err
	}
	variables := map[string]jinja.Value{
		"messages": messages, "tools": jinja.None{}, "documents": jinja.None{},
		"add_generation_prompt": jinja.Bool(c.Options.AddGenerationPrompt && !c.Options.ContinueFinalMessage),
	}
	if c.Tools != nil {
		variables["tools"] = c.Tools
	}
	for name, token := range t.tokens {
		variables[name] = token
	}
	if o.Limits == (jinja.Limits{}) {
		o.Limits = limitsOf(c)
	}
	text, err := t.pick(c.Tools != nil).Render(ctx, variables, o)
	if err != nil {
		return Prompt{}, err
	}
	end := len(text.S)
	if c.Options.ContinueFinalMessage {
		if end, err = endOfFinal(text.S, final); err != nil {
			return Prompt{}, err
		}
	}
	return promptOf(text, end), nil
}

// limitsOf gives long conversations more than the default: templates take some 50 operations for a message, but some look at all messages
// for each; and one that gathers its text piece by piece makes all of it anew for every message.
func limitsOf(c Conversation) jinja.Limits {
	const (
		perMessage = 2000 // operations
		perByte    = 256
		maxMemory  = 512 << 20
	)
	l := jinja.DefaultLimits
	l.Operations += perMessage * len(c.Messages)
	bytes := 0
	for _, m := range c.Messages {
		bytes += len(m.Content)
	}
	l.Memory = min(l.Memory+perByte*bytes, maxMemory)
	return l
}

// pick takes the template that a conversation is for.
func (t *Template) pick(tools bool) *jinja.Template {
	if tools && t.named["tool_use"] != nil {
		return t.named["tool_use"]
	}
	return t.named["default"]
}

// promptOf is the front of a text.
func promptOf(t jinja.Text, end int) Prompt {
	p := Prompt{Text: t.S[:end]}
	for _, s := range t.Content {
		if s.Start < end {
			p.Content = append(p.Content, tokenizer.Span{Start: s.Start, End: min(s.End, end)})
		}
	}
	return p
}

// messagesOf makes the template's list of messages. Where the last one is to be gone on with, its text has the tag behind it, and is
// returned without.
func messagesOf(c Conversation) (list *jinja.List, final string, err error) {
	list = jinja.NewList()
	for i, m := range c.Messages {
		d := jinja.NewDict()
		role := jinja.Content(m.Role)
		if slices.Contains(roles, m.Role) {
			role = jinja.Trusted(m.Role)
		}
		d.Set("role", role)
		d.Set("content", jinja.Content(m.Content))
		if m.Extra != nil {
			for key, v := range m.Extra.All {
				if name, ok := key.(jinja.Text); ok {
					d.Put(name, v)
				}
			}
		}
		if c.Options.ContinueFinalMessage && i == len(c.Messages)-1 {
			content, _ := d.Get("content")
			tagged, text, ok := tag(content)
			if !ok {
				return nil, "", fmt.Errorf("%w: its content is no text", ErrFinalMessage)
			}
			d.Set("content", tagged)
			final = text
		}
		list.Items = append(list.Items, d)
	}
	return list, final, nil
}

// tag puts the tag behind a content, or the last part of it that is text.
func tag(content jinja.Value) (tagged jinja.Value, text string, ok bool) {
	switch c := content.(type) {
	case jinja.Text:
		return jinja.Text{S: c.S + continueTag, Content: c.Content}, c.S, true
	case *jinja.List:
		for i, part := range slices.Backward(c.Items) {
			d, isDict := part.(*jinja.Dict)
			if !isDict {
				continue
			}
			inner, has := d.Get("text")
			if !has {
				continue
			}
			made, text, ok := tag(inner)
			copied := jinja.NewDict()
			for key, v := range d.All {
				if name, isText := key.(jinja.Text); isText {
					copied.Put(name, v)
				}
			}
			copied.Set("text", made)
			parts := slices.Clone(c.Items)
			parts[i] = copied
			return jinja.NewList(parts...), text, ok
		}
	}
	return nil, "", false
}

// endOfFinal finds where the final message ends in a prompt. A template that trims has taken the tag's blank, and would have taken the
// blanks in front of the tag.
func endOfFinal(text, final string) (int, error) {
	word := strings.TrimRight(continueTag, " ")
	at := strings.LastIndex(text, word)
	if at < 0 || !strings.Contains(text, strings.TrimFunc(final, isSpace)) {
		return 0, ErrFinalMessage
	}
	if strings.HasPrefix(text[at:], continueTag) {
		return at, nil
	}
	return len(strings.TrimRightFunc(text[:at], isSpace)), nil
}

// isSpace is Python's str.isspace for one character.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }
