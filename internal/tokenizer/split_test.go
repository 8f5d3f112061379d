package tokenizer

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// blank is \s as the tokenizers' regular expressions mean it: the Unicode property White_Space.
const blank = `\t\n\v\f\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}`

// regexSplit cuts by package regexp, which has all of a pattern but its lookahead and its last alternative: that is
// \s+(?!\S)|\s+, done by hand.
func regexSplit(pattern, text string) (pieces []string) {
	pattern = strings.TrimSuffix(pattern, `|\s+(?!\S)|\s+`)
	pattern = strings.NewReplacer(`?+`, `?`, `]++`, `]+`, `[^\s`, `[^`+blank, `\s`, `[`+blank+`]`).Replace(pattern)
	rest := regexp.MustCompile(`^(?:` + pattern + `)`)
	blanks := regexp.MustCompile(`^[` + blank + `]+`)
	for text != "" {
		n := len(rest.FindString(text))
		if n == 0 {
			run := blanks.FindString(text)
			n = len(run)
			if _, last := utf8.DecodeLastRuneInString(run); n < len(text) && n > last {
				n -= last
			}
		}
		pieces = append(pieces, text[:n])
		text = text[n:]
	}
	return pieces
}

func cutAll(split splitter, text string) (pieces []string) {
	for text != "" {
		n := split(text)
		pieces = append(pieces, text[:n])
		text = text[n:]
	}
	return pieces
}

// runes from every class that a pattern tells apart, and those on which implementations disagree.
var splitRunes = []rune("aZsStTrReEvVlLmMdDſéßДñ中日ʰǅ 0 9٣Ⅷ½ \t\r\n\n\u00a0\u3000\u0085\u2028'''’!.,_-/$€👍🏽\u0301\u200d\u0300\ufffd")

func TestSplittersFollowTheirPatterns(t *testing.T) {
	for _, pattern := range []string{patternGPT2, patternLlama3, patternQwen2, patternCL100K, patternTekken, patternO200K} {
		split, ok := splitterOf(pattern)
		if !ok {
			t.Fatalf("no splitter for %s", pattern)
		}
		rapid.Check(t, func(t *rapid.T) {
			text := string(rapid.SliceOfN(rapid.SampledFrom(splitRunes), 0, 40).Draw(t, "text"))
			if got, want := cutAll(split, text), regexSplit(pattern, text); !slices.Equal(got, want) {
				t.Fatalf("%s\ncuts %q\n got %q\nwant %q", pattern, text, got, want)
			}
		})
	}
}

func TestSplitters(t *testing.T) {
	for _, c := range []struct {
		name  string
		split splitter
		text  string
		want  []string
	}{
		{"gpt2 leaves the last blank", splitGPT2, "a   b\n", []string{"a", "  ", " b", "\n"}},
		{"gpt2 is case sensitive", splitGPT2, "it's IT'S", []string{"it", "'s", " IT", "'", "S"}},
		{"llama3 is not", splitLlama3, "it's IT'S", []string{"it", "'s", " IT", "'S"}},
		{"llama3 takes three digits", splitLlama3, "12345 6", []string{"123", "45", " ", "6"}},
		{"qwen2 takes one digit", splitQwen2, "123", []string{"1", "2", "3"}},
		{"llama3 ends at the last newline", splitLlama3, "a \n \n  b", []string{"a", " \n \n", " ", " b"}},
		{"llama3 keeps newlines with punctuation", splitLlama3, "x.\r\n\ny", []string{"x", ".\r\n\n", "y"}},
		{
			"tekken ends words at upper case", splitTekken, "camelCaseABCdé's 12",
			[]string{"camel", "Case", "ABCdé", "'s", " ", "1", "2"},
		},
		{
			"o200k keeps contractions", splitO200K, "it's 1234 a/\n/b",
			[]string{"it's", " ", "123", "4", " a", "/\n/", "b"},
		},
		{"digits", splitDigits, "ab12c", []string{"ab", "1", "2", "c"}},
		{"digit runs", splitDigitRuns, "ab12c3", []string{"ab", "12", "c", "3"}},
		{"isolate", isolate("--"), "--a----b", []string{"--", "a", "--", "--", "b"}},
		{"cut after", cutAfter(" "), " a  b", []string{" ", "a ", " ", "b"}},
		{"cut before", cutBefore("▁"), "a▁▁b▁", []string{"a", "▁", "▁b", "▁"}},
		{"cut words", cutWords, "a▁▁b▁", []string{"a", "▁▁b", "▁"}},
	} {
		if got := cutAll(c.split, c.text); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q\n got %q\nwant %q", c.name, c.text, got, c.want)
		}
	}
}

func TestClassesAreThoseOfUnicode(t *testing.T) {
	for r := rune(0); r <= unicode.MaxRune; r++ {
		want := other
		switch {
		case r == '\n' || r == '\r':
			want = newline
		case unicode.Is(unicode.L, r):
			want = letter
		case unicode.Is(unicode.N, r):
			want = number
		case unicode.Is(unicode.White_Space, r):
			want = space
		}
		if got := classOf(r); got != want {
			t.Fatalf("%U is of class %d, want %d", r, got, want)
		}
	}
}
