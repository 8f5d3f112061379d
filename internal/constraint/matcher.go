package constraint

// Bound is a Program over a vocabulary, with what it has found out about it so far: safe for concurrent use.
type Bound struct{}

// Bind returns p over v. Its caches are shared by all matchers, and bounded.
func (p *Program) Bind(v *Vocabulary) *Bound { return &Bound{} }

// Matcher follows one output. It implements engine.Masker and belongs to one goroutine at a time.
type Matcher struct{}

// NewMatcher begins an output. ends are the tokens that may end it, which are allowed just where it is complete.
func (b *Bound) NewMatcher(ends []int32) *Matcher { return &Matcher{} }

// Mask implements engine.Masker.
func (m *Matcher) Mask() []uint32 { return nil }

// Accept implements engine.Masker.
func (m *Matcher) Accept(id int32) {}

// Complete says whether the text so far has the form.
func (m *Matcher) Complete() bool { return false }

// Err says why no token can be allowed any more: the form is too ambiguous here. nil: all is well.
func (m *Matcher) Err() error { return nil }
