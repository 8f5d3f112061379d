package engine

import "math/bits"

// drafter guesses how a sequence goes on: as it did after the last tokens were there before, in its prompt or its output. Of the places where
// they were it takes the one that agrees with them for longest, and of equals the latest. It guesses no more tokens than agree.
//
// Places are found as LZ77 compressors find theirs: by chains of those whose last minMatch tokens have the same hash. The prompt is indexed
// by the caller of Submit, the output by the loop.
type drafter struct {
	head   []int32 // [power of two] by hash: the latest place, a position whose token comes after such tokens; 0: none
	before []int32 // [tokens] by place: the one before it of the same hash; 0: none
	shift  int     // of a 64-bit hash, which leaves an index of head

	minMatch int // tokens
	most     int // of a draft
	reach    int // and at this time: a sequence whose drafts fail gets short ones
	misses   int // drafts, up to the last one, of which no token was right
	resumes  int // length of the sequence from which on there are drafts again

	tokens [MaxDraftTokens]int32 // the draft of the step that is being planned or under way
	// Since the start: tokens of drafts that were computed, and those of them that were right.
	drafted, accepted int
}

const (
	maxCandidates = 32 // places that one look compares
	longMatch     = 32 // tokens that agree; no more are compared
	firstReach    = 4
	maxRest       = 64 // tokens without drafts after drafts that failed
)

// newDrafter makes one for a sequence of these tokens, to which so many may be added.
func newDrafter(o Speculation, tokens []int32, maxNew int) *drafter {
	d := &drafter{minMatch: o.minMatch(), most: o.MaxTokens}
	d.reach = min(firstReach, d.most)
	width := bits.Len(uint(len(tokens) + min(maxNew, 1024)))
	d.head, d.shift = make([]int32, 1<<width), 64-width
	d.before = make([]int32, 0, len(tokens)+min(maxNew, 64))
	d.index(tokens)
	return d
}

// index takes in the places up to the last token: what comes after that is not known.
func (d *drafter) index(tokens []int32) {
	for at := len(d.before); at < len(tokens); at++ {
		if at < d.minMatch {
			d.before = append(d.before, 0)
			continue
		}
		h := d.hash(tokens[:at])
		d.before = append(d.before, d.head[h])
		d.head[h] = int32(at)
	}
}

// hash is of the last minMatch tokens.
func (d *drafter) hash(tokens []int32) int {
	h := uint64(0)
	for _, id := range tokens[len(tokens)-d.minMatch:] {
		h = (h ^ uint64(uint32(id))) * 0x9e3779b97f4a7c15
		h ^= h >> 29
	}
	return int(h * 0x9e3779b97f4a7c15 >> d.shift)
}

// draft writes a guess of up to `most` tokens, and returns how many there are. Behind the end of what is known a guess goes on with its own
// start, as what repeats itself does.
func (d *drafter) draft(tokens []int32, most int) int {
	if most <= 0 || len(tokens) < d.minMatch {
		return 0
	}
	d.index(tokens)
	from, longest := 0, d.minMatch-1
	at := int(d.head[d.hash(tokens)])
	for range maxCandidates {
		if at == 0 {
			break
		}
		if n := agreement(tokens[:at], tokens); n > longest {
			from, longest = at, n
		}
		if longest >= longMatch {
			break
		}
		at = int(d.before[at])
	}
	if from == 0 {
		return 0
	}
	n := min(most, d.reach, longest)
	for i := range n {
		if at := from + i; at < len(tokens) {
			d.tokens[i] = tokens[at]
		} else {
			d.tokens[i] = d.tokens[at-len(tokens)]
		}
	}
	return n
}

// agreement is how many tokens at the ends of both are the same, up to longMatch.
func agreement(a, b []int32) (n int) {
	for n < min(len(a), len(b), longMatch) && a[len(a)-1-n] == b[len(b)-1-n] {
		n++
	}
	return n
}

// judge follows what became of a draft: of so many tokens, `right` were. length is that of the sequence by now. Success makes drafts longer;
// a second miss in a row is the first one to cost a rest, which doubles with each further one.
func (d *drafter) judge(drafted, right, length int) {
	d.drafted += drafted
	d.accepted += right
	switch {
	case right == 0:
		d.misses++
		d.reach = max(1, d.reach/2)
		if d.misses > 1 {
			d.resumes = length + min(1<<min(d.misses, 30), maxRest)
		}
		return
	case right == drafted:
		d.reach = min(d.most, 2*d.reach)
	default:
		d.reach = min(d.most, right+1)
	}
	d.misses = 0
}
