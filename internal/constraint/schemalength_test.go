package constraint

import (
	"regexp"
	"regexp/syntax"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// TestPatternsOfALengthMatchWithinIt: what is left of an expression when its repetitions are bounded is matched by it, and has the length.
func TestPatternsOfALengthMatchWithinIt(t *testing.T) {
	fitted := 0
	rapid.Check(t, func(t *rapid.T) {
		source := drawRegex(t, 3)
		least := rapid.IntRange(0, 12).Draw(t, "least")
		most := least + rapid.IntRange(0, 12).Draw(t, "spare")
		parsed, err := syntax.Parse(source, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		fitting := longer(parsed, least)
		if fitting != nil {
			fitting = shorter(fitting, most)
		}
		if fitting == nil {
			return
		}
		if l, m := lengths(fitting); l < least || m > most {
			return // as writeString finds too
		}
		e, err := fromRegexp(fitting, false, false)
		if err != nil {
			t.Fatal(err)
		}
		w, err := walkerOf(&Grammar{map[string]Expr{"r": e}, "r"}, rapid.Uint64().Draw(t, "seed"))
		if err != nil {
			t.Fatal(err)
		}
		judge := regexp.MustCompile(`\A(?:` + source + `)\z`)
		for range 10 {
			text := w.text()
			if n := utf8.RuneCountInString(text); n < least || n > most || !judge.MatchString(text) {
				t.Fatalf("%s of %d to %d characters has %q", source, least, most, text)
			}
		}
		fitted++
	})
	t.Logf("%d expressions had matches of the length", fitted)
	if fitted == 0 {
		t.Error("no expression had a match of the length")
	}
}

func drawRegex(t *rapid.T, depth int) string {
	if depth == 0 {
		return rapid.SampledFrom([]string{"a", "bcd", "[a-c]", "é", "", "."}).Draw(t, "leaf")
	}
	sub := func() string { return drawRegex(t, depth-1) }
	switch rapid.IntRange(0, 3).Draw(t, "form") {
	case 0:
		return sub() + sub()
	case 1:
		return "(?:" + sub() + "|" + sub() + ")"
	case 2:
		return "(?:" + sub() + ")" + rapid.SampledFrom([]string{"*", "+", "?", "{2}", "{1,3}", "{2,}", "{0,9}"}).Draw(t, "repeat")
	}
	return sub()
}
