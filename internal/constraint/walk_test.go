package constraint

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// walker derives texts of a grammar at random. Past its budget it takes the shortest way to an end.
type walker struct {
	grammar *Grammar
	random  *rand.Rand
	depth   map[string]int // least depth of a derivation, by rule
	budget  int
}

func newWalker(t testing.TB, g *Grammar, seed uint64) *walker {
	t.Helper()
	w, err := walkerOf(g, seed)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// walkerOf refuses a grammar of which a rule has no text.
func walkerOf(g *Grammar, seed uint64) (*walker, error) {
	w := &walker{grammar: g, random: rand.New(rand.NewPCG(seed, 1)), depth: map[string]int{}}
	for changed := true; changed; {
		changed = false
		for name, e := range g.Rules {
			old, known := w.depth[name]
			if d := w.depthOf(e) + 1; d < endless && (!known || d < old) {
				w.depth[name] = d
				changed = true
			}
		}
	}
	for name := range g.Rules {
		if _, ok := w.depth[name]; !ok {
			return nil, fmt.Errorf("rule %q derives no text", name)
		}
	}
	return w, nil
}

const endless = 1 << 30

func (w *walker) depthOf(e Expr) int {
	switch e := e.(type) {
	case Rule:
		if d, ok := w.depth[string(e)]; ok {
			return d
		}
		return endless
	case Sequence:
		deepest := 0
		for _, part := range e {
			deepest = max(deepest, w.depthOf(part))
		}
		return deepest
	case Choice:
		least := endless
		for _, part := range e {
			least = min(least, w.depthOf(part))
		}
		return least
	case Repeat:
		if e.Min > 0 {
			return w.depthOf(e.Of)
		}
	}
	return 0
}

func (w *walker) text() string {
	w.budget = 200 + w.random.IntN(400)
	var b strings.Builder
	w.write(&b, Rule(w.grammar.Start))
	return b.String()
}

func (w *walker) write(b *strings.Builder, e Expr) {
	w.budget--
	switch e := e.(type) {
	case Text:
		b.WriteString(string(e))
	case Chars:
		r := e[w.random.IntN(len(e))]
		// Small characters are where the quotes and brackets are.
		c := r.First + rune(w.random.IntN(int(min(r.Last-r.First, 100))+1))
		if w.random.IntN(8) == 0 {
			c = r.First + rune(w.random.IntN(int(r.Last-r.First)+1))
		}
		b.WriteRune(c)
	case Sequence:
		for _, part := range e {
			w.write(b, part)
		}
	case Choice:
		pick := e[w.random.IntN(len(e))]
		if w.budget <= 0 {
			pick = slices.MinFunc(e, func(a, b Expr) int { return w.depthOf(a) - w.depthOf(b) })
		}
		w.write(b, pick)
	case Repeat:
		n := e.Min
		if w.budget > 0 {
			most := e.Max
			if most < 0 || most > e.Min+6 && w.random.IntN(4) > 0 {
				most = e.Min + 6
			}
			n += w.random.IntN(min(most, e.Min+300) - e.Min + 1)
			if w.random.IntN(8) == 0 && e.Max >= 0 && e.Max < 300 {
				n = e.Max
			}
		}
		for range n {
			w.write(b, e.Of)
		}
	case Rule:
		w.write(b, w.grammar.Rules[string(e)])
	}
}

// reader finds out whether a text is of a grammar, trying everything: where each part may end that begins at a place.
type reader struct {
	grammar *Grammar
	text    string
	known   map[readerKey][]int
}

type readerKey struct {
	rule string
	at   int
}

func readsAs(g *Grammar, text string) bool {
	r := reader{g, text, map[readerKey][]int{}}
	return slices.Contains(r.ends(Rule(g.Start), []int{0}), len(text))
}

// ends is where e may end if it begins at one of the places.
func (r *reader) ends(e Expr, places []int) []int {
	var ends []int
	switch e := e.(type) {
	case Text:
		for _, at := range places {
			if strings.HasPrefix(r.text[at:], string(e)) {
				ends = append(ends, at+len(e))
			}
		}
	case Chars:
		for _, at := range places {
			c, size := utf8.DecodeRuneInString(r.text[at:])
			if size > 0 && slices.ContainsFunc(e, func(cr CharRange) bool { return cr.First <= c && c <= cr.Last }) {
				ends = append(ends, at+size)
			}
		}
	case Sequence:
		ends = places
		for _, part := range e {
			ends = r.ends(part, ends)
		}
	case Choice:
		for _, part := range e {
			ends = append(ends, r.ends(part, places)...)
		}
	case Repeat:
		ends = r.repeated(e, places)
	case Rule:
		for _, at := range places {
			key := readerKey{string(e), at}
			found, ok := r.known[key]
			if !ok {
				found = r.ends(r.grammar.Rules[string(e)], []int{at})
				r.known[key] = found
			}
			ends = append(ends, found...)
		}
	}
	slices.Sort(ends)
	return slices.Compact(ends)
}

func (r *reader) repeated(e Repeat, places []int) []int {
	for range e.Min {
		places = r.ends(e.Of, places)
	}
	all, fresh := places, places
	for n := e.Min; (e.Max < 0 || n < e.Max) && len(fresh) > 0; n++ {
		var next []int
		for _, at := range r.ends(e.Of, fresh) {
			if !slices.Contains(all, at) {
				next = append(next, at)
			}
		}
		all = append(slices.Clone(all), next...)
		fresh = next
	}
	return all
}
