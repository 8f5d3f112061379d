package server

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"

	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/tokenizer/chat"
	"github.com/inferno-serve/inferno/internal/tokenizer/chat/jinja"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// testTemplate writes short prompts: the tests' model has a context of 32 bytes.
const testTemplate = `{% for m in messages %}<s>{{ m.role[0] }}{{ m.content }}{% if m.x is defined %}{{ m.x | tojson }}{% endif %}{% endfor %}` +
	`{% if tools %}{{ tools | tojson }}{% endif %}{% if messages[0].content == 'raise' %}{{ raise_exception('no\n"raise"') }}{% endif %}` +
	`{% if messages[0].content == 'fail' %}{{ 1 + 'a' }}{% endif %}{% if messages[0].content == 'hang' %}` +
	`{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}{% endif %}` +
	`{% if add_generation_prompt %}</s>a{% endif %}`

// templateOf is the template of a model whose files have this one.
func templateOf(t testing.TB, source string) *chat.Template {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "chat_template.jinja"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	return chat.LoadDir(dir, byteTokenizer(t))
}

func chatRequest(t testing.TB, text string) *infernov1.ChatMessages {
	t.Helper()
	c := &infernov1.ChatMessages{}
	if err := prototext.Unmarshal([]byte(text), c); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return c
}

