package server

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/inferno-serve/inferno/internal/constraint"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Limits of a constraint as it is written. What it may be compiled to has limits of its own.
const (
	maxFormBytes   = 256 << 10 // of a schema, an expression, a grammar, or all choices
	maxChoices     = 1024
	maxChoiceBytes = 4096
)

// constraint checks what can be known of a constraint without compiling it.
func (f *faults) constraint(c *infernov1.Constraint) {
	if c == nil {
		return
	}
	switch c := c.GetForm().(type) {
	case nil:
		f.add("constraint", "has no form, want exactly one of json_schema, json_object, regex, choice and grammar")
	case *infernov1.Constraint_JsonSchema:
		f.formText("constraint.json_schema", c.JsonSchema, maxFormBytes, "a JSON schema")
	case *infernov1.Constraint_JsonObject:
		if !c.JsonObject {
			f.add("constraint.json_object", "is false, want true, or another form")
		}
	case *infernov1.Constraint_Regex:
		f.formText("constraint.regex", c.Regex, constraint.MaxRegex, "a regular expression")
	case *infernov1.Constraint_Grammar:
		f.formText("constraint.grammar", c.Grammar, maxFormBytes, "a grammar")
	case *infernov1.Constraint_Choice:
		f.choices(c.Choice.GetTexts())
	}
}

func (f *faults) formText(field, text string, most int, want string) {
	switch {
	case text == "":
		f.add(field, "is empty, want %s", want)
	case len(text) > most:
		f.add(field, "has %d bytes, want at most %d", len(text), most)
	}
}

func (f *faults) choices(texts []string) {
	const field = "constraint.choice.texts"
	if len(texts) == 0 {
		f.add(field, "is empty, want at least 1 text")
	}
	before := len(f.found)
	f.texts(field, texts, maxChoices, maxChoiceBytes)
	all := 0
	for _, text := range texts {
		all += len(text)
	}
	if all > maxFormBytes && len(f.found) == before {
		f.add(field, "has %d bytes in all, want at most %d", all, maxFormBytes)
	}
}

// formOf is the form that a constraint, which was checked, asks for.
func formOf(c *infernov1.Constraint) form {
	switch c := c.GetForm().(type) {
	case *infernov1.Constraint_JsonSchema:
		return form{"constraint.json_schema", c.JsonSchema}
	case *infernov1.Constraint_Regex:
		return form{"constraint.regex", c.Regex}
	case *infernov1.Constraint_Grammar:
		return form{"constraint.grammar", c.Grammar}
	case *infernov1.Constraint_Choice:
		var texts strings.Builder
		for _, text := range c.Choice.GetTexts() {
			fmt.Fprintf(&texts, "%d %s", len(text), text)
		}
		return form{"constraint.choice", texts.String()}
	}
	return form{"constraint.json_object", ""}
}

// grammarOf reads it.
func grammarOf(c *infernov1.Constraint) (*constraint.Grammar, error) {
	switch c := c.GetForm().(type) {
	case *infernov1.Constraint_JsonSchema:
		return constraint.FromSchema(c.JsonSchema)
	case *infernov1.Constraint_Regex:
		return constraint.FromRegex(c.Regex)
	case *infernov1.Constraint_Grammar:
		return constraint.FromEBNF(c.Grammar)
	case *infernov1.Constraint_Choice:
		return constraint.FromChoices(c.Choice.GetTexts()), nil
	}
	return constraint.JSONObject(), nil
}

// bound compiles the constraint of a request that has one and, so far, no fault; it is nil otherwise. That takes milliseconds as a rule, and up to a
// second where a form comes near the limits: only so many calls are at it at once, and others that tokenize do not wait for them. The error is that of ctx.
func (s *Server) bound(ctx context.Context, f *faults, c *infernov1.Constraint, model *Model) (*constraint.Bound, error) {
	if c == nil || len(f.found) > 0 {
		return nil, nil
	}
	cache, form := model.Constraints, formOf(c)
	if b := cache.find(form); b != nil {
		return b, nil
	}
	done, err := slot(ctx, s.compilers)
	if err != nil {
		return nil, err
	}
	defer done()
	if b := cache.find(form); b != nil { // of the call that had its turn before
		return b, nil
	}
	grammar, err := grammarOf(c)
	if err != nil {
		f.add(form.field, "%v", err)
		return nil, nil
	}
	program, err := constraint.Compile(grammar)
	if err != nil {
		f.add(form.field, "%v", err)
		return nil, nil
	}
	b := program.Bind(cache.vocabulary())
	if err := canBegin(b); err != nil {
		f.add(form.field, "%v", err)
		return nil, nil
	}
	cache.add(form, b)
	return b, nil
}

// canBegin says why no output of a form has a first token; nil: there are such.
func canBegin(b *constraint.Bound) error {
	m := b.NewMatcher(nil)
	for _, word := range m.Mask() {
		if word != 0 {
			return nil
		}
	}
	switch {
	case m.Err() != nil:
		return m.Err()
	case m.Complete():
		return errors.New("allows no text but the empty one, want one that has a text of at least 1 character")
	}
	return errors.New("allows no text that tokens of the model could begin")
}
