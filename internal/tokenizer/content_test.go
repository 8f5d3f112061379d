package tokenizer

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestContentHasNoControlTokens joins random pieces of a template and of content, and holds the result to cutting the text by hand at the
// control tokens of the template and encoding what is between as plain text.
func TestContentHasNoControlTokens(t *testing.T) {
	tok := load(t, "bytelevel.json")
	special := []string{"<pad>", "<s>", "</s>"}
	words := append([]string{"hello", " the", "<", "s", "/s>", "<s", ">", "</", "pad>", "\n\n", "é日", " ", "12"}, special...)
	random := rand.New(rand.NewPCG(1, 2))
	found, ignored := 0, 0
	for range 2000 {
		var text strings.Builder
		var spans []Span
		for range 1 + random.IntN(12) {
			start := text.Len()
			text.WriteString(words[random.IntN(len(words))])
			if random.IntN(2) == 0 {
				continue
			}
			if n := len(spans); n > 0 && spans[n-1].End == start {
				spans[n-1].End = text.Len()
			} else {
				spans = append(spans, Span{start, text.Len()})
			}
		}
		var want []int32
		plain := func(s string) {
			ids, err := tok.Encode(s, EncodeOptions{})
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, ids...)
		}
		from := 0
		for i := 0; i < text.Len(); {
			name := ""
			for _, s := range special {
				if strings.HasPrefix(text.String()[i:], s) {
					name = s
				}
			}
			outside := !slices.ContainsFunc(spans, func(s Span) bool { return s.Start < i+len(name) && i < s.End })
			if name == "" || !outside {
				if name != "" {
					ignored++
				}
				i++
				continue
			}
			found++
			plain(text.String()[from:i])
			id, _ := tok.ID(name)
			want = append(want, id)
			i += len(name)
			from = i
		}
		plain(text.String()[from:])
		got, err := tok.Encode(text.String(), EncodeOptions{ParseSpecial: true, Content: spans})
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("%q with content %v: %v, %v; want %v", text.String(), spans, got, err, want)
		}
	}
	if found < 1000 || ignored < 1000 {
		t.Errorf("%d control tokens found and %d ignored: this tests too little", found, ignored)
	}
}

// TestContentIsFollowedThroughNormalizers has control tokens that are matched after the text is normalized. Upper case is content.
func TestContentIsFollowedThroughNormalizers(t *testing.T) {
	const file = `{"model":{"type":"BPE","vocab":{"a":0,"x":1,"y":2,"<":3,">":4,"_":5,"\u00e9":6,"e":7,"yy":8,"\u0301":9},"merges":[]},
		"added_tokens":[{"id":10,"content":"<x>","special":true,"normalized":true},{"id":11,"content":"<\u00e9>","special":true,"normalized":true},
			{"id":12,"content":"<yy>","special":true,"normalized":true}],
		"normalizer":{"type":"Sequence","normalizers":[%s]},"decoder":{"type":"Fuse"}}`
	const (
		nfc     = `{"type":"NFC"}`
		prepend = `{"type":"Prepend","prepend":"_"}`
		double  = `{"type":"Replace","pattern":{"String":"z"},"content":"yy"}`
		halve   = `{"type":"Replace","pattern":{"String":"qq"},"content":"x"}`
	)
	for _, c := range []struct {
		steps string
		parts string // separated by |; those that start with ! are content
		want  []int
	}{
		{nfc, "<x>|!<x>|<x>", []int{10, 3, 1, 4, 10}},
		{nfc, "<e\u0301>|!<e\u0301>", []int{11, 3, 6, 4}},
		{nfc, "!e\u0301|<x>|!<x>", []int{6, 10, 3, 1, 4}},
		{nfc, "<e|!\u0301|>a", []int{3, 6, 4, 0}},
		{nfc, "<|!e|\u0301><x>", []int{3, 6, 4, 10}},
		{prepend, "<x>|!<x>|<x>", []int{10, 3, 1, 4, 3, 1, 4}}, // the tokens' own texts are normalized too: "_<x>"
		{prepend, "!<x>|<x>", []int{5, 3, 1, 4, 3, 1, 4}},
		{double, "<z>|!<z>|<z>", []int{12, 3, 2, 2, 4, 12}},
		{double, "!zzz|<x>|!<x>z<z>|<x>", []int{2, 2, 2, 2, 2, 2, 10, 3, 1, 4, 2, 2, 3, 2, 2, 4, 10}},
		{halve, "<qq>|!<qq>|<qq>", []int{10, 3, 1, 4, 10}},
		{halve, "<q|!q|>", []int{3, 1, 4}},
		{halve, "!qqqq|<x>|!<|x>", []int{1, 1, 10, 3, 1, 4}},
		{prepend + "," + double + "," + nfc, "<z>|!e\u0301<z>|<e\u0301>", []int{12, 6, 3, 2, 2, 4, 3, 6, 4}},
	} {
		tok, err := parse([]byte(fmt.Sprintf(file, c.steps)), specialConfig{})
		if err != nil {
			t.Fatal(err)
		}
		var text string
		var spans []Span
		for part := range strings.SplitSeq(c.parts, "|") {
			content, isContent := strings.CutPrefix(part, "!")
			if isContent {
				spans = append(spans, Span{len(text), len(text) + len(content)})
			}
			text += content
		}
		ids, err := tok.Encode(text, EncodeOptions{ParseSpecial: true, Content: spans})
		if got := fmt.Sprint(ids); err != nil || got != fmt.Sprint(c.want) {
			t.Errorf("%s of %q: %v, %v; want %v", c.steps, c.parts, got, err, c.want)
		}
	}
}

func TestManySpansAreLinear(t *testing.T) {
	tok, err := parse([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"_":1},"merges":[]},"decoder":{"type":"Fuse"},
		"added_tokens":[{"id":2,"content":"<x>","special":true,"normalized":true}],
		"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"_"},{"type":"Replace","pattern":{"String":" "},"content":"_"}]}}`),
		specialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("a ", 1<<19)
	var spans []Span
	for i := 0; i+1 < len(text); i += 2 {
		spans = append(spans, Span{i, i + 1})
	}
	ids, err := tok.Encode(text, EncodeOptions{ParseSpecial: true, Content: spans}) // half a million spans: quadratic work would not end
	if err != nil || len(ids) != 1+len(text) {
		t.Errorf("%d tokens, %v", len(ids), err)
	}
}
