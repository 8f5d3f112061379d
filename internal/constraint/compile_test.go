package constraint

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

func rules(pairs ...any) *Grammar {
	g := &Grammar{Rules: map[string]Expr{}, Start: pairs[0].(string)}
	for i := 0; i < len(pairs); i += 2 {
		g.Rules[pairs[i].(string)] = pairs[i+1].(Expr)
	}
	return g
}

// Long repeats are made of blocks: a text of every length around their borders matches just where it should.
func TestRepeatsOfAnyLength(t *testing.T) {
	for _, of := range []struct {
		expr Expr
		text string
	}{
		{Text("a"), "a"},
		{Chars{{'à', 'ü'}}, "é"},
		{Choice{Text("ab"), Sequence{Text("ac"), Rule("b")}}, "ac\n"},
	} {
		for _, c := range []struct{ least, most int }{
			{0, 3}, {512, 512}, {513, 513}, {0, 512}, {0, 513}, {0, 768}, {255, 1024}, {700, 1301}, {1024, -1}, {520, -1},
		} {
			p := compiled(t, rules("a", Repeat{of.expr, c.least, c.most}, "b", Text("\n")), nil)
			for n := range 1303 {
				if edge := n % 256; edge > 1 && edge < 255 && max(n-c.least, c.least-n) > 1 && max(n-c.most, c.most-n) > 1 {
					continue
				}
				want := n >= c.least && (c.most < 0 || n <= c.most)
				if got := p.Match(strings.Repeat(of.text, n)); got != want {
					t.Errorf("%d of {%d,%d} %q: %v, want %v", n, c.least, c.most, of.text, got, want)
				}
			}
		}
	}
}

