// Package jinja is the part of the Jinja template language that chat templates are written in, as Hugging Face sets it up: blocks are
// trimmed (trim_blocks, lstrip_blocks), values behave as Python's, nothing can be changed but namespaces, and loops have break and
// continue.
//
// A template comes with a model's files and is not trusted: it reaches nothing but the variables that it is given, and Limits bound what
// it may use. Every byte of its output tells where it came from, the template or the data that was given as content (Text): so a caller
// can tell a control token that the template writes from one that somebody wrote into a message.
//
// A Template is read-only after Parse: any goroutine may render it. What is lacking, an error names: inheritance, includes and imports
// (there is one file), and the filters that make HTML.
package jinja

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Limits bound one rendering. Zero fields are those of DefaultLimits.
type Limits struct {
	Time       time.Duration // from start to end, as the clock on the wall has it
	Operations int           // expressions and statements evaluated, elements and KiB touched
	Output     int           // bytes of the output, and of any text on the way to it
	Memory     int           // bytes of all values made, those given up again among them
	Depth      int           // macros within macros, lists within lists
}

// DefaultLimits are for chats of some hundred messages. Operations are the one that a run-away template meets, after a tenth of a second or
// so; Time is for hosts that are too slow for that.
var DefaultLimits = Limits{Time: 10 * time.Second, Operations: 1e6, Output: 8 << 20, Memory: 64 << 20, Depth: 64}

func (l Limits) orDefault() Limits {
	d := DefaultLimits
	if l.Time > 0 {
		d.Time = l.Time
	}
	if l.Operations > 0 {
		d.Operations = l.Operations
	}
	if l.Output > 0 {
		d.Output = l.Output
	}
	if l.Memory > 0 {
		d.Memory = l.Memory
	}
	if l.Depth > 0 {
		d.Depth = l.Depth
	}
	return d
}

// LimitError says which limit a rendering met.
type LimitError struct {
	Limit string // what the template did too much of: "takes more than 1000000 operations"
	Slow  bool   // the limit was Limits.Time: the same may succeed on a host that is less busy
}

func (e *LimitError) Error() string { return "template " + e.Limit }

// RaisedError is what a template said by raise_exception.
type RaisedError struct{ Message string }

func (e *RaisedError) Error() string { return e.Message }

// Error is a fault of a template, or of what it was given: a syntax error, an operation on values of the wrong kind.
type Error struct {
	Line    int // of the template, from 1
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("template line %d: %s", e.Line, e.Message) }

// Template is a parsed template.
type Template struct{ body []statement }

// maxSource bounds a template in bytes: the longest known ones have some 20 KiB.
const maxSource = 1 << 20

// Parse reads a template. The error is an *Error.
func Parse(source string) (*Template, error) {
	if len(source) > maxSource {
		return nil, &Error{1, fmt.Sprintf("has %d bytes, want at most %d", len(source), maxSource)}
	}
	tokens, err := lex(source)
	if err != nil {
		return nil, err
	}
	p := &parser{tokens: tokens}
	body, err := p.template()
	if err != nil {
		return nil, err
	}
	return &Template{body: body}, nil
}

// Options are what a rendering may use beside its variables.
type Options struct {
	Limits Limits
	Now    func() time.Time // the clock of strftime_now; nil for the host's, in local time
}

// Render runs the template over variables. The error is an *Error, a *RaisedError or a *LimitError, or that of ctx.
func (t *Template) Render(ctx context.Context, variables map[string]Value, o Options) (Text, error) {
	r := &renderer{ctx: ctx, limits: o.Limits.orDefault(), now: o.Now}
	if r.now == nil {
		r.now = time.Now
	}
	r.deadline = time.Now().Add(r.limits.Time)
	r.out = r.newBuilder()
	globals := &scope{names: r.globals()}
	top := &scope{parent: globals, names: map[string]Value{}}
	for name, v := range variables {
		top.names[name] = v
	}
	_, err := r.run(t.body, top)
	if err != nil {
		return Text{}, r.explain(err)
	}
	return r.out.text(), nil
}

// explain gives an error of a value, which does not know where it stands, the line of the statement that met it.
func (r *renderer) explain(err error) error {
	var raised *RaisedError
	var limit *LimitError
	var placed *Error
	if errors.As(err, &raised) || errors.As(err, &limit) || errors.As(err, &placed) || r.ctx.Err() != nil {
		return err
	}
	return &Error{Line: r.line, Message: err.Error()}
}
