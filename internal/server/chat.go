package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/inferno-serve/inferno/internal/tokenizer"
	"github.com/inferno-serve/inferno/internal/tokenizer/chat"
	"github.com/inferno-serve/inferno/internal/tokenizer/chat/jinja"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Limits of a conversation; the comments of the proto file promise them.
const (
	maxMessages  = 4096
	maxTools     = 1024
	maxRoleLen   = 64
	maxJSONBytes = 1 << 20
	maxDepth     = 32 // of the values of extra and tools
)

// templateError is a model's lack of a usable chat template. It becomes FAILED_PRECONDITION.
type templateError struct {
	model string
	why   error
}

func (e *templateError) Error() string {
	return fmt.Sprintf("model %s cannot chat: %v", quote(e.model), e.why)
}

// conversation checks a conversation and turns it into plain Go.
func (f *faults) conversation(c *infernov1.ChatMessages) chat.Conversation {
	out := chat.Conversation{Options: chat.Continuation{
		AddGenerationPrompt:  orElse(c.AddGenerationPrompt, !c.GetContinueFinalMessage()),
		ContinueFinalMessage: c.GetContinueFinalMessage(),
	}}
	if c.GetContinueFinalMessage() && c.GetAddGenerationPrompt() {
		f.add("chat.continue_final_message", "is true, want false where add_generation_prompt is true")
	}
	switch n := len(c.GetMessages()); {
	case n == 0:
		f.add("chat.messages", "is empty, want at least 1 message")
	case n > maxMessages:
		f.add("chat.messages", "has %d messages, want at most %d", n, maxMessages)
		return out
	}
	out.Tools = f.tools(c)
	before := len(f.found)
	for i, m := range c.GetMessages() {
		out.Messages = append(out.Messages, f.message(fmt.Sprintf("chat.messages[%d].", i), m))
		if len(f.found) > before { // the faults of one stand for those of all, of which there may be thousands
			break
		}
	}
	return out
}

func (f *faults) message(parent string, m *infernov1.ChatMessage) chat.Message {
	out := chat.Message{Role: m.GetRole(), Content: m.GetContent()}
	switch role := m.GetRole(); {
	case role == "":
		f.add(parent+"role", "is empty, want a role such as user")
	case len(role) > maxRoleLen:
		f.add(parent+"role", "has %d characters, want at most %d", len(role), maxRoleLen)
	case strings.ContainsFunc(role, func(r rune) bool { return r == ':' || r != '_' && !isIDRune(r) }):
		f.add(parent+"role", "is %s, want only characters of [A-Za-z0-9._-]", quote(role))
	}
	field := "extra"
	switch {
	case m.GetExtraJson() == "":
		if m.GetExtra() != nil {
			out.Extra = f.structure(parent+"extra", m.GetExtra(), 1)
		}
	case m.GetExtra() != nil:
		f.add(parent+"extra_json", "is set, want it empty where extra is set")
	case f.jsonSize(parent+"extra_json", m.GetExtraJson()):
		field = "extra_json"
		var err error
		if out.Extra, err = chat.ParseExtra([]byte(m.GetExtraJson())); err != nil {
			f.add(parent+"extra_json", "%v", err)
		}
	}
	f.members(parent, field, out)
	return out
}

// members checks that extra members do not contradict a message's own.
func (f *faults) members(parent, field string, m chat.Message) {
	if m.Extra == nil {
		return
	}
	if _, has := m.Extra.Get("role"); has {
		f.add(parent+field+".role", "is set, want it in the message's own role")
	}
	switch content, has := m.Extra.Get("content"); {
	case !has:
	case m.Content != "":
		f.add(parent+field+".content", "is set, want the message's own content empty then")
	default:
		switch content.(type) {
		case jinja.None, *jinja.List:
		default:
			f.add(parent+field+".content", "is neither null nor a list, want a text in the message's own content")
		}
	}
}

func (f *faults) tools(c *infernov1.ChatMessages) *jinja.List {
	switch text := c.GetToolsJson(); {
	case text != "" && len(c.GetTools()) > 0:
		f.add("chat.tools_json", "is set, want it empty where tools is set")
	case text != "" && f.jsonSize("chat.tools_json", text):
		list, err := chat.ParseTools([]byte(text))
		switch {
		case err != nil:
			f.add("chat.tools_json", "%v", err)
		case len(list.Items) > maxTools:
			f.add("chat.tools_json", "has %d tools, want at most %d", len(list.Items), maxTools)
		case len(list.Items) > 0:
			return list
		}
	case len(c.GetTools()) > maxTools:
		f.add("chat.tools", "has %d tools, want at most %d", len(c.GetTools()), maxTools)
	case len(c.GetTools()) > 0:
		list := jinja.NewList()
		before := len(f.found)
		for i, tool := range c.GetTools() {
			list.Items = append(list.Items, f.structure(fmt.Sprintf("chat.tools[%d]", i), tool, 1))
			if len(f.found) > before {
				break
			}
		}
		return list
	}
	return nil
}