// What Compile refuses, and how it says so.
func TestBadGrammars(t *testing.T) {
	deep := Expr(Text("a"))
	for range maxNesting + 1 {
		deep = Sequence{deep}
	}
	many := &Grammar{Rules: map[string]Expr{}, Start: "0"}
	for i := range maxRules + 1 {
		many.Rules[fmt.Sprint(i)] = Text("a")
	}
	wide := Choice{}
	for i := range maxConfigurations + 1 {
		wide = append(wide, Sequence{Text("a"), Text(fmt.Sprint(i)), Chars{{'a', 'z'}}})
	}
	parts := Sequence{}
	for range maxParts {
		parts = append(parts, Text("a"))
	}
	for _, c := range []struct {
		name string
		g    *Grammar
		want string
	}{
		{"none", nil, "no grammar"},
		{"no start", &Grammar{Start: "a"}, "rule a is not defined"},
		{"undefined", rules("a", Rule("b")), "rule a: it uses rule b, which is not defined"},
		{"no expression", rules("a", Sequence{nil}), "rule a: an expression is <nil>"},
		{"no UTF-8", rules("a", Text("\xff")), `rule a: text "\xff" is not UTF-8`},
		{"no characters", rules("a", Chars{{'b', 'a'}}), "rule a: U+0062 to U+0061 is no range"},
		{"beyond Unicode", rules("a", Chars{{'b', 0x110000}}), "rule a: U+0062 to U+110000 is no range"},
		{"no repeat", rules("a", Repeat{Text("b"), 2, 1}), "rule a: a repeat of at least 2 and at most 1"},
		{"negative repeat", rules("a", Repeat{Text("b"), -1, 1}), "rule a: a repeat of at least -1 and at most 1"},
		{"no text", rules("a", Choice{}), "rule a: it has no text"},
		{"surrogates", rules("a", Chars{{0xD800, 0xDFFF}}), "rule a: it has no text"},
		{"no end", rules("a", Sequence{Text("x"), Rule("b")}, "b", Sequence{Text("y"), Rule("a")}), "rule a: it has no text"},
		{"itself", rules("a", Choice{Rule("a"), Text("x")}), "rule a: left recursion (a → a)"},
		{"by another", rules("s", Sequence{Text("x"), Rule("a")}, "a", Sequence{Repeat{Text("y"), 0, 3}, Rule("b")}, "b", Choice{Text("z"), Sequence{Text(""), Rule("a")}}),
			"left recursion (a → b → a)"},
		{"behind an empty rule", rules("a", Choice{Text("x"), Sequence{Rule("e"), Rule("a")}}, "e", Repeat{Text("y"), 0, -1}), "left recursion (a → a)"},
		{"deep", rules("a", deep), "rule a: expressions are nested deeper than 1000"},
		{"many rules", many, "10001 rules; the limit is 10000"},
		{"many parts", rules("a", parts), "rule a: the grammar has more than 262144 expressions"},
		{"much text", rules("a", Text(strings.Repeat("a", maxText+1))), "rule a: the grammar has more than 1048576 bytes of text"},
		{"a long repeat", rules("a", Repeat{Text("ab"), math.MaxInt, math.MaxInt}), "rule a: the automaton has more than 131072 states"},
		{"repeats of repeats", rules("a", Repeat{Repeat{Repeat{Text("ab"), 0, 99}, 0, 99}, 0, 99}), "rule a: the automaton has more than 131072 states"},
		{"a wide choice", rules("a", wide), "rule a: a text may begin in more than 4096 ways"},
	} {
		p, err := Compile(c.g)
		if p != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// What looks odd but is fine.
func TestGrammarsWithOddParts(t *testing.T) {
	for _, c := range []struct {
		name     string
		g        *Grammar
		yes, not []string
	}{
		{"empty", rules("a", Sequence{}), []string{""}, []string{"a"}},
		{"repeats of nothing", rules("a", Sequence{Repeat{Repeat{Text(""), 0, -1}, 3, -1}, Repeat{Text(""), math.MaxInt, -1}, Text("x")}), []string{"x"}, []string{"", "xx"}},
		{"a part without a text", rules("a", Choice{Text("x"), Sequence{Text("y"), Chars{}}, Repeat{Rule("b"), 0, 9}}, "b", Rule("c"), "c", Sequence{Text("z"), Rule("b")}),
			[]string{"x", ""}, []string{"y", "z"}},
		{"a rule that is not used", rules("a", Text("x"), "b", Rule("b")), []string{"x"}, nil},
		{"right recursion", rules("a", Choice{Text(""), Sequence{Text("x"), Rule("a")}}), []string{"", "x", strings.Repeat("x", 200_000)}, []string{"xy"}},
		{"in the middle", rules("a", Choice{Text(""), Sequence{Text("("), Rule("a"), Text(")")}}),
			[]string{"", "(())", strings.Repeat("(", 60_000) + strings.Repeat(")", 60_000)}, []string{"(", "())", strings.Repeat("(", 70_000)}},
		{"texts with a common start and end", FromChoices([]string{"", "a", "abc", "abd", "xbd", "a"}), []string{"", "a", "abc", "xbd"}, []string{"ab", "xbc", "aa"}},
	} {
		p := compiled(t, c.g, nil)
		for _, text := range c.yes {
			if !p.Match(text) {
				t.Errorf("%s: %.40q does not match", c.name, text)
			}
		}
		for _, text := range c.not {
			if p.Match(text) {
				t.Errorf("%s: %.40q matches", c.name, text)
			}
		}
	}
}

func TestThousandsOfChoicesAreOnePlace(t *testing.T) {
	var texts []string
	for i := range 5000 {
		texts = append(texts, fmt.Sprintf("choice number %d of some", i*i))
	}
	p := compiled(t, FromChoices(texts), nil)
	if n := len(newMachine(p).begin().configurations); n != 1 {
		t.Errorf("%d configurations at the start, want 1", n)
	}
	for i := range 100 {
		if !p.Match(texts[50*i]) || p.Match(texts[50*i]+"x") || p.Match(texts[50*i][:14]) {
			t.Errorf("choice %q", texts[50*i])
		}
	}
}
