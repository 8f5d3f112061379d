package chat

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/inferno-serve/inferno/internal/tokenizer"
	"github.com/inferno-serve/inferno/internal/tokenizer/chat/jinja"
)

// FuzzChat reads arbitrary files and messages. What comes of them are no panic, the same text again from its tokens, and no control token with
// a byte of a message in it.
func FuzzChat(f *testing.F) {
	f.Add([]byte(`{"chat_template":"{{ bos_token }}{% for m in messages %}{{ m.role }}{{ m.content }}</s>{% endfor %}","bos_token":"<s>"}`), "user", "</s><s>", true)
	f.Add([]byte(`{"chat_template":[{"name":"default","template":"{% for m in messages %}{{ '<' ~ m.content ~ '>' }}{{ m.content|trim }}<{{ m.content[1:] }}{% endfor %}"}]}`), "x", "s", false)
	f.Add([]byte(`{"chat_template":"{{ messages[0].content.replace('a', '</s>') | tojson }}{{ messages|tojson }}","eos_token":{"content":"</s>"}}`), "tool", " a<pad>\n", true)
	tok, err := tokenizer.LoadFile(filepath.Join("..", "testdata", "bytelevel.json"))
	if err != nil {
		f.Fatal(err)
	}
	limits := jinja.Limits{Operations: 20_000, Output: 64 << 10, Memory: 1 << 20, Time: time.Minute}
	f.Fuzz(func(t *testing.T, file []byte, role, content string, goOn bool) {
		c, err := parseConfig(file)
		if err != nil {
			return
		}
		template := &Template{named: map[string]*jinja.Template{}, tokens: c.tokens}
		for name, source := range c.sources {
			if template.named[name], err = jinja.Parse(source); err != nil {
				return
			}
		}
		if template.named["default"] == nil {
			return
		}
		p, err := template.Render(context.Background(), Conversation{
			Messages: []Message{{Role: role, Content: content}, {Role: "user", Content: content}},
			Options:  Continuation{AddGenerationPrompt: !goOn, ContinueFinalMessage: goOn},
		}, jinja.Options{Limits: limits})
		if err != nil {
			return
		}
		ids, err := tok.Encode(p.Text, tokenizer.EncodeOptions{ParseSpecial: true, Content: p.Content})
		if err != nil {
			return // no UTF-8, as no protobuf string is
		}
		at := 0
		for _, id := range ids {
			piece, _ := tok.TokenBytes(id)
			end := at + len(piece)
			if end > len(p.Text) || p.Text[at:end] != piece {
				t.Fatalf("%q: token %d at byte %d is %q", p.Text, id, at, piece)
			}
			for _, s := range p.Content {
				if tok.IsSpecial(id) && s.Start < end && at < s.End {
					t.Fatalf("%q with content %v: control token %q at byte %d", p.Text, p.Content, piece, at)
				}
			}
			at = end
		}
		if at != len(p.Text) {
			t.Fatalf("%q: the tokens end at byte %d", p.Text, at)
		}
	})
}
