package tokenizer

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

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
	if isInert(text) || norm.NFC.IsNormalString(text) {
		return text
	}
	if longestMarkRun(text) <= maxStreamSafe {
		return norm.NFC.String(text)
	}
	return composeLong(text)
}

// maxStreamSafe is a run of marks that norm surely leaves alone: a mark decomposes into at most three.
const maxStreamSafe = 8

// isInert says that form C leaves all runes of a text alone, whatever stands beside them, as it does nearly all of a usual one.
func isInert(text string) bool {
	for i := 0; i < len(text); {
		if text[i] < utf8.RuneSelf {
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(text[i:])
		switch {
		case r < numTabled && !tabledInert[r]:
			return false
		case r < numTabled, isIdeograph(r), r >= 0x1f000 && r <= 0x1faff:
		default:
			return false
		}
		i += n
	}
	return true
}

// tabledInert tells of the first runes which are in form C beside any other: they neither decompose nor join what comes before them.
var tabledInert = func() (t [numTabled]bool) {
	var utf [utf8.UTFMax]byte
	for r := range t {
		n := utf8.EncodeRune(utf[:], rune(r))
		p := norm.NFC.Properties(utf[:n])
		t[r] = p.CCC() == 0 && p.BoundaryBefore() && norm.NFC.IsNormal(utf[:n])
	}
	return t
}()

// longestMarkRun returns the length of the longest run of runes that do not start a new composition.
func longestMarkRun(text string) int {
	longest, run := 0, 0
	for i, r := range text {
		if r >= 0x300 && !norm.NFD.PropertiesString(text[i:]).BoundaryBefore() {
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

// Hangul syllables.
const (
	firstHangul = 0xac00
	lastHangul  = 0xd7a3
)

// composeLong is form C by its definition: decompose, order the marks of each starter by class, compose.
func composeLong(text string) string {
	marks := make([]mark, 0, len(text)/2)
	for i, r := range text {
		properties := norm.NFD.PropertiesString(text[i:])
		switch parts := properties.Decomposition(); {
		case r >= firstHangul && r <= lastHangul: // whose decompositions are computed, and in no table
			for _, d := range norm.NFD.String(string(r)) {
				marks = append(marks, mark{d, 0})
			}
		case parts == nil:
			marks = append(marks, mark{r, properties.CCC()})
		default:
			for j := 0; j < len(parts); {
				d, n := utf8.DecodeRune(parts[j:])
				marks = append(marks, mark{d, norm.NFD.Properties(parts[j:]).CCC()})
				j += n
			}
		}
	}
	var spare []mark
	for from := 0; from < len(marks); {
		to := from + 1
		for to < len(marks) && marks[to].class != 0 {
			to++
		}
		start := from
		if marks[from].class == 0 {
			start++
		}
		spare = sortByClass(marks[start:to], spare)
		from = to
	}
	return compose(marks)
}

// sortByClass sorts a run of marks by class, those of one class in their order, in a time that is linear in the run.
func sortByClass(run, spare []mark) []mark {
	if len(run) < 64 {
		slices.SortStableFunc(run, func(a, b mark) int { return int(a.class) - int(b.class) })
		return spare
	}
	var starts [257]int
	for _, m := range run {
		starts[int(m.class)+1]++
	}
	for class := range 256 {
		starts[class+1] += starts[class]
	}
	spare = append(spare[:0], run...)
	for _, m := range spare {
		run[starts[m.class]] = m
		starts[m.class]++
	}
	return spare
}

// compose joins each mark with the last starter unless a mark between them has its class or a higher one.
func compose(marks []mark) string {
	out := marks[:0]
	starter := -1 // index in out
	var pair pairComposer
	for _, m := range marks {
		adjacent := starter == len(out)-1
		if starter >= 0 && (adjacent || out[len(out)-1].class < m.class && out[len(out)-1].class != 0) {
			if joined, ok := pair.compose(out[starter].r, m.r); ok {
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

// pairComposer composes pairs of runes, in memory of its own.
type pairComposer struct{ pair, joined [2 * utf8.UTFMax]byte }

func (c *pairComposer) compose(a, b rune) (rune, bool) {
	n := utf8.EncodeRune(c.pair[:], a)
	second := c.pair[n : n+utf8.EncodeRune(c.pair[n:], b)]
	if norm.NFC.Properties(second).BoundaryBefore() {
		return 0, false
	}
	joined := norm.NFC.Append(c.joined[:0], c.pair[:n+len(second)]...)
	r, size := utf8.DecodeRune(joined)
	return r, size == len(joined)
}
