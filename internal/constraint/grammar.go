// Package constraint makes sure that an output has a form: JSON of a schema, a match of a regular expression, a text of a grammar. A form is
// first a Grammar, whichever language it came in; Compile turns that into a Program, which is immutable and serves any number of requests; a
// Matcher follows one output through it and says which tokens may come next.
//
// A server compiles on the goroutine of the request, and binds the Program to the Vocabulary of the model; the Bound keeps the masks that requests
// had so far, for all that come with the same form. Matchers are asked on the engine's loop, between steps: what they do there is bounded
// (maxSteps, savedSteps), and a form that would take longer ends its own request with an error.
package constraint

// Grammar is a context-free grammar over characters: rules by name, of which one is where texts start. Left recursion is refused.
type Grammar struct {
	Rules map[string]Expr
	Start string
}

// Expr is a form of text: Text, Chars, Sequence, Choice, Repeat or Rule.
type Expr interface{ expr() }

// Text is just these bytes, which are UTF-8.
type Text string

// Chars is one character of one of these ranges, which are sorted and apart.
type Chars []CharRange

// CharRange is of Unicode scalar values, both ends in it.
type CharRange struct{ First, Last rune }

// Sequence is one after the other; none: the empty text.
type Sequence []Expr

// Choice is any of these, at least one.
type Choice []Expr

// Repeat is Of, Min to Max times; a negative Max: any number of times.
type Repeat struct {
	Of       Expr
	Min, Max int
}

// Rule is what the rule of that name is.
type Rule string

func (Text) expr()     {}
func (Chars) expr()    {}
func (Sequence) expr() {}
func (Choice) expr()   {}
func (Repeat) expr()   {}
func (Rule) expr()     {}
