package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

// maxLineBytes bounds a line of standard input: the longest text of a tokenizer, with every byte escaped.
const maxLineBytes = 6 * 16 << 20

// badLine is what is printed in the place of an answer, so that answers keep the order of the lines that have a text.
type badLine struct {
	Error string `json:"error"`
}

// eachLine answers each JSON object of standard input, a line each. A line that is wrong is told by its number and by a line {"error": ...}, and
// those behind it are answered all the same; the error in the end says no more than that there was one. What would befall every line ends it.
func eachLine[T any](ctx context.Context, c *console, read func(*strictjson.Reader) (T, error), answer func(T) (any, error)) error {
	lines := bufio.NewScanner(c.in)
	lines.Buffer(make([]byte, 0, 64<<10), maxLineBytes)
	out := bufio.NewWriter(c.out)
	buffered := &console{out: out}
	bad := false
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		in, err := readLine(lines.Bytes(), read)
		var reply any
		if err == nil {
			reply, err = answer(in)
		}
		if err != nil {
			bad, reply = true, badLine{told(err)}
			line := fmt.Errorf("line %d: %s", n, told(err))
			if ctx.Err() != nil || befallsAll(err) {
				return errors.Join(line, out.Flush())
			}
			c.report(line)
		}
		if err := buffered.writeJSON(reply); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read standard input: %w", errors.Join(err, out.Flush()))
	}
	if err := out.Flush(); err != nil || !bad {
		return err
	}
	return errQuiet
}

// befallsAll says whether an error is the server's, or of the caller and not of what he asked.
func befallsAll(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.OutOfRange, codes.ResourceExhausted, codes.DeadlineExceeded, codes.DataLoss, codes.Internal,
		codes.Unknown: // which is an error that is no status: of this program, or of an item
		return false
	default:
		return true
	}
}

// readLine reads all of a line. Nothing of it is mended: half a surrogate pair would be another text.
func readLine[T any](data []byte, read func(*strictjson.Reader) (T, error)) (value T, err error) {
	r, err := strictjson.NewReader(data)
	if err != nil {
		return value, err
	}
	if value, err = read(r); err == nil {
		err = r.End()
	}
	return value, err
}

// member makes a reader of an object that has one member.
func member[T any](key string, read func(*strictjson.Reader) (T, error)) func(*strictjson.Reader) (T, error) {
	return func(r *strictjson.Reader) (value T, err error) {
		found := false
		err = r.Object(func(name string) (err error) {
			if name != key {
				return fmt.Errorf("unknown key, want %q", key)
			}
			found = true
			value, err = read(r)
			return err
		})
		if err == nil && !found {
			err = fmt.Errorf("%q is missing", key)
		}
		return value, err
	}
}
