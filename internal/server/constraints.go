package server

import (
	"container/list"
	"sync"

	"github.com/inferno-serve/inferno/internal/constraint"
	"github.com/inferno-serve/inferno/internal/tokenizer"
)

// Constraints are those of a model's requests, compiled: who asks for a form that somebody asked for lately waits for nothing. Safe for concurrent
// use.
type Constraints struct {
	vocabulary func() *constraint.Vocabulary
	maxBytes   int // of all

	mu     sync.Mutex
	recent list.List // of *compiled, the one asked for last in front
	byForm map[form]*list.Element
}

// form is what a constraint asks for: equal ones are the same.
type form struct{ field, text string }

// compiled is a form in the cache.
type compiled struct {
	form  form
	bound *constraint.Bound
}

// Bounds of the cache. What running requests use stays theirs when it leaves.
const (
	maxForms      = 1024
	maxFormsBytes = 256 << 20
)

// NewConstraints is for a model with this tokenizer, whose ids are below size. It is quick: the order of the vocabulary is made when the first
// request needs it.
func NewConstraints(t *tokenizer.Tokenizer, size int) *Constraints {
	return &Constraints{
		maxBytes:   maxFormsBytes,
		byForm:     map[form]*list.Element{},
		vocabulary: sync.OnceValue(func() *constraint.Vocabulary { return constraint.NewVocabulary(t, size) }),
	}
}

// find returns a form that is there; nil: it is not.
func (c *Constraints) find(f form) *constraint.Bound {
	c.mu.Lock()
	defer c.mu.Unlock()
	element := c.byForm[f]
	if element == nil {
		return nil
	}
	c.recent.MoveToFront(element)
	c.trim()
	return element.Value.(*compiled).bound
}

// add keeps a form.
func (c *Constraints) add(f form, b *constraint.Bound) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byForm[f] != nil {
		return // by another request, meanwhile
	}
	c.byForm[f] = c.recent.PushFront(&compiled{f, b})
	c.trim()
}

// trim lets go of the forms that nobody asked for for the longest time where all are too many or take too much. They grow with use, so that it looks
// at them with every request.
func (c *Constraints) trim() {
	bytes, n := 0, 0
	for element := c.recent.Front(); element != nil; {
		one, next := element.Value.(*compiled), element.Next()
		bytes, n = bytes+len(one.form.text)+one.bound.Bytes(), n+1
		if n > 1 && (n > maxForms || bytes > c.maxBytes) {
			c.recent.Remove(element)
			delete(c.byForm, one.form)
		}
		element = next
	}
}
