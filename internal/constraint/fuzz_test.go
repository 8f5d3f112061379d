package constraint

import (
	"regexp"
	"testing"
	"unicode/utf8"
)

// FuzzRegex reads arbitrary expressions. What is accepted means what regexp says it does, and its masks hold what can follow.
func FuzzRegex(f *testing.F) {
	f.Add(`^(?i:ab+|[^c-é]{2,5}?)\d*$`, "ABxx12")
	f.Add(`(?s:.)*\pL(?U:a*)`, "日\na")
	f.Add(`(a?){0,60}(a*)*|\x{10FFFF}`, "aaa")
	texts := everyByte()
	texts = append(texts, "ab", "a1", "日a", "é", "\xa5\xe6")
	v := NewVocabulary(texts, len(texts))
	f.Fuzz(func(t *testing.T, pattern, text string) {
		g, err := FromRegex(pattern)
		if err != nil {
			return
		}
		p, err := Compile(g)
		if err != nil {
			return
		}
		checkFuzzed(t, p, v, text)
		if len(pattern) > 200 || len(text) > 200 || !utf8.ValidString(text) {
			return
		}
		judge, err := regexp.Compile(`\A(?:` + pattern + `)\z`)
		if err != nil {
			return // by a ) too many, say, which the group hides
		}
		if got, want := p.Match(text), judge.MatchString(text); got != want {
			t.Errorf("%q on %q: %v, want %v", pattern, text, got, want)
		}
	})
}

// FuzzEBNF reads arbitrary grammars.
func FuzzEBNF(f *testing.F) {
	f.Add(jsonEBNF, `{"a": [1, "b"]}`)
	f.Add("root ::= ( x | y? )* z{2,5} # comment\nx ::= [^\"\\\\\\x41-\\u0050] y ::= \"\\\"\" z ::= . root \"\" |", "zz")
	f.Add(`root ::= "(" root ")" root | ""`, "(())()")
	texts := everyByte()
	texts = append(texts, "ab", `":`, `{"`, "))", "é", "\xa5\xe6")
	v := NewVocabulary(texts, len(texts))
	f.Fuzz(func(t *testing.T, grammar, text string) {
		g, err := FromEBNF(grammar)
		if err != nil {
			return
		}
		if p, err := Compile(g); err == nil {
			checkFuzzed(t, p, v, text)
		}
	})
}

// checkFuzzed follows a text as far as the masks let it, and holds the masks to what becomes of single bytes.
func checkFuzzed(t *testing.T, p *Program, v *Vocabulary, text string) {
	m := p.Bind(v).NewMatcher([]int32{256})
	for i := range min(len(text), 50) {
		mask := m.Mask()
		if m.Err() != nil {
			return
		}
		if got := mask[256/32]&1 == 1; got != m.Complete() || m.Complete() != p.Match(text[:i]) {
			t.Fatalf("%q: the end is allowed: %v, Complete %v, Match %v", text[:i], got, m.Complete(), p.Match(text[:i]))
		}
		allowed := mask[text[i]/32]>>(text[i]%32)&1 == 1
		if m.Accept(int32(text[i])); allowed != (m.Err() == nil) {
			t.Fatalf("%q after %q is allowed: %v; taken: %v", text[i], text[:i], allowed, m.Err())
		}
		if !allowed {
			return
		}
	}
}
