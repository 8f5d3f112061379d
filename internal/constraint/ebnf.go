package constraint

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Limits of a grammar in EBNF.
const (
	MaxEBNF  = 1 << 18 // bytes
	maxCount = 100_000 // in {m,n}
)

// ebnfStart is the rule where texts start.
const ebnfStart = "root"

// FromEBNF reads a grammar in the EBNF of llama.cpp, which is called GBNF:
//
//	# A list of numbers, or nothing.
//	root   ::= "[" ( number ( ", " number )* )? "]" | "none"
//	number ::= "-"? [0-9]{1,9} ( "." [0-9]+ )?
//
// A rule is a name, ::= and what it stands for; texts start at the rule root. A name has letters, digits, - and _. Line breaks are blanks like
// any other, and # begins a comment up to the end of its line.
//
//   - "text" is just this text.
//   - [abc], [a-z], [^a-z] are one character of those listed, or of all others. A - at the start or the end stands for itself.
//   - . is any one character, a line break too.
//   - x y is one after the other, x | y either of them, either of which may be empty, and ( ) makes one of many.
//   - x?, x*, x+, x{3}, x{3,}, x{3,5}, x{,5}: up to one, any number, at least one, 3, 3 or more, 3 to 5, up to 5.
//
// In texts and classes \n \r \t \b \f \v \\ \" \' \/ \[ \] \- \^ and \xHH, \uHHHH, \UHHHHHHHH stand for a character, the latter by its number.
//
// A rule must not begin with itself, directly or by way of others (left recursion): instead of list ::= list "," item | item write
// list ::= item ( "," item )*.
//
// Errors name the line and the column, in characters.
func FromEBNF(text string) (*Grammar, error) {
	if len(text) > MaxEBNF {
		return nil, fmt.Errorf("grammar of %d bytes; the limit is %d", len(text), MaxEBNF)
	}
	if !utf8.ValidString(text) {
		return nil, fmt.Errorf("grammar: not UTF-8")
	}
	r := &ebnfReader{text: text, grammar: &Grammar{Rules: map[string]Expr{}, Start: ebnfStart}}
	if err := r.read(); err != nil {
		return nil, fmt.Errorf("grammar: %w", err)
	}
	return r.grammar, nil
}

// ebnfReader reads a grammar by recursive descent.
type ebnfReader struct {
	text    string
	at      int // bytes read
	depth   int // of parentheses
	grammar *Grammar
	uses    []ebnfUse
}

// ebnfUse is a rule named somewhere.
type ebnfUse struct {
	name string
	at   int
}

func (r *ebnfReader) read() error {
	for r.blank(); r.at < len(r.text); {
		at := r.at
		name, isRule := r.ruleHead()
		if !isRule {
			return r.unexpected("a rule: NAME ::= …")
		}
		if _, twice := r.grammar.Rules[name]; twice {
			return r.fault(at, "rule %s is defined twice", name)
		}
		e, err := r.alternatives()
		if err != nil {
			return err
		}
		r.grammar.Rules[name] = e
		if r.at < len(r.text) {
			if _, isRule := r.peekHead(); !isRule {
				return r.unexpected("a rule, or more of rule " + name)
			}
		}
	}
	if _, ok := r.grammar.Rules[ebnfStart]; !ok {
		return fmt.Errorf("rule %s, where texts start, is not defined", ebnfStart)
	}
	slices.SortFunc(r.uses, func(a, b ebnfUse) int { return cmp.Compare(a.at, b.at) })
	for _, use := range r.uses {
		if _, ok := r.grammar.Rules[use.name]; !ok {
			return r.fault(use.at, "rule %s is not defined", use.name)
		}
	}
	return nil
}

// ruleHead reads NAME ::=, if it is there.
func (r *ebnfReader) ruleHead() (name string, ok bool) {
	at := r.at
	name = r.name()
	r.blank()
	if name == "" || !r.take("::=") {
		r.at = at
		return "", false
	}
	r.blank()
	return name, true
}

func (r *ebnfReader) peekHead() (name string, ok bool) {
	at := r.at
	name, ok = r.ruleHead()
	r.at = at
	return name, ok
}

func (r *ebnfReader) name() string {
	begin := r.at
	for r.at < len(r.text) && isNameByte(r.text[r.at]) {
		r.at++
	}
	return r.text[begin:r.at]
}

func isNameByte(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '-' || b == '_'
}

func (r *ebnfReader) alternatives() (Expr, error) {
	var choice Choice
	for {
		e, err := r.sequence()
		if err != nil {
			return nil, err
		}
		choice = append(choice, e)
		if !r.take("|") {
			break
		}
		r.blank()
	}
	if len(choice) == 1 {
		return choice[0], nil
	}
	return choice, nil
}

