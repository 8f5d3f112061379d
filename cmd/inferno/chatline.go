package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// readChat reads a conversation: {"messages":[{"role":…,"content":…,…},…],"tools":[…],"add_generation_prompt":…,…}, with the names of the
// API. The order of the keys of tools, and of what a message has besides, is kept.
func readChat(r *strictjson.Reader) (*infernov1.ChatMessages, error) {
	chat := &infernov1.ChatMessages{}
	found := false
	err := r.Object(func(key string) (err error) {
		switch key {
		case "messages":
			found = true
			return r.Array(func(int) error {
				m, err := readMessage(r)
				chat.Messages = append(chat.Messages, m)
				return err
			})
		case "tools":
			v, err := r.Value()
			switch {
			case err != nil:
				return err
			case v.Kind == strictjson.Array:
				chat.ToolsJson = writeValue(v)
			case v.Kind != strictjson.Null:
				return fmt.Errorf("%v, want an array or null", v.Kind)
			}
		case "add_generation_prompt":
			chat.AddGenerationPrompt = new(bool)
			*chat.AddGenerationPrompt, err = r.Bool()
		case "continue_final_message":
			chat.ContinueFinalMessage, err = r.Bool()
		case "parse_special_in_content":
			chat.ParseSpecialInContent = new(bool)
			*chat.ParseSpecialInContent, err = r.Bool()
		default:
			err = errors.New("unknown key, want messages, tools, add_generation_prompt, continue_final_message or parse_special_in_content")
		}
		return err
	})
	if err == nil && !found {
		err = errors.New(`"messages" is missing`)
	}
	return chat, err
}

func readMessage(r *strictjson.Reader) (*infernov1.ChatMessage, error) {
	m := &infernov1.ChatMessage{}
	extra := strictjson.Value{Kind: strictjson.Object}
	err := r.Object(func(key string) (err error) {
		if key == "role" {
			m.Role, err = r.String()
			return err
		}
		v, err := r.Value()
		if key == "content" && v.Kind == strictjson.String {
			m.Content = v.Text
			return err
		}
		extra.Members = append(extra.Members, strictjson.Member{Key: key, Value: v})
		return err
	})
	if len(extra.Members) > 0 {
		m.ExtraJson = writeValue(extra)
	}
	return m, err
}

// writeValue writes JSON again, keys in their order.
func writeValue(v strictjson.Value) string {
	var out strings.Builder
	appendValue(&out, v)
	return out.String()
}

func appendValue(out *strings.Builder, v strictjson.Value) {
	switch v.Kind {
	case strictjson.Object:
		out.WriteByte('{')
		for i, m := range v.Members {
			if i > 0 {
				out.WriteByte(',')
			}
			out.WriteString(quoteJSON(m.Key))
			out.WriteByte(':')
			appendValue(out, m.Value)
		}
		out.WriteByte('}')
	case strictjson.Array:
		out.WriteByte('[')
		for i, item := range v.Items {
			if i > 0 {
				out.WriteByte(',')
			}
			appendValue(out, item)
		}
		out.WriteByte(']')
	case strictjson.String:
		out.WriteString(quoteJSON(v.Text))
	default:
		out.WriteString(v.Text)
	}
}

// quoteJSON escapes what JSON does not allow in a string, and nothing else.
func quoteJSON(s string) string {
	var out strings.Builder
	out.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			out.WriteByte('\\')
			out.WriteByte(c)
		case c < ' ':
			fmt.Fprintf(&out, `\u%04x`, c)
		default:
			out.WriteByte(c)
		}
	}
	out.WriteByte('"')
	return out.String()
}
