package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/inferno-serve/inferno/client"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

type chatCommand struct {
	remote `embed:""`

	Model     string  `help:"Name of the model; may be left out where the server has one only."`
	System    string  `help:"The system message."`
	MaxTokens *uint32 `help:"Most new tokens of an answer."`

	Temperature *float32 `help:"0 takes the most likely token."`
	TopK        *uint32  `help:"Keep the k most likely tokens; 0 keeps all."`
	TopP        *float32 `help:"Keep the most likely tokens up to this probability."`
	MinP        *float32 `help:"Keep tokens of at least this share of the most likely one's probability."`
	Seed        *uint64  `help:"Fix the randomness."`

	formFlags `embed:""`
}

const chatHelp = `A line is a message; one that ends with \ goes on with the next line.
/system TEXT  set the system message; without TEXT there is none
/clear        forget the conversation, but for the system message
/save FILE    write the conversation to a file, as a line for tokenize --chat
/help         show this
/exit         leave, as does the end of input
Ctrl-C stops an answer; at the prompt it leaves.
`

// Run talks until the end of input.
func (cmd *chatCommand) Run(ctx context.Context, c *console) error {
	form, err := cmd.constraint()
	if err != nil {
		return err
	}
	server, err := cmd.dial()
	if err != nil {
		return err
	}
	defer server.Close()
	if cmd.Model, err = onlyModel(ctx, server, cmd.Model); err != nil {
		return err
	}
	talk := &talk{chatCommand: cmd, console: c, server: server, system: cmd.System, form: form}
	if c.inTerm {
		fmt.Fprintf(c.err, "%s. /help shows what else there is.\n", cmd.Model)
	}
	lines := readAhead(ctx, c.in)
	for {
		if c.inTerm {
			fmt.Fprint(c.err, "> ")
		}
		text, more, err := talk.message(ctx, lines)
		switch {
		case err != nil || !more:
			return errors.Join(err, talk.failed)
		case strings.TrimSpace(text) == "":
		case strings.HasPrefix(text, "/"):
			if text = strings.TrimSpace(text); text == "/exit" || text == "/quit" || text == "/bye" {
				return talk.failed
			}
			talk.command(text)
		default:
			if err := talk.say(ctx, text); err != nil {
				return err
			}
		}
	}
}

// talk is one conversation.
type talk struct {
	*chatCommand
	*console
	server   *client.Client
	system   string
	form     *infernov1.Constraint    // of every answer; nil: none
	messages []*infernov1.ChatMessage // without the system message
	failed   error                    // what the program ends with, once something went wrong that nobody saw at a prompt
}

// command runs a line that starts with a slash.
func (t *talk) command(line string) {
	name, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	switch {
	case name == "/help":
		fmt.Fprint(t.err, chatHelp)
	case name == "/system":
		t.system = rest
	case name == "/clear":
		t.messages = nil
	case name != "/save":
		t.fail(fmt.Errorf("%s: no such command; /help lists them", name))
	case rest == "":
		t.fail(errors.New("/save: which file?"))
	default:
		if err := t.save(rest); err != nil {
			t.fail(fmt.Errorf("/save: %w", err))
			return
		}
		fmt.Fprintf(t.err, "%d messages in %s\n", len(t.conversation()), rest)
	}
}

// fail tells what went wrong and goes on. Where no person is at the prompt, the program's exit code tells it too.
func (t *talk) fail(err error) {
	t.report(err)
	if !t.inTerm {
		t.failed = errQuiet
	}
}

func (t *talk) conversation() []*infernov1.ChatMessage {
	if t.system == "" {
		return t.messages
	}
	return append([]*infernov1.ChatMessage{{Role: "system", Content: t.system}}, t.messages...)
}

