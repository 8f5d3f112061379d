package constraint

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// tokens is a vocabulary for tests: texts by id, "" for none, and "<…>" for a control token.
type tokens []string

func (t tokens) NumTokens() int { return len(t) }

func (t tokens) TokenBytes(id int32) (string, bool) { return t[id], t[id] != "" }

func (t tokens) IsSpecial(id int32) bool { return strings.HasPrefix(t[id], "<") }

// randomTokens has every byte of some characters, parts of characters, texts of several, two of the same text, one silent and two that are
// control tokens.
func randomTokens(rng *rand.Rand, characters string) tokens {
	t := tokens{"<s>", "", "<end>"}
	for _, b := range []byte(characters) {
		t = append(t, string([]byte{b}))
	}
	for range 30 {
		var text []byte
		for range 1 + rng.IntN(6) {
			all := []rune(characters)
			text = append(text, string(all[rng.IntN(len(all))])...)
		}
		from := rng.IntN(len(text))
		t = append(t, string(text[from:from+1+rng.IntN(len(text)-from)]))
	}
	return append(t, t[len(t)-1])
}

const grammarCharacters = "abc(é日"

// randomGrammar is of few rules, which call each other and themselves.
func randomGrammar(rng *rand.Rand) *Grammar {
	g := &Grammar{Rules: map[string]Expr{}, Start: "0"}
	for i := range 4 {
		g.Rules[fmt.Sprint(i)] = randomExpr(rng, 3)
	}
	return g
}

func randomExpr(rng *rand.Rand, depth int) Expr {
	all := []rune(grammarCharacters)
	letter := func() rune { return all[rng.IntN(len(all))] }
	if depth == 0 || rng.IntN(6) == 0 {
		switch rng.IntN(8) {
		case 0:
			return Text("")
		case 1:
			return scalars([]CharRange{{'a', 'c'}, {letter(), 'é' + 2}})
		case 2, 3:
			return Text([]rune{letter(), letter()})
		}
		return Text(string(letter()))
	}
	switch rng.IntN(8) {
	case 0, 1:
		return Rule(fmt.Sprint(rng.IntN(4)))
	case 2, 3:
		return Choice{randomExpr(rng, depth-1), randomExpr(rng, depth-1), randomExpr(rng, depth-1)}
	case 4:
		least := rng.IntN(3)
		return Repeat{Of: randomExpr(rng, depth-1), Min: least, Max: least + rng.IntN(3)}
	case 5:
		return Repeat{Of: randomExpr(rng, depth-1), Min: rng.IntN(2), Max: -1}
	}
	return Sequence{randomExpr(rng, depth-1), randomExpr(rng, depth-1), randomExpr(rng, depth-1)}
}

// Of random grammars and random vocabularies, a token is in the mask just where Earley's parser says that the text with it can still become whole,
// and an end just where it is.
func TestMaskIsWhatCanBecomeWhole(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	grammars, masks, wholes := 0, 0, 0
	for grammars < 200 {
		g := randomGrammar(rng)
		p, err := Compile(g)
		if err != nil {
			continue // TestBadGrammars has what is refused
		}
		grammars++
		judge := newEarley(g)
		texts := randomTokens(rng, grammarCharacters)
		b := p.Bind(NewVocabulary(texts, len(texts)+40))
		for range 3 {
			m := b.NewMatcher([]int32{2, 5})
			text, at := "", judge.begin()
			for range 8 {
				allowed, whole := checkMask(t, g, m, judge, at, texts, text)
				masks++
				if whole {
					wholes++
				}
				if len(allowed) == 0 {
					break
				}
				id := allowed[rng.IntN(len(allowed))]
				m.Accept(id)
				text, at = text+texts[id], judge.extend(at, texts[id])
			}
		}
	}
	if masks < 1000 || wholes < 200 {
		t.Errorf("%d masks, %d of them of whole texts: too few to mean anything", masks, wholes)
	}
}

// checkMask compares a mask, where 2 and 5 may end the output, and returns the other tokens in it.
func checkMask(t *testing.T, g *Grammar, m *Matcher, judge *earley, at chart, texts tokens, text string) (allowed []int32, whole bool) {
	t.Helper()
	whole = judge.whole(at)
	if match := m.bound.machine.program.Match(text); m.Complete() != whole || match != whole {
		t.Fatalf("%v: %q: Complete %v, Match %v, want %v", g, text, m.Complete(), match, whole)
	}
	mask := m.Mask()
	if len(mask) != (len(texts)+40+31)/32 || m.Err() != nil {
		t.Fatalf("%v: %q: a mask of %d words, %v", g, text, len(mask), m.Err())
	}
	for id := range int32(32 * len(mask)) {
		want := whole
		if id != 2 && id != 5 {
			want = int(id) < len(texts) && texts[id] != "" && !texts.IsSpecial(id)
			if want = want && judge.extend(at, texts[id]) != nil; want {
				allowed = append(allowed, id)
			}
		}
		if got := mask[id/32]>>(id%32)&1 == 1; got != want {
			t.Fatalf("%v: after %q, token %d is allowed: %v, want %v; tokens %q", g, text, id, got, want, texts)
		}
	}
	return allowed, whole
}