// TestChatsBecomePrompts holds the text of Tokenize, its tokens, and the prompt that the engine is given.
func TestChatsBecomePrompts(t *testing.T) {
	g := play(part{ids: []int32{'x'}, finish: finished(engine.MaxTokens, 0)})
	f := start(t, g)
	ids := func(parts ...any) (all []int32) {
		for _, p := range parts {
			if text, ok := p.(string); ok {
				all = append(all, byteIDs(text)...)
			} else {
				all = append(all, int32(p.(int)))
			}
		}
		return all
	}
	for _, c := range []struct {
		chat string
		text string
		ids  []int32
	}{
		{`messages{role:"user" content:"Hi"}`, "<s>uHi</s>a", ids(bosID, "uHi", eosID, "a")},
		{`messages{role:"user" content:"Hi"} add_generation_prompt:false`, "<s>uHi", ids(bosID, "uHi")},
		{`messages{role:"user" content:"1"} messages{role:"assistant" content:"2 "} continue_final_message:true`, "<s>u1<s>a2 ", ids(bosID, "u1", bosID, "a2 ")},
		{`messages{role:"user" content:"</s>"}`, "<s>u</s></s>a", ids(bosID, "u</s>", eosID, "a")},
		{`messages{role:"user" content:"</s>"} parse_special_in_content:true`, "<s>u</s></s>a", ids(bosID, "u", eosID, eosID, "a")},
		{`messages{role:"user" content:"<"} messages{role:"user" content:"/s>"}`, "<s>u<<s>u/s></s>a", ids(bosID, "u<", bosID, "u/s>", eosID, "a")},
		{`messages{role:"user" extra{fields{key:"x" value{number_value:2}}}}`, `<s>u2</s>a`, ids(bosID, "u2", eosID, "a")},
		{`messages{role:"user" extra_json:"{\"x\":{\"b\":1,\"a\":2.0}}"}`, `<s>u{"b": 1, "a": 2.0}</s>a`, ids(bosID, `u{"b": 1, "a": 2.0}`, eosID, "a")},
		{`messages{role:"user" extra_json:"{\"content\":null}"}`, `<s>uNone</s>a`, ids(bosID, `uNone`, eosID, "a")},
		{`messages{role:"user"} tools_json:"[{\"b\":1,\"a\":{}}]"`, `<s>u[{"b": 1, "a": {}}]</s>a`, ids(bosID, `u[{"b": 1, "a": {}}]`, eosID, "a")},
		{`messages{role:"user"} tools_json:"[]"`, `<s>u</s>a`, ids(bosID, `u`, eosID, "a")},
		{`messages{role:"u"} tools{fields{key:"z" value{null_value:0}} fields{key:"name" value{bool_value:true}}}`, `<s>u[{"name": true, "z": null}]</s>a`,
			ids(bosID, `u[{"name": true, "z": null}]`, eosID, "a")},
	} {
		request := chatRequest(t, c.chat)
		answer, err := f.api.Tokenize(t.Context(), &infernov1.TokenizeRequest{Model: "m", Input: &infernov1.TokenizeRequest_Chat{Chat: request}})
		if err != nil || answer.GetText() != c.text || !slices.Equal(answer.GetTokenIds(), toUint32(c.ids)) {
			t.Errorf("%s: text %q, tokens %v, %v; want %q, %v", c.chat, answer.GetText(), answer.GetTokenIds(), err, c.text, c.ids)
			continue
		}
		_, err = f.api.Generate(t.Context(), &infernov1.GenerateRequest{Model: "m", Input: &infernov1.GenerateRequest_Chat{Chat: request}})
		if len(c.ids) >= maxContext {
			if s := status.Convert(err); s.Code() != codes.InvalidArgument || !strings.Contains(faultsOf(s)["chat"], "31") {
				t.Errorf("%s: %v, want it to be too long", c.chat, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.chat, err)
			continue
		}
		if got := (<-g.requests).Prompt; !slices.Equal(got, c.ids) {
			t.Errorf("%s: the engine is given %v, want %v", c.chat, got, c.ids)
		}
	}
}

// The order of a Struct's keys is the same every time.
func TestToolsHaveTheirUsualOrder(t *testing.T) {
	f := start(t, newScript())
	const text = `messages{role:"user"} tools{
		fields{key:"function" value{struct_value{
			fields{key:"strict" value{bool_value:true}}
			fields{key:"parameters" value{struct_value{
				fields{key:"required" value{list_value{values{string_value:"b"}}}}
				fields{key:"properties" value{struct_value{fields{key:"b" value{null_value:0}} fields{key:"a" value{number_value:1.5}}}}}
				fields{key:"type" value{string_value:"object"}}}}}
			fields{key:"description" value{string_value:"d"}}
			fields{key:"name" value{string_value:"n"}}}}}
		fields{key:"type" value{string_value:"function"}}}`
	const want = `<s>u[{"type": "function", "function": {"name": "n", "description": "d", "parameters": ` +
		`{"type": "object", "properties": {"a": 1.5, "b": null}, "required": ["b"]}, "strict": true}}]</s>a`
	for range 20 { // maps vary
		answer, err := f.api.Tokenize(t.Context(), &infernov1.TokenizeRequest{
			Model: "m", Input: &infernov1.TokenizeRequest_Chat{Chat: chatRequest(t, text)},
		})
		if err != nil || answer.GetText() != want {
			t.Fatalf("%q, %v; want %q", answer.GetText(), err, want)
		}
	}
}

func TestBadChatsAreRefused(t *testing.T) {
	f := start(t, newScript(), func(o *Options) {
		all := o.Models.(models)
		none, broken := *all[2], *all[2]
		none.Info.Name, none.Chat = "none", nil
		broken.Info.Name, broken.Chat = "broken", templateOf(t, "x\n{% if %}")
		o.Models = slices.Concat(all, models{&none, &broken})
	})
	deep := strings.Repeat(`list_value{values{`, 40) + `null_value:0` + strings.Repeat(`}}`, 40)
	const user = `messages{role:"user" content:"a"} `
	for _, c := range []struct{ name, chat, at, says string }{
		{"no messages", ``, "chat.messages", "is empty, want at least 1"},
		{"many messages", strings.Repeat(`messages{role:"user"} `, 4097), "chat.messages", "has 4097 messages, want at most 4096"},
		{"no role", user + `messages{content:"x"}`, "chat.messages[1].role", "is empty"},
		{"long role", `messages{role:"` + strings.Repeat("r", 65) + `"}`, "chat.messages[0].role", "has 65 characters, want at most 64"},
		{"role of other characters", `messages{role:"a b"}`, "chat.messages[0].role", `is "a b"`},
		{"role with a colon", `messages{role:"a:b"}`, "chat.messages[0].role", `is "a:b"`},
		{"role of a control token", `messages{role:"</s>"}`, "chat.messages[0].role", `is "</s>"`},
		{"both continuations", user + `continue_final_message:true add_generation_prompt:true`, "chat.continue_final_message", "want false where add_generation_prompt"},
		{"content twice", `messages{role:"user" content:"a" extra{fields{key:"content" value{null_value:0}}}}`, "chat.messages[0].extra.content", "own content empty"},
		{"text as extra content", `messages{role:"user" extra_json:"{\"content\":\"a\"}"}`, "chat.messages[0].extra_json.content", "want a text in the message's own"},
		{"role twice", `messages{role:"user" extra{fields{key:"role" value{string_value:"x"}}}}`, "chat.messages[0].extra.role", "own role"},
		{"extra twice", `messages{role:"user" extra{} extra_json:"{}"}`, "chat.messages[0].extra_json", "want it empty"},
		{"extra of bad JSON", `messages{role:"user" extra_json:"{"}`, "chat.messages[0].extra_json", "is no JSON"},
		{"extra of a list", `messages{role:"user" extra_json:"[]"}`, "chat.messages[0].extra_json", "is an array, want an object"},
		{"extra of many bytes", `messages{role:"user" extra_json:"` + strings.Repeat(" ", 1<<20+1) + `"}`, "chat.messages[0].extra_json", "has 1048577 bytes"},
		{"deep extra", `messages{role:"user" extra{fields{key:"k" value{` + deep + `}}}}`, "chat.messages[0].extra.k" + strings.Repeat("[0]", 31), "more than 32 levels"},
		{"deep JSON", `messages{role:"user" extra_json:"{\"k\":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}"}`, "chat.messages[0].extra_json", "is no JSON"},
		{"huge number", `messages{role:"user" extra_json:"{\"k\":1e999}"}`, "chat.messages[0].extra_json", "out of range"},
		{"tools twice", user + `tools{} tools_json:"[]"`, "chat.tools_json", "want it empty"},
		{"tools of bad JSON", user + `tools_json:"["`, "chat.tools_json", "is no JSON"},
		{"tools of an object", user + `tools_json:"{}"`, "chat.tools_json", "is an object, want an array"},
		{"tools of texts", user + `tools_json:"[{},\"a\"]"`, "chat.tools_json", "[1] is no object"},
		{"many tools", user + strings.Repeat(`tools{}`, 1025), "chat.tools", "has 1025 tools, want at most 1024"},
		{"many tools as JSON", user + `tools_json:"[` + strings.Repeat("{},", 1024) + `{}]"`, "chat.tools_json", "has 1025 tools"},
		{"deep tool", user + `tools{} tools{fields{key:"k" value{` + deep + `}}}`, "chat.tools[1].k" + strings.Repeat("[0]", 31), "more than 32 levels"},
		{"template raises", `messages{role:"user" content:"raise"}`, "chat", `the model's template refuses it: no "raise"`},
		{"template fails", `messages{role:"user" content:"fail"}`, "chat", "the model's template cannot render it: template line 1: unsupported operand"},
		{"template hangs", `messages{role:"user" content:"hang"}`, "chat", "takes more than 1002000 operations, want a shorter conversation"},
		{"content of null to go on with", `messages{role:"user" extra_json:"{\"content\":null}"} continue_final_message:true`, "chat.continue_final_message", "its content is no text"},
	} {
		t.Run(c.name, func(t *testing.T) {
			request := chatRequest(t, c.chat)
			_, err := f.api.Tokenize(t.Context(), &infernov1.TokenizeRequest{Model: "m", Input: &infernov1.TokenizeRequest_Chat{Chat: request}})
			s := wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")
			if found := faultsOf(s); len(found) != 1 || !strings.Contains(found[c.at], c.says) {
				t.Errorf("Tokenize found %v, want %q at %s", found, c.says, c.at)
			}
			_, err = f.api.Generate(t.Context(), &infernov1.GenerateRequest{Model: "m", Input: &infernov1.GenerateRequest_Chat{Chat: request}})
			if found := faultsOf(wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")); !strings.Contains(found[c.at], c.says) {
				t.Errorf("Generate found %v, want %q at %s", found, c.says, c.at)
			}
		})
	}
	for model, says := range map[string]string{
		"none": `model "none" cannot chat: the model's files have no chat template`, "broken": `model "broken" cannot chat: the chat template "default" cannot be read: template line 2`,
	} {
		_, err := f.api.Generate(t.Context(), &infernov1.GenerateRequest{Model: model, Input: &infernov1.GenerateRequest_Chat{Chat: chatRequest(t, user)}})
		if s := wantStatus(t, err, codes.FailedPrecondition, "NO_CHAT_TEMPLATE"); !strings.Contains(s.Message(), says) {
			t.Errorf("%s: %q, want %q", model, s.Message(), says)
		}
		if _, err := f.api.Tokenize(t.Context(), &infernov1.TokenizeRequest{Model: model, Input: &infernov1.TokenizeRequest_Text{Text: "a"}}); err != nil {
			t.Errorf("%s serves no text: %v", model, err)
		}
	}
	_, err := f.api.Generate(t.Context(), &infernov1.GenerateRequest{Model: "ids", Input: &infernov1.GenerateRequest_Chat{Chat: chatRequest(t, user)}})
	if found := faultsOf(wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")); !strings.Contains(found["chat"], "has no tokenizer") {
		t.Errorf("a model without tokenizer: %v", found)
	}
	_, err = f.api.Generate(t.Context(), &infernov1.GenerateRequest{
		Model: "m", Input: &infernov1.GenerateRequest_Chat{Chat: chatRequest(t, user)}, PromptOptions: &infernov1.PromptOptions{ParseSpecial: new(true)},
	})
	if found := faultsOf(wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")); !strings.Contains(found["prompt_options.parse_special"], "parse_special_in_content") {
		t.Errorf("parse_special with a chat: %v", found)
	}
}

// A host that is too slow for a template is no fault of the request, which may be tried again.
func TestSlowTemplatesMayBeTriedAgain(t *testing.T) {
	s := status.Convert(toStatus(fmt.Errorf("render: %w", &jinja.LimitError{Limit: "takes longer than 10s", Slow: true}), ""))
	if wait, ok := retryDelay(wantStatus(t, s.Err(), codes.ResourceExhausted, "CHAT_TEMPLATE_SLOW")); !ok || wait <= 0 {
		t.Errorf("no RetryInfo: %v", s)
	}
}

// A long chat fits the answer of Tokenize, or is refused: never cut off by the transport.
func TestLongChatsFitTheirAnswers(t *testing.T) {
	f := start(t, newScript(), func(o *Options) {
		o.Models.(models)[2].Chat = templateOf(t, "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}")
	})
	for size, fits := range map[int]bool{1 << 20: true, 3 << 20: false} {
		request := &infernov1.ChatMessages{Messages: []*infernov1.ChatMessage{{Role: "user", Content: strings.Repeat("x", size)}}}
		answer, err := f.api.Tokenize(t.Context(), &infernov1.TokenizeRequest{Model: "m", Input: &infernov1.TokenizeRequest_Chat{Chat: request}},
			grpc.MaxCallRecvMsgSize(maxSendBytes))
		switch {
		case fits && (err != nil || len(answer.GetTokenIds()) != 2*size || len(answer.GetText()) != 2*size):
			t.Errorf("%d bytes: %d tokens, %v", size, len(answer.GetTokenIds()), err)
		case !fits:
			if found := faultsOf(wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")); !strings.Contains(found["chat"], fmt.Sprint(2*size)) {
				t.Errorf("%d bytes: %v", size, found)
			}
		}
	}
}
