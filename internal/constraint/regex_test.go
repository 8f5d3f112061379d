package constraint

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

func compiled(tb testing.TB, g *Grammar, err error) *Program {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
	p, err := Compile(g)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func regexProgram(tb testing.TB, pattern string) *Program {
	tb.Helper()
	g, err := FromRegex(pattern)
	return compiled(tb, g, err)
}

// Go's regexp is the judge: of random expressions over a few letters, some of them of two and more bytes, and random texts of these.
func TestRegexMatchesWhatRegexpDoes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	matched := 0
	for range 3000 {
		pattern := randomRegex(rng, 4)
		judge := regexp.MustCompile(`\A(?:` + pattern + `)\z`)
		p := regexProgram(t, pattern)
		for range 30 {
			text := randomText(rng)
			got, want := p.Match(text), judge.MatchString(text)
			if got != want {
				t.Fatalf("%q on %q: %v, want %v", pattern, text, got, want)
			}
			if want {
				matched++
			}
		}
	}
	if matched < 5000 {
		t.Errorf("%d texts matched: too few to mean anything", matched)
	}
}

const letters = "abAßé€日𝄞\n"

func randomText(rng *rand.Rand) string {
	var text strings.Builder
	all := []rune(letters)
	for range rng.IntN(7) {
		text.WriteRune(all[min(rng.IntN(len(all)), rng.IntN(len(all)))])
	}
	return text.String()
}

func randomRegex(rng *rand.Rand, depth int) string {
	all := []rune(letters[:len(letters)-1])
	letter := func() string { return string(all[min(rng.IntN(len(all)), rng.IntN(len(all)))]) }
	if depth == 0 {
		switch rng.IntN(8) {
		case 0:
			return "."
		case 1:
			return "[^" + letter() + letter() + "]"
		case 2:
			return "[" + letter() + letter() + letter() + "]"
		case 3:
			return []string{`\w`, `\pL`, `[a-é]`, `[é-日]`, `(?s:.)`, `\W`, `[[:upper:]]`}[rng.IntN(7)]
		case 4:
			return ""
		}
		return letter()
	}
	sub := func() string { return randomRegex(rng, rng.IntN(depth)) }
	switch rng.IntN(7) {
	case 0:
		return "(?:" + sub() + "|" + sub() + ")"
	case 1:
		return "(" + sub() + ")" + []string{"*", "+", "?", "*?", "+?"}[rng.IntN(5)]
	case 2:
		least := rng.IntN(3)
		return fmt.Sprintf("(%s){%d,%d}", sub(), least, least+rng.IntN(3))
	case 3:
		return fmt.Sprintf("(?:%s){%d,}", sub(), rng.IntN(3))
	case 4:
		return "(?i:" + sub() + ")"
	}
	return sub() + sub() + sub()
}

func TestBadRegexes(t *testing.T) {
	for _, c := range []struct{ pattern, want string }{
		{`(`, "missing closing ): \"(\""},
		{`a**`, "invalid nested repetition operator"},
		{`a{1001}`, "invalid repeat count"},
		{`(?=a)`, "invalid or unsupported Perl syntax"},
		{`(a)\1`, "invalid escape sequence"},
		{`a\b`, `\b is not supported: it looks at the text around it`},
		{`a\Bb`, `\B is not supported`},
		{`a^b`, "may only stand at the start"},
		{`a*^b`, "may only stand at the start"},
		{`a$b`, "may only stand at the end"},
		{`a$b*`, "may only stand at the end"},
		{`(^a)*`, "may only stand at the start"},
		{"\xff", "invalid UTF-8"},
		{strings.Repeat("a", MaxRegex+1), "regular expression of 65537 bytes; the limit is 65536"},
		{strings.Repeat("(", 2000) + strings.Repeat(")", 2000), "expression nests too deeply"},
	} {
		g, err := FromRegex(c.pattern)
		if g != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: %v, want %q", c.pattern, err, c.want)
		}
	}
}

func TestAnchorsAtTheEndsChangeNothing(t *testing.T) {
	for _, pattern := range []string{
		`^ab$`, `\Aab\z`, `^(ab)$`, `(^ab$)`, `^^ab$$`, `^ab|cd$`, `(?m)^ab$`, `(?:^)ab(?:$)`, `(?:^|cd)ab`, `ab(?:$|cd)`, `()^ab`, `ab$()`,
	} {
		p := regexProgram(t, pattern)
		if !p.Match("ab") || p.Match("a") || p.Match("abab") || p.Match("ab\n") || p.Match("") {
			t.Errorf("%s", pattern)
		}
	}
}

// An expression that the compiler would refuse for its ranges is refused before they are there a second time.
func TestRegexOfTooManyRangesIsRefusedBeforeItIsConverted(t *testing.T) {
	for pattern, fits := range map[string]bool{strings.Repeat(`\pL?`, 1000): true, strings.Repeat(`\pL?`, 16000): false} {
		if _, err := FromRegex(pattern); (err == nil) != fits {
			t.Errorf("%d bytes: %v", len(pattern), err)
		}
	}
}
