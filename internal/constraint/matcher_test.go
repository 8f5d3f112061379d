package constraint

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

// allowed is the texts of the tokens in a mask.
func allowed(m *Matcher, t tokens) (texts []string) {
	for _, id := range idsOf(m.Mask()) {
		texts = append(texts, t[id])
	}
	return texts
}

// accept takes in a text, a token each byte.
func accept(tb testing.TB, m *Matcher, t tokens, text string) {
	tb.Helper()
	for i := range len(text) {
		id := slices.Index(t, text[i:i+1])
		if mask := m.Mask(); mask[id/32]>>(id%32)&1 == 0 {
			tb.Fatalf("%q of %q is not allowed", text[i], text)
		}
		m.Accept(int32(id))
	}
}

func everyByte() (t tokens) {
	for b := range 256 {
		t = append(t, string([]byte{byte(b)}))
	}
	return append(t, "<end>", "")
}

func TestAnEndIsAllowedWhereTheTextIsCompleteAndNowhereElse(t *testing.T) {
	texts := tokens{"a", "b", "ab", "<end>", "<other>", "stop"}
	b := regexProgram(t, `(ab|stop)*b?`).Bind(NewVocabulary(texts, 200))
	m := b.NewMatcher([]int32{3, 5, -1, 200})
	for _, step := range []struct {
		id   int32
		want []string
	}{
		{2, []string{"a", "b", "ab", "<end>", "stop"}},
		{0, []string{"a", "b", "ab", "<end>", "stop"}},
		{1, []string{"b"}},
		{1, []string{"a", "b", "ab", "<end>", "stop"}},
		{3, []string{"<end>", "stop"}},
		{0, nil}, // after an end, nothing
		{0, nil},
	} {
		if got := allowed(m, texts); !slices.Equal(got, step.want) {
			t.Fatalf("%q is allowed, want %q", got, step.want)
		}
		m.Accept(step.id)
	}
	if m.Err() != nil || !m.Complete() {
		t.Errorf("Complete %v, %v", m.Complete(), m.Err())
	}
	without := b.NewMatcher(nil)
	without.Accept(1)
	if got := allowed(without, texts); got != nil || !without.Complete() || without.Err() != nil {
		t.Errorf("with no ends, %q is allowed after a text that nothing may follow", got)
	}
}

func TestCharactersMayComeInPieces(t *testing.T) {
	texts := everyByte()
	m := regexProgram(t, `[é日-末]𝄞`).Bind(NewVocabulary(texts, len(texts))).NewMatcher([]int32{256})
	for _, step := range []struct {
		take string
		want int // tokens allowed after it
	}{
		{"\xe6", 6},  // 日 is E6 97 A5, 末 E6 9C AB: 97 to 9C may follow
		{"\x9c", 44}, // 80 to AB
		{"\xab", 1},
		{"\xf0\x9d\x84", 1},
	} {
		accept(t, m, texts, step.take)
		got := allowed(m, texts)
		if len(got) != step.want || m.Complete() {
			t.Errorf("after %q, %q may follow, want %d; Complete %v", step.take, got, step.want, m.Complete())
		}
	}
	accept(t, m, texts, "\x9e")
	if got := allowed(m, texts); !m.Complete() || !slices.Equal(got, []string{"<end>"}) {
		t.Errorf("after the last byte: %q, Complete %v", got, m.Complete())
	}
}

func TestATokenThatDoesNotFitIsAnError(t *testing.T) {
	texts := everyByte()
	b := regexProgram(t, `ab+`).Bind(NewVocabulary(texts, len(texts)+100))
	for _, id := range []int32{'b', 256, 257, 300, -1, 1 << 20} {
		m := b.NewMatcher([]int32{256})
		m.Accept(id)
		if m.Err() == nil || !strings.Contains(m.Err().Error(), fmt.Sprintf("token %d", id)) || allowed(m, texts) != nil || m.Complete() {
			t.Errorf("token %d: %v", id, m.Err())
		}
	}
}

