package chat

import (
	"context"
	"strings"
	"testing"
)

// BenchmarkRender makes prompts of conversations of 100 messages of 1 KiB.
func BenchmarkRender(b *testing.B) {
	const source = "{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}\n" +
		"{%- for message in messages %}{%- if message.role != 'system' %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}" +
		"{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
	template := newTemplate(map[string]string{"default": source}, nil)
	c := Conversation{Options: Continuation{AddGenerationPrompt: true}}
	for i := range 100 {
		c.Messages = append(c.Messages, Message{Role: []string{"user", "assistant"}[i%2], Content: strings.Repeat("a chat ", 146)})
	}
	p, err := template.Render(context.Background(), c, patient)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(p.Text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := template.Render(context.Background(), c, patient); err != nil {
			b.Fatal(err)
		}
	}
}