// save writes the conversation as tokenize --chat reads it.
func (t *talk) save(path string) error {
	type message struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	saved := struct {
		Messages []message `json:"messages"`
	}{[]message{}}
	for _, m := range t.conversation() {
		saved.Messages = append(saved.Messages, message{m.GetRole(), m.GetContent()})
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	return errors.Join((&console{out: file}).writeJSON(saved), file.Close())
}

// say sends a message and prints the answer as it comes. Both become part of the conversation, an answer that was stopped as far as it
// came; where there is none, neither does.
func (t *talk) say(ctx context.Context, text string) error {
	before := len(t.messages)
	t.messages = append(t.messages, &infernov1.ChatMessage{Role: "user", Content: text})
	answer, err := t.answer(ctx)
	if answer != "" {
		t.messages = append(t.messages, &infernov1.ChatMessage{Role: "assistant", Content: answer})
	} else if err != nil {
		t.messages = t.messages[:before]
	}
	var broken *writeError
	switch {
	case errors.As(err, &broken) || ctx.Err() != nil:
		return err
	case errors.Is(err, errInterrupted):
		fmt.Fprintln(t.err, "[stopped]")
	case err != nil:
		t.fail(err)
	}
	return nil
}

// errInterrupted means that an interrupt stopped an answer.
var errInterrupted = errors.New("interrupted")

// writeError means that nobody reads what is printed.
type writeError struct{ error }

// answerLine is an answer as a line of JSON.
type answerLine struct {
	Role         string    `json:"role"`
	Content      string    `json:"content"`
	FinishReason string    `json:"finish_reason"`
	Usage        usageJSON `json:"usage"`
}

// answer generates the next turn. An interrupt ends it, on the server too, where its blocks are free one step later.
func (t *talk) answer(ctx context.Context) (string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-t.interrupts:
			cancel(errInterrupted)
		case <-done:
		}
	}()
	defer func() {
		close(done)
		<-watched
	}()
	var text strings.Builder
	line, req := answerLine{Role: "assistant"}, t.request()
	prompt := promptProgress{c: t.console}
	if !t.JSON {
		prompt.ask(req.GetOutput())
	}
	defer prompt.end()
	for event, err := range t.server.Stream(ctx, req) {
		if err != nil {
			if errors.Is(context.Cause(ctx), errInterrupted) {
				err = errInterrupted
			}
			if t.JSON { // nothing of it is printed
				return "", err
			}
			if text.Len() > 0 {
				fmt.Fprintln(t.out)
			}
			return text.String(), err
		}
		switch e := event.(type) {
		case client.Progress:
			prompt.draw(e)
		case client.Start:
			prompt.end()
		case client.Tokens:
			text.WriteString(e.Text)
			if t.JSON {
				continue
			}
			if _, err := io.WriteString(t.out, t.safe(e.Text)); err != nil {
				return text.String(), &writeError{err}
			}
		case client.Finish:
			line.FinishReason = reasonName(e.Reason)
		case client.Summary:
			line.Content = text.String()
			line.Usage = newUsageJSON(e.Usage)
			if err := t.end(line, e); err != nil {
				return line.Content, &writeError{err}
			}
		}
	}
	return text.String(), nil
}

// end prints what comes behind an answer, or with --json all of it.
func (t *talk) end(line answerLine, s client.Summary) error {
	if t.JSON {
		return t.writeJSON(line)
	}
	if t.errTerm {
		defer fmt.Fprintln(t.err, costLine(line.FinishReason, s))
	}
	_, err := fmt.Fprintln(t.out)
	return err
}

func (t *talk) request() *infernov1.GenerateRequest {
	return &infernov1.GenerateRequest{
		Model:    t.Model,
		Input:    &infernov1.GenerateRequest_Chat{Chat: &infernov1.ChatMessages{Messages: t.conversation()}},
		Sampling: &infernov1.SamplingParameters{Temperature: t.Temperature, TopK: t.TopK, TopP: t.TopP, MinP: t.MinP, Seed: t.Seed},
		Stopping: &infernov1.StoppingParameters{MaxTokens: t.MaxTokens},
		Output:   &infernov1.OutputOptions{TokenIds: new(bool)},

		Constraint: t.form,
	}
}
