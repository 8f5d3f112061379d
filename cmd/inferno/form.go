package main

import (
	"fmt"
	"os"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// formFlags say what the output must look like; one of them, or none.
type formFlags struct {
	JSONSchema string   `name:"json-schema" xor:"form" placeholder:"FILE" help:"The output is JSON of this schema."`
	JSONObject bool     `name:"json-object" xor:"form" help:"The output is a JSON object."`
	Regex      *string  `xor:"form" placeholder:"RE2" help:"The output as a whole matches this expression."`
	Choice     []string `xor:"form" sep:"none" placeholder:"TEXT" help:"The output is this text, or another of them. Repeatable."`
	Grammar    string   `xor:"form" placeholder:"FILE" help:"The output is of this grammar, in EBNF."`
}

// constraint is nil where there is none.
func (f *formFlags) constraint() (*infernov1.Constraint, error) {
	switch {
	case f.JSONSchema != "":
		text, err := os.ReadFile(f.JSONSchema)
		if err != nil {
			return nil, fmt.Errorf("--json-schema: %w", err)
		}
		return &infernov1.Constraint{Form: &infernov1.Constraint_JsonSchema{JsonSchema: string(text)}}, nil
	case f.JSONObject:
		return &infernov1.Constraint{Form: &infernov1.Constraint_JsonObject{JsonObject: true}}, nil
	case f.Regex != nil:
		return &infernov1.Constraint{Form: &infernov1.Constraint_Regex{Regex: *f.Regex}}, nil
	case len(f.Choice) > 0:
		return &infernov1.Constraint{Form: &infernov1.Constraint_Choice{Choice: &infernov1.Choices{Texts: f.Choice}}}, nil
	case f.Grammar != "":
		text, err := os.ReadFile(f.Grammar)
		if err != nil {
			return nil, fmt.Errorf("--grammar: %w", err)
		}
		return &infernov1.Constraint{Form: &infernov1.Constraint_Grammar{Grammar: string(text)}}, nil
	}
	return nil, nil
}
