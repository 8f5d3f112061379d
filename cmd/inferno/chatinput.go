package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// inputLine is a line of input, or why there are no more.
type inputLine struct {
	text string
	err  error // io.EOF at the end
}

// maxMessageBytes bounds a line of input: a request may have 4 MiB.
const maxMessageBytes = 4 << 20

// readAhead reads lines until the end of input; what is not taken when ctx ends is lost. A read that blocks ends with the program.
func readAhead(ctx context.Context, in io.Reader) <-chan inputLine {
	lines := make(chan inputLine)
	go func() {
		scanner := bufio.NewScanner(in)
		scanner.Buffer(nil, maxMessageBytes)
		for {
			line := inputLine{err: io.EOF}
			if scanner.Scan() {
				line = inputLine{text: scanner.Text()}
			} else if err := scanner.Err(); err != nil {
				line.err = fmt.Errorf("read standard input: %w", err)
			}
			select {
			case lines <- line:
			case <-ctx.Done():
				return
			}
			if line.err != nil {
				return
			}
		}
	}()
	return lines
}

// message reads a message, of one line or of several. There is no more at the end of input, and when an interrupt comes.
func (t *talk) message(ctx context.Context, lines <-chan inputLine) (text string, more bool, err error) {
	for {
		select {
		case line := <-lines:
			switch part, goesOn := strings.CutSuffix(line.text, `\`); {
			case errors.Is(line.err, io.EOF):
				return text, text != "", nil
			case line.err != nil:
				return "", false, line.err
			case !goesOn:
				return text + part, true, nil
			default:
				text += part + "\n"
			}
		case <-t.interrupts:
			if t.inTerm {
				fmt.Fprintln(t.err)
			}
			return "", false, nil
		case <-ctx.Done():
			return "", false, context.Cause(ctx)
		}
	}
}