func (f *faults) jsonSize(field, text string) bool {
	if len(text) > maxJSONBytes {
		f.add(field, "has %d bytes, want at most %d", len(text), maxJSONBytes)
		return false
	}
	return true
}

// structure turns a Struct into a dictionary. It stops at the first fault.
func (f *faults) structure(field string, s *structpb.Struct, depth int) *jinja.Dict {
	out := jinja.NewDict()
	if depth > maxDepth {
		f.add(field, "has more than %d levels", maxDepth)
		return out
	}
	for _, key := range keysOf(s) {
		before := len(f.found)
		out.Put(jinja.Content(key), f.value(field+"."+clip(key), s.GetFields()[key], depth))
		if len(f.found) > before {
			break
		}
	}
	return out
}

func (f *faults) value(field string, v *structpb.Value, depth int) jinja.Value {
	switch kind := v.GetKind().(type) {
	case *structpb.Value_BoolValue:
		return jinja.Bool(kind.BoolValue)
	case *structpb.Value_NumberValue:
		if i := int64(kind.NumberValue); float64(i) == kind.NumberValue && i < 1<<53 && i > -1<<53 {
			return jinja.Int(i) // a Struct knows no integers; JSON and Python do
		}
		return jinja.Float(kind.NumberValue)
	case *structpb.Value_StringValue:
		return jinja.Content(kind.StringValue)
	case *structpb.Value_ListValue:
		out := jinja.NewList()
		if depth >= maxDepth {
			f.add(field, "has more than %d levels", maxDepth)
			return out
		}
		for i, one := range kind.ListValue.GetValues() {
			before := len(f.found)
			out.Items = append(out.Items, f.value(fmt.Sprintf("%s[%d]", field, i), one, depth+1))
			if len(f.found) > before {
				break
			}
		}
		return out
	case *structpb.Value_StructValue:
		return f.structure(field, kind.StructValue, depth+1)
	}
	return jinja.None{}
}

// render makes the text of a conversation. The error is that of ctx, or says that the model cannot chat; what is wrong with the
// conversation are faults.
func (s *Server) render(ctx context.Context, f *faults, c chat.Conversation, size int, model *Model) (chat.Prompt, error) {
	if model.Tokenizer == nil {
		f.add("chat", "is set, but model %s has no tokenizer: want token_ids", quote(model.Info.Name))
		return chat.Prompt{}, nil
	}
	if err := model.Chat.Err(); err != nil {
		return chat.Prompt{}, &templateError{model: model.Info.Name, why: err}
	}
	done, err := s.turn(ctx, size)
	if err != nil {
		return chat.Prompt{}, err
	}
	defer done()
	prompt, err := model.Chat.Render(ctx, c, jinja.Options{})
	var raised *jinja.RaisedError
	var limit *jinja.LimitError
	var broken *jinja.Error
	switch {
	case err == nil:
	case errors.Is(err, chat.ErrFinalMessage):
		f.add("chat.continue_final_message", "is true, but %v", err)
	case errors.As(err, &raised):
		f.add("chat", "the model's template refuses it: %s", oneLine(raised.Message))
	case errors.As(err, &limit) && !limit.Slow:
		f.add("chat", "the model's template %s, want a shorter conversation", limit.Limit)
	case errors.As(err, &broken):
		f.add("chat", "the model's template cannot render it: %s", oneLine(broken.Error()))
	default:
		return chat.Prompt{}, err
	}
	return prompt, nil
}

// oneLine makes the words of a template, which may hold those of a client, fit an error: short, and nothing that could forge a line of
// a log.
func oneLine(s string) string {
	return clip(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s))
}

// chatTokens renders a conversation and tokenizes it, as encode does with a text.
func (s *Server) chatTokens(
	ctx context.Context, f *faults, c *infernov1.ChatMessages, o *infernov1.PromptOptions, model *Model, most int,
) (ids []int32, text string, err error) {
	if o != nil && o.ParseSpecial != nil {
		f.add("prompt_options.parse_special", "is set, but the input is a chat: want chat.parse_special_in_content")
	}
	conversation := f.conversation(c)
	if len(f.found) > 0 { // rendering would be work for nothing
		return nil, "", nil
	}
	prompt, err := s.render(ctx, f, conversation, sizeOf(c), model)
	if err != nil || len(f.found) > 0 {
		return nil, "", err
	}
	options := tokenizer.EncodeOptions{ParseSpecial: true, MaxTokens: most}
	options.AddSpecial = o.GetAddSpecialTokens() // the template writes them itself
	if !c.GetParseSpecialInContent() {
		options.Content = prompt.Content
	}
	ids, err = s.encodeAs(ctx, f, "chat", prompt.Text, options, model)
	return truncateText(ids, o, options.AddSpecial, model), prompt.Text, err
}

// sizeOf is the bytes of a conversation that a template may print.
func sizeOf(c *infernov1.ChatMessages) int {
	size := len(c.GetToolsJson())
	for _, m := range c.GetMessages() {
		size += len(m.GetContent()) + len(m.GetExtraJson())
	}
	return size
}
