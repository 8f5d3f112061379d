package tokenizer

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// A rewrite is one step of a normalizer: it changes the text of a segment before it is cut into pieces.
type rewrite struct {
	kind rewriteKind
	from string // what replace looks for
	to   string // what is put in its place, or in front
}

type rewriteKind uint8

const (
	composeNFC     rewriteKind = iota // Unicode normalization form C
	replaceAll                        // from → to
	prepend                           // to + text
	prependMissing                    // to + text, unless text starts with to
	prependFirst                      // as prependMissing, in the segment that starts the text only
)

// maxGrowth bounds how many times longer a normalizer may make a text.
const maxGrowth = 64

// checkGrowth refuses a normalizer whose output could be out of proportion to the text.
func checkGrowth(steps []rewrite) error {
	growth := 1
	for _, s := range steps {
		switch s.kind {
		case replaceAll:
			growth *= max(1, (len(s.to)+len(s.from)-1)/len(s.from))
		case prepend, prependMissing, prependFirst:
			growth += len(s.to)
		case composeNFC:
			growth *= 3 // the worst rune of form C
		}
		if growth > maxGrowth {
			return fmt.Errorf("normalizer: makes a text up to %d times longer; the limit is %d", growth, maxGrowth)
		}
	}
	return nil
}

// nfcShrinkage bounds how many times shorter form C makes a text: U+1FBE U+0308 U+0301, seven bytes, become ΐ, two.
const nfcShrinkage = 4

// shrinkage bounds how many times shorter a normalizer may make a text; 0 where it may make nothing of any text.
func shrinkage(steps []rewrite) int {
	n := 1
	for _, s := range steps {
		switch {
		case s.kind == composeNFC:
			n *= nfcShrinkage
		case s.kind == replaceAll && s.to == "":
			return 0
		case s.kind == replaceAll:
			n *= max(1, (len(s.from)+len(s.to)-1)/len(s.to))
		}
	}
	return n
}

// applyRewrites returns the rewritten segment; first tells that the segment starts the text.
func applyRewrites(steps []rewrite, text string, first bool) string {
	for _, s := range steps {
		switch s.kind {
		case composeNFC:
			text = toNFC(text)
		case replaceAll:
			text = strings.ReplaceAll(text, s.from, s.to)
		case prepend:
			if text != "" {
				text = s.to + text
			}
		case prependMissing:
			if text != "" && !strings.HasPrefix(text, s.to) {
				text = s.to + text
			}
		case prependFirst:
			if first && text != "" && !strings.HasPrefix(text, s.to) {
				text = s.to + text
			}
		}
	}
	return text
}

// toNFC returns the normalization form C of text. x/text/unicode/norm applies the Stream-Safe Text Process: it breaks
// a run of more than 30 combining marks by U+034F, which the form itself does not, so longer runs are composed here.
func toNFC(text string) string {
	if isASCII(text) || norm.NFC.IsNormalString(text) {
		return text
	}
	if longestMarkRun(text) <= maxStreamSafe {
		return norm.NFC.String(text)
	}
	return composeLong(text)
}

// maxStreamSafe is a run of marks that norm surely leaves alone: a mark decomposes into at most three.
const maxStreamSafe = 8

func isASCII(text string) bool {
	for i := range len(text) {
		if text[i] >= 0x80 {
			return false
		}
	}
	return true
}

// longestMarkRun returns the length of the longest run of runes that do not start a new composition.
func longestMarkRun(text string) int {
	longest, run := 0, 0
	for _, r := range text {
		if r >= 0x300 && !norm.NFD.PropertiesString(string(r)).BoundaryBefore() {
			run++
			longest = max(longest, run)
		} else {
			run = 0
		}
	}
	return longest
}

// mark is a rune and its canonical combining class.
type mark struct {
	r     rune
	class uint8
}

// composeLong is form C by its definition: decompose, order the marks of each starter by class, compose.
func composeLong(text string) string {
	var marks []mark
	for _, r := range text {
		for _, d := range norm.NFD.String(string(r)) {
			marks = append(marks, mark{d, norm.NFD.PropertiesString(string(d)).CCC()})
		}
	}
	for from := 0; from < len(marks); {
		to := from + 1
		for to < len(marks) && marks[to].class != 0 {
			to++
		}
		start := from
		if marks[from].class == 0 {
			start++
		}
		slices.SortStableFunc(marks[start:to], func(a, b mark) int { return int(a.class) - int(b.class) })
		from = to
	}
	return compose(marks)
}

// compose joins each mark with the last starter unless a mark between them has its class or a higher one.
func compose(marks []mark) string {
	out := marks[:0]
	starter := -1 // index in out
	for _, m := range marks {
		adjacent := starter == len(out)-1
		if starter >= 0 && (adjacent || out[len(out)-1].class < m.class && out[len(out)-1].class != 0) {
			if joined, ok := primaryComposite(out[starter].r, m.r); ok {
				out[starter].r = joined
				continue
			}
		}
		if m.class == 0 {
			starter = len(out)
		}
		out = append(out, m)
	}
	var b strings.Builder
	for _, m := range out {
		b.WriteRune(m.r)
	}
	return b.String()
}

func primaryComposite(a, b rune) (rune, bool) {
	joined := []rune(norm.NFC.String(string([]rune{a, b})))
	if len(joined) != 1 {
		return 0, false
	}
	return joined[0], true
}
