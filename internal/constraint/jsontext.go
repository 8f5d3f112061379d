package constraint

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/inferno-serve/inferno/internal/model/strictjson"
)

// White space, which JSON allows without bound and in which a model may loop for ever: none or one space after a colon; after an opening
// bracket and a comma, and before a closing bracket, none, one space, or one new line and the indentation of the next. None stands before
// or behind the text, or before a colon or comma: what follows any of it is a step forward.
const (
	maxIndentSpaces = 32
	maxIndentTabs   = 8
)

// never is no text at all, not even the empty one. prune takes it out of a grammar.
var never = Choice{}

// Names of the rules that every grammar of JSON may use.
const (
	ruleSpace     = "space"
	ruleCharacter = "character"
	ruleString    = "string"
)

// jsonRules are those rules.
func jsonRules() map[string]Expr {
	return map[string]Expr{
		ruleSpace: Choice{
			Sequence{}, Text(" "),
			Sequence{Text("\n"), Choice{Repeat{Text(" "), 0, maxIndentSpaces}, Repeat{Text("\t"), 1, maxIndentTabs}}},
		},
		ruleCharacter: stringCharacter(),
		ruleString:    Sequence{Text(`"`), Repeat{Rule(ruleCharacter), 0, -1}, Text(`"`)},
	}
}

// colon stands between a key and its value.
var colon = Sequence{Text(":"), optional(Text(" "))}

func optional(e Expr) Expr { return Repeat{e, 0, 1} }

// stringCharacter is one character of a string, by any of its spellings: as itself or escaped, where what UTF-16 takes two units for is
// escaped as two, and no half of them stands alone.
func stringCharacter() Expr {
	hex := Chars{{'0', '9'}, {'A', 'F'}, {'a', 'f'}}
	d := Chars{{'D', 'D'}, {'d', 'd'}}
	unit := Choice{
		Sequence{Chars{{'0', '9'}, {'A', 'C'}, {'E', 'F'}, {'a', 'c'}, {'e', 'f'}}, Repeat{hex, 3, 3}},
		Sequence{d, Chars{{'0', '7'}}, Repeat{hex, 2, 2}},
		Sequence{
			d, Chars{{'8', '9'}, {'A', 'B'}, {'a', 'b'}}, Repeat{hex, 2, 2}, Text(`\u`), d, Chars{{'C', 'F'}, {'c', 'f'}}, Repeat{hex, 2, 2},
		},
	}
	short := Chars{{'"', '"'}, {'/', '/'}, {'\\', '\\'}, {'b', 'b'}, {'f', 'f'}, {'n', 'n'}, {'r', 'r'}, {'t', 't'}}
	return Choice{plainCharacters, Sequence{Text(`\`), Choice{short, Sequence{Text("u"), unit}}}}
}

// plainCharacters are those that stand in a string as themselves.
var plainCharacters = Chars{{' ', '!'}, {'#', '['}, {']', surrogateFirst - 1}, {surrogateLast + 1, utf8.MaxRune}}

// escapeOf is how c is written in a string where it may not stand as itself.
func escapeOf(c rune) string {
	switch c {
	case '"', '\\':
		return `\` + string(c)
	case '\b':
		return `\b`
	case '\f':
		return `\f`
	case '\n':
		return `\n`
	case '\r':
		return `\r`
	case '\t':
		return `\t`
	}
	return fmt.Sprintf(`\u%04x`, c)
}

// quoted is the string as JSON, with no escape that need not be.
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		if c < ' ' || c == '"' || c == '\\' {
			b.WriteString(escapeOf(c))
		} else {
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// encoded is one character of these in a string, each by one spelling: as itself where that may be.
func encoded(chars Chars) Expr {
	var forms Choice
	var plain Chars
	for _, r := range chars {
		for _, p := range plainCharacters {
			if first, last := max(r.First, p.First), min(r.Last, p.Last); first <= last {
				plain = append(plain, CharRange{first, last})
			}
		}
		for _, c := range "\"\\" {
			if r.First <= c && c <= r.Last {
				forms = append(forms, Text(escapeOf(c)))
			}
		}
		for c := r.First; c < ' ' && c <= r.Last; c++ {
			forms = append(forms, Text(escapeOf(c)))
		}
	}
	if len(plain) > 0 {
		forms = append(forms, plain)
	}
	return forms
}

// jsonLiteral is the value as JSON text, its numbers as they are written there.
func jsonLiteral(v strictjson.Value) Expr {
	switch v.Kind {
	case strictjson.String:
		return Text(quoted(v.Text))
	case strictjson.Array:
		if len(v.Items) == 0 {
			return Text("[]")
		}
		s := Sequence{Text("["), Rule(ruleSpace)}
		for i, item := range v.Items {
			if i > 0 {
				s = append(s, Text(","), Rule(ruleSpace))
			}
			s = append(s, jsonLiteral(item))
		}
		return append(s, Rule(ruleSpace), Text("]"))
	case strictjson.Object:
		if len(v.Members) == 0 {
			return Text("{}")
		}
		s := Sequence{Text("{"), Rule(ruleSpace)}
		for i, m := range v.Members {
			if i > 0 {
				s = append(s, Text(","), Rule(ruleSpace))
			}
			s = append(s, Text(quoted(m.Key)), colon, jsonLiteral(m.Value))
		}
		return append(s, Rule(ruleSpace), Text("}"))
	}
	return Text(v.Text)
}