func (r *ebnfReader) sequence() (Expr, error) {
	sequence := Sequence{}
	for r.at < len(r.text) && !strings.ContainsRune("|)", rune(r.text[r.at])) {
		if _, isRule := r.peekHead(); isRule {
			break
		}
		e, err := r.element()
		if err != nil {
			return nil, err
		}
		r.blank()
		for r.at < len(r.text) && strings.ContainsRune("*+?{", rune(r.text[r.at])) {
			repeat := Repeat{Of: e}
			if repeat.Min, repeat.Max, err = r.count(); err != nil {
				return nil, err
			}
			e = repeat
			r.blank()
		}
		sequence = append(sequence, e)
	}
	if len(sequence) == 1 {
		return sequence[0], nil
	}
	return sequence, nil
}

func (r *ebnfReader) element() (Expr, error) {
	at := r.at
	switch b := r.text[r.at]; {
	case b == '"':
		r.at++
		return r.literal(at)
	case b == '[':
		r.at++
		return r.class(at)
	case b == '.':
		r.at++
		return others(nil), nil
	case b == '(':
		r.at++
		if r.depth++; r.depth > maxNesting {
			return nil, r.fault(at, "parentheses are nested deeper than %d", maxNesting)
		}
		r.blank()
		e, err := r.alternatives()
		if err != nil {
			return nil, err
		}
		r.depth--
		if !r.take(")") {
			return nil, r.unexpected(") for the ( of " + r.place(at))
		}
		return e, nil
	case isNameByte(b):
		name := r.name()
		r.uses = append(r.uses, ebnfUse{name, at})
		return Rule(name), nil
	}
	return nil, r.unexpected(`"text", [class], ., (, | or a rule's name`)
}

// count reads *, +, ? or {m,n}.
func (r *ebnfReader) count() (least, most int, err error) {
	at := r.at
	r.at++
	switch r.text[at] {
	case '*':
		return 0, -1, nil
	case '+':
		return 1, -1, nil
	case '?':
		return 0, 1, nil
	}
	r.blank()
	least, any, err := r.number()
	if err != nil {
		return 0, 0, err
	}
	most = least
	r.blank()
	if r.take(",") {
		r.blank()
		var bounded bool
		if most, bounded, err = r.number(); err != nil {
			return 0, 0, err
		}
		if !bounded {
			most = -1
		}
		any = any || bounded
		r.blank()
	}
	switch {
	case !r.take("}"):
		return 0, 0, r.unexpected("a count: {m}, {m,}, {m,n} or {,n}")
	case !any:
		return 0, 0, r.fault(at, "a count without a number")
	case most >= 0 && most < least:
		return 0, 0, r.fault(at, "at least %d and at most %d", least, most)
	}
	return least, most, nil
}

func (r *ebnfReader) number() (n int, ok bool, err error) {
	at := r.at
	for r.at < len(r.text) && '0' <= r.text[r.at] && r.text[r.at] <= '9' {
		n = 10*n + int(r.text[r.at]-'0')
		if r.at++; n > maxCount {
			return 0, false, r.fault(at, "a count above %d", maxCount)
		}
	}
	return n, r.at > at, nil
}

// blank skips blanks and comments.
func (r *ebnfReader) blank() {
	for r.at < len(r.text) {
		switch r.text[r.at] {
		case ' ', '\t', '\r', '\n':
			r.at++
		case '#':
			if end := strings.IndexByte(r.text[r.at:], '\n'); end >= 0 {
				r.at += end
			} else {
				r.at = len(r.text)
			}
		default:
			return
		}
	}
}

func (r *ebnfReader) take(s string) bool {
	if !strings.HasPrefix(r.text[r.at:], s) {
		return false
	}
	r.at += len(s)
	return true
}

func (r *ebnfReader) unexpected(want string) error {
	if r.at >= len(r.text) {
		return r.fault(r.at, "the grammar ends here; want %s", want)
	}
	c, _ := utf8.DecodeRuneInString(r.text[r.at:])
	return r.fault(r.at, "%q; want %s", string(c), want)
}

func (r *ebnfReader) fault(at int, format string, args ...any) error {
	return fmt.Errorf("%s: %w", r.place(at), fmt.Errorf(format, args...))
}

// place is where a byte stands.
func (r *ebnfReader) place(at int) string {
	before := r.text[:at]
	line := strings.LastIndexByte(before, '\n') + 1
	return fmt.Sprintf("line %d, column %d", strings.Count(before, "\n")+1, utf8.RuneCountInString(before[line:])+1)
}
