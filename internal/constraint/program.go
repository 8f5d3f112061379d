package constraint

import "errors"

// Program is a compiled Grammar: read-only, for any number of requests at a time.
type Program struct{}

// Compile makes a Program of a grammar. It refuses what is no grammar, what cannot be followed and what is too large.
func Compile(g *Grammar) (*Program, error) { return nil, errors.New("not built yet") }

// Match says whether a whole text has the form.
func (p *Program) Match(text string) bool { return false }

// FromRegex is the texts that a regular expression, in RE2's syntax, matches as a whole.
func FromRegex(pattern string) (*Grammar, error) { return nil, errors.New("not built yet") }

// FromChoices is just these texts.
func FromChoices(texts []string) *Grammar { return nil }

// FromEBNF reads a grammar in EBNF.
func FromEBNF(text string) (*Grammar, error) { return nil, errors.New("not built yet") }