// An expression of which too many ways have to be kept ends its request, and says why; others with the program go on.
func TestTooAmbiguousIsAnError(t *testing.T) {
	texts := everyByte()
	for range 3 {
		for i := range 3000 {
			texts = append(texts, fmt.Sprintf("a%d%sb", i, strings.Repeat("xa", 1+i%40)))
		}
	}
	b := regexProgram(t, `((.?a?b?c?d?){0,25}){0,25}`).Bind(NewVocabulary(texts, len(texts)))
	m := b.NewMatcher(nil)
	for i := 0; m.Err() == nil && i < 100; i++ {
		m.Mask()
		m.Accept('a')
	}
	if m.Err() == nil || !strings.Contains(m.Err().Error(), "too ambiguous") || len(idsOf(m.Mask())) > 0 {
		t.Errorf("%v", m.Err())
	}
	if m := regexProgram(t, `(a|b)*`).Bind(b.vocabulary).NewMatcher(nil); !slices.Contains(idsOf(m.Mask()), 'a') || m.Err() != nil {
		t.Errorf("another program: %v", m.Err())
	}
}

// What is known is forgotten when it takes too much, and outputs go on as if it were not.
func TestForgettingChangesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	texts := randomTokens(rng, `{}[]",:ab1 `)
	p := ebnfProgram(t, jsonEBNF)
	v := NewVocabulary(texts, len(texts))
	forgetful, other := p.Bind(v), p.Bind(v)
	var pairs [4][2]*Matcher
	for i := range pairs {
		pairs[i] = [2]*Matcher{forgetful.NewMatcher(nil), other.NewMatcher(nil)}
	}
	for range 60 {
		for i := range pairs {
			if rng.IntN(3) == 0 {
				forgetful.machine.bytes = maxCacheBytes + 1
			}
			got, want := pairs[i][0].Mask(), pairs[i][1].Mask()
			if !slices.Equal(got, want) || pairs[i][0].Complete() != pairs[i][1].Complete() {
				t.Fatalf("%v, want %v", idsOf(got), idsOf(want))
			}
			if ids := idsOf(want); len(ids) > 0 {
				id := ids[rng.IntN(len(ids))]
				if rng.IntN(3) == 0 {
					forgetful.machine.bytes = maxCacheBytes + 1
				}
				pairs[i][0].Accept(id)
				pairs[i][1].Accept(id)
			}
		}
	}
	if forgetful.machine.age < 20 || other.machine.age != 0 {
		t.Errorf("forgot %d and %d times", forgetful.machine.age, other.machine.age)
	}
}

// Several goroutines follow outputs of one program, and get what one alone gets.
func TestMatchersOfOneProgramOnManyGoroutines(t *testing.T) {
	texts := randomTokens(rand.New(rand.NewPCG(9, 10)), `{}[]",:ab1 `)
	p := ebnfProgram(t, jsonEBNF)
	v := NewVocabulary(texts, len(texts))
	shared := p.Bind(v)
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 0))
			m, alone := shared.NewMatcher(nil), p.Bind(v).NewMatcher(nil)
			for range 40 {
				ids := idsOf(m.Mask())
				if !slices.Equal(m.Mask(), alone.Mask()) {
					t.Errorf("goroutine %d: %v, want %v", i, ids, idsOf(alone.Mask()))
				}
				if len(ids) == 0 {
					return
				}
				id := ids[rng.IntN(len(ids))]
				m.Accept(id)
				alone.Accept(id)
			}
		})
	}
	wait.Wait()
}

// Many tokens that begin alike are looked at as one, unless some of them are no characters.
func TestTokensThatBeginAlike(t *testing.T) {
	for _, more := range []string{"", "x\x80", "x\xe6a", "x\xe6\x97", "xé\xc3", "x\xff", "xz", "x\n", "x日本"} {
		texts := tokens{"x", more}
		for b := 'a'; b < 'k'; b++ {
			texts = append(texts, "x"+string(b), "xé"+string(b))
		}
		v := NewVocabulary(texts, len(texts))
		for _, pattern := range []string{`.*`, `.{0,2}`, `[^z]{0,3}`, `[a-x]*`, `[^é]*`, `[^é]*é?`, `\pL+`, `(x[a-jé]+)+`} {
			p := regexProgram(t, pattern)
			wantSingly(t, newMachine(p), v, "", p.Bind(v).NewMatcher(nil).Mask())
		}
	}
}

// A text that was complete is not so any more with a token that cannot be followed.
func TestATokenThatDoesNotFitLeavesNothingComplete(t *testing.T) {
	texts := everyByte()
	m := regexProgram(t, `ab*`).Bind(NewVocabulary(texts, len(texts))).NewMatcher(nil)
	accept(t, m, texts, "ab")
	if !m.Complete() {
		t.Fatal("ab is not complete")
	}
	m.Accept('x')
	if m.Err() == nil || m.Complete() || len(allowed(m, texts)) > 0 {
		t.Errorf("after abx: error %v, complete %v, %q allowed", m.Err(), m.Complete(), allowed(m, texts))
	}
}
