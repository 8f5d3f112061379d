package load

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Workload says what requests are made of. The n-th request is the same in every run with the same seed, whenever it starts.
type Workload struct {
	Prompt, Output Lengths // not used where Sizes are given
	Sizes          []Size  // taken in order, again from the first after the last
	PrefixTokens   int     // that each prompt has before its own, one of Prefixes
	Prefixes       int     // shared prefixes, of which each request has one at random
	Cancel         Cancel
	Deadline       time.Duration // of each request, from its start; 0: none
	Seed           uint64
}

// Cancel says which requests their client leaves, and when.
type Cancel struct {
	Share float64 // of requests, 0 to 1
	After CancelTime
}

// CancelTime is when a request is cancelled: after Tokens output tokens or, where Time is set, so long after its start. Random draws a number
// of tokens below those that the request asks for. Without tokens it is cancelled as soon as it has been sent.
type CancelTime struct {
	Random bool
	Tokens int
	Time   time.Duration
}

// UnmarshalText reads "random", a number of tokens, or a duration.
func (c *CancelTime) UnmarshalText(text []byte) error {
	*c = CancelTime{}
	s := string(text)
	if s == "random" {
		c.Random = true
		return nil
	}
	if n, err := strconv.Atoi(s); err == nil && n >= 0 {
		c.Tokens = n
		return nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return fmt.Errorf("%q, want random, a number of tokens, or a time such as 50ms", s)
	}
	c.Time = d
	return nil
}

// Validate reports every fault at once.
func (w *Workload) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if w.PrefixTokens < 0 || w.PrefixTokens > maxLength {
		fault("prefix tokens: %d, want 0 to %d", w.PrefixTokens, maxLength)
	}
	if w.Prefixes < 0 || w.Prefixes > maxPrefixes || (w.PrefixTokens > 0) != (w.Prefixes > 0) {
		fault("prefixes: %d of %d tokens, want up to %d, and both or none", w.Prefixes, w.PrefixTokens, maxPrefixes)
	}
	if !(w.Cancel.Share >= 0 && w.Cancel.Share <= 1) {
		fault("share of cancelled requests: %v, want 0 to 1", w.Cancel.Share)
	}
	if w.Deadline < 0 {
		fault("deadline: %v, want 0 or more", w.Deadline)
	}
	if len(w.Sizes) == 0 && (w.Prompt.Min < 1 || w.Output.Min < 1) {
		fault("prompt and output tokens: %d and %d, want at least 1 each", w.Prompt.Min, w.Output.Min)
	}
	return errors.Join(faults...)
}

const maxPrefixes = 4096

// fits checks the longest request against what the model takes.
func (w *Workload) fits(model *infernov1.Model) error {
	limit := int(model.GetMaxContext())
	check := func(what string, s Size) error {
		if total := w.PrefixTokens + s.Prompt + s.Output; total > limit {
			return fmt.Errorf("%s has up to %d tokens (%d shared, %d of its own, %d new), and model %s takes %d",
				what, total, w.PrefixTokens, s.Prompt, s.Output, model.GetName(), limit)
		}
		return nil
	}
	if len(w.Sizes) == 0 {
		return check("a request", Size{w.Prompt.Max, w.Output.Max})
	}
	for i, s := range w.Sizes {
		if err := check(fmt.Sprintf("requests[%d]", i), s); err != nil {
			return err
		}
	}
	return nil
}

// A maker makes the requests of a workload for one model. Any number of goroutines may use it.
type maker struct {
	Workload
	model    *infernov1.Model
	prefixes [][]uint32
}

func newMaker(w Workload, model *infernov1.Model) *maker {
	m := &maker{Workload: w, model: model, prefixes: make([][]uint32, w.Prefixes)}
	for i := range m.prefixes {
		// Requests take the streams from 0 up, prefixes those from the other end.
		m.prefixes[i] = m.ids(rand.New(rand.NewPCG(w.Seed, ^uint64(i))), nil, w.PrefixTokens)
	}
	return m
}

// request is one that is to be made.
type request struct {
	message *infernov1.GenerateRequest
	size    Size // the prompt's with its prefix
	cancel  *CancelTime
}

// make makes the n-th request of a run, which is the entry-th of its point. It is greedy, its own tokens are random, so that no two requests
// share more than their prefix, and end tokens do not end it.
func (m *maker) make(n, entry int64) request {
	random := rand.New(rand.NewPCG(m.Seed, uint64(n)))
	size := Size{m.Prompt.draw(random), m.Output.draw(random)}
	if len(m.Sizes) > 0 {
		size = m.Sizes[entry%int64(len(m.Sizes))]
	}
	ids := make([]uint32, 0, m.PrefixTokens+size.Prompt)
	if len(m.prefixes) > 0 {
		ids = append(ids, m.prefixes[random.IntN(len(m.prefixes))]...)
	}
	ids = m.ids(random, ids, size.Prompt)
	size.Prompt = len(ids)
	r := request{size: size, message: &infernov1.GenerateRequest{
		Model:    m.model.GetName(),
		Input:    &infernov1.GenerateRequest_TokenIds{TokenIds: &infernov1.TokenIds{Ids: ids}},
		Sampling: &infernov1.SamplingParameters{Temperature: new(float32(0))},
		Stopping: &infernov1.StoppingParameters{MaxTokens: new(uint32(size.Output)), IgnoreEos: new(true)},
	}}
	if random.Float64() < m.Cancel.Share {
		after := m.Cancel.After
		if after.Random {
			after = CancelTime{Tokens: random.IntN(size.Output)}
		}
		r.cancel = &after
	}
	return r
}

func (m *maker) ids(random *rand.Rand, ids []uint32, n int) []uint32 {
	for range n {
		ids = append(ids, random.Uint32N(m.model.GetVocabularySize()))
	}
	return ids
}
