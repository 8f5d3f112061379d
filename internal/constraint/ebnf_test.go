package constraint

import (
	"strings"
	"testing"
)

func TestEBNF(t *testing.T) {
	for _, c := range []struct {
		grammar  string
		yes, not []string
	}{
		{`root ::= "a"`, []string{"a"}, []string{"", "b", "aa"}},
		{"# a comment\nroot::=x|y # another\nx\n::=\n\"x\"\n|\"z\" y::=[0-9]", []string{"x", "z", "7"}, []string{"y", ""}},
		{`root ::= "a" | `, []string{"a", ""}, []string{"b"}},
		{`root ::= ( "a" | "b" "c" )+ "d"? "e"*`, []string{"a", "bc", "abcade", "aee"}, []string{"", "b", "d"}},
		{`root ::= "a"{2} "b"{1,} "c"{0,2} "d"{,1} "e" { 1 , 2 }`, []string{"aabe", "aabbbccdee"}, []string{"abe", "aae", "aabccce", "aabdde", "aab"}},
		{`root ::= [abc] [^abc] [a-c0-9_-] [-x] [^\n] [\]\\\-]`, []string{"azb--]", "a0--x\\", "c\n_x-]", "b日9x日-"}, []string{"dzb--]", "aab--]", "azz--]", "azb-\n]"}},
		{`root ::= . .`, []string{"a\n", "日本", "𝄞\""}, []string{"a", "aaa", "\xff\xff"}},
		{`root ::= "\"\\\n\t\r\x41\u00e9\U0001D11E" [\x30-\u0039]`, []string{"\"\\\n\t\rAé𝄞5"}, []string{""}},
		{`root ::= "" ("")* ("" | "")+ "x"`, []string{"x"}, []string{""}},
		{`root ::= r-1 R_2 r-1 ::= "é" R_2 ::= "日"`, []string{"é日"}, []string{"é"}},
		{`root ::= "(" root ")" | "x"`, []string{"x", "((x))"}, []string{"((x)"}},
		{`root ::= "a"?* "b"`, []string{"b", "aab"}, []string{"a"}},
		{`root ::= "é" # ends in a comment`, []string{"é"}, nil},
		{jsonEBNF, []string{`{}`, `{"a": [1, -2.5e3, "\u00e9\n", {"b":null} ], "c":true}`}, []string{`[]`, `{"a":}`, `{"a" "b"}`, `{"a":"` + "\n" + `"}`}},
	} {
		p := ebnfProgram(t, c.grammar)
		for _, text := range c.yes {
			if !p.Match(text) {
				t.Errorf("%s\ndoes not match %q", c.grammar, text)
			}
		}
		for _, text := range c.not {
			if p.Match(text) {
				t.Errorf("%s\nmatches %q", c.grammar, text)
			}
		}
	}
}

func TestBadEBNF(t *testing.T) {
	for _, c := range []struct{ grammar, want string }{
		{"", "rule root, where texts start, is not defined"},
		{`a ::= "b"`, "rule root, where texts start, is not defined"},
		{"root ::= \"a\"\n  | b\nc ::= d", "line 2, column 5: rule b is not defined"},
		{"root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1: rule root is defined twice"},
		{"root = \"a\"", "line 1, column 1: \"r\"; want a rule: NAME ::= …"},
		{"::= \"a\"", "line 1, column 1: \":\"; want a rule: NAME ::= …"},
		{"root ::= é", "line 1, column 10: \"é\"; want \"text\", [class], ., (, | or a rule's name"},
		{"root ::= \"é\" <x>", "line 1, column 14: \"<\"; want"},
		{"root ::= 'a'", "line 1, column 10: \"'\"; want"},
		{"root ::= ( \"a\" | \"b\"\n", "line 2, column 1: the grammar ends here; want ) for the ( of line 1, column 10"},
		{"root ::= ( \"a\"\nb ::= \"c\")", "line 2, column 1: \"b\"; want ) for the ( of line 1, column 10"},
		{"root ::= \"a\" )", "line 1, column 14: \")\"; want a rule, or more of rule root"},
		{"root ::= \"a", "line 1, column 10: \" has no closing \" on its line"},
		{"root ::= \"a\n\"", "line 1, column 10: \" has no closing \" on its line"},
		{"root ::= [a", "line 1, column 10: [ has no closing ] on its line"},
		{"root ::= []", "line 1, column 10: class [] has no character"},
		{"root ::= [z-a]", "line 1, column 11: range 'z' to 'a' is the wrong way round"},
		{`root ::= "\q"`, `line 1, column 11: \q is no escape`},
		{`root ::= [\d]`, `line 1, column 11: \d is no escape`},
		{`root ::= "\x4"`, `line 1, column 11: "\\x4\""; want 2 hexadecimal digits`},
		{`root ::= "\u12`, `line 1, column 11: \u12; want 4 hexadecimal digits`},
		{`root ::= "\ud800"`, `line 1, column 11: \ud800 is no character`},
		{`root ::= "\UFFFFFFFF"`, `line 1, column 11: \UFFFFFFFF is no character`},
		{`root ::= "\`, `line 1, column 11: `},
		{`root ::= "a"{`, "the grammar ends here; want a count"},
		{`root ::= "a"{}`, "line 1, column 13: a count without a number"},
		{`root ::= "a"{,}`, "line 1, column 13: a count without a number"},
		{`root ::= "a"{3,2}`, "line 1, column 13: at least 3 and at most 2"},
		{`root ::= "a"{1 2}`, "line 1, column 16: \"2\"; want a count"},
		{`root ::= "a"{100001}`, "line 1, column 14: a count above 100000"},
		{"root ::= *", "line 1, column 10: \"*\"; want"},
		{"root ::= \"\xff\"", "grammar: not UTF-8"},
		{"root ::= " + strings.Repeat("(", maxNesting+1), "parentheses are nested deeper than 1000"},
		{strings.Repeat("#", MaxEBNF+1), "grammar of 262145 bytes; the limit is 262144"},
	} {
		g, err := FromEBNF(c.grammar)
		if g != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q: %v, want %q", c.grammar, err, c.want)
		}
	}
}
