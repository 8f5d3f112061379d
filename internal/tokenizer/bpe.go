package tokenizer

import (
	"slices"
	"sync/atomic"
	"unicode/utf8"
)

// bpe is the byte-pair model: it starts from the symbols of a piece (bytes, or runes with bytes as the fallback) and
// joins the adjacent pair of lowest rank, the leftmost among equals, until no pair has a merge.
//
// Read-only after load, but for whole's verdicts, which are atomic and idempotent.
type bpe struct {
	byteSymbols bool             // symbols are bytes; else runes
	symbols     [256]int32       // token of each byte (byteSymbols) or ASCII rune; noToken where there is none
	runes       map[rune]int32   // tokens of the other runes
	fallback    [256]int32       // tokens of bytes, for runes that have none; noToken where there is none
	unknown     int32            // token of what has no other; noToken: it is dropped
	fuseUnknown bool             // one unknown token for a run of them
	merges      mergeTable       //
	soonest     []uint32         // [v] the lowest rank of a merge that has a token as its part; noRank for none
	words       map[string]int32 // the text of every mergeable token
	longestWord int              // bytes
	wholeWords  bool             // a piece that is a word is that token, whatever the merges say
	whole       []atomic.Uint32  // [v] whether a word encodes to its own token alone: untried, yes or no
}

// Verdicts of bpe.whole.
const (
	wholeUntried = iota
	wholeYes
	wholeNo
)

// scratch is the state and the memory of one Encode call; the memory is reused between calls.
type scratch struct {
	most     int  // length of the result from which on it is of no use; 0 for none
	exceeded bool // the result is longer than that, or would be

	work int // pairs looked at, for tests

	ids   []int32 // symbols of the piece in hand
	pairs []merge // [len(ids)−1] the merge of each symbol with its right neighbour

	// Of a window of a long piece.
	symbols []symbol   // [the window's ids]
	queue   rankQueue  // merges that are possible
	pass    []int32    // the left symbols of those of one rank
	done    int        // how many of pass are done
	early   candidates // merges that go before what is left of the pass
	changed []int32    // symbols that were joined in the pass and cannot be again in it
	tokens  []placed   // of the window from where the result has got to
	next    []placed   // of the window after it
}

// limit begins a call whose result starts at from and has a use with up to tokens further ids only; 0 for any number.
func (w *scratch) limit(from, tokens int) {
	w.most, w.exceeded, w.work = 0, false, 0
	if tokens > 0 {
		w.most = from + tokens
	}
}

// exceeds notes that the result gets to at least n ids, and reports whether that, or what was noted before, is too much.
func (w *scratch) exceeds(n int) bool {
	w.exceeded = w.exceeded || w.most > 0 && n > w.most
	return w.exceeded
}

// shortPiece is the largest number of symbols for which scanning every pair is as fast as passes by rank.
const shortPiece = 64

// useMerges sets the merges, of tokens 0 to size−1.
func (m *bpe) useMerges(t mergeTable, size int) {
	m.merges, m.soonest = t, slices.Repeat([]uint32{noRank}, size)
	for _, s := range t.slots {
		if s.pair == emptySlot {
			continue
		}
		for _, part := range []uint32{uint32(s.pair >> 32), uint32(s.pair)} {
			m.soonest[part] = min(m.soonest[part], s.merge.rank)
		}
	}
}

// appendEncode appends the tokens of one piece.
func (m *bpe) appendEncode(dst []int32, piece string, w *scratch) []int32 {
	if len(piece) > m.longestWord {
		return m.appendMerged(dst, piece, w)
	}
	id, ok := m.words[piece]
	if !ok {
		return m.appendMerged(dst, piece, w)
	}
	if m.wholeWords {
		return append(dst, id)
	}
	switch m.whole[id].Load() {
	case wholeYes:
		return append(dst, id)
	case wholeNo:
		return m.appendMerged(dst, piece, w)
	}
	from := len(dst)
	dst = m.appendMerged(dst, piece, w)
	verdict := uint32(wholeNo)
	if len(dst) == from+1 && dst[from] == id {
		verdict = wholeYes
	}
	m.whole[id].Store(verdict)
	return dst
}

func (m *bpe) appendMerged(dst []int32, piece string, w *scratch) []int32 {
	if m.byteSymbols {
		m.splitBytes(piece, w)
	} else {
		m.splitRunes(piece, w)
	}
	if len(w.ids) <= shortPiece {
		m.mergeShort(w)
		return append(dst, w.ids...)
	}
	return m.mergeLong(dst, w)
}

func (m *bpe) splitBytes(piece string, w *scratch) {
	w.ids = slices.Grow(w.ids[:0], len(piece))
	inUnknown := false
	for i := range len(piece) {
		id := m.symbols[piece[i]]
		if id != noToken {
			w.ids = append(w.ids, id)
			inUnknown = false
			continue
		}
		w.ids, inUnknown = m.appendUnknown(w.ids, inUnknown)
	}
}

func (m *bpe) splitRunes(piece string, w *scratch) {
	w.ids = slices.Grow(w.ids[:0], utf8.RuneCountInString(piece))
	inUnknown := false
	for i := 0; i < len(piece); {
		r, n := utf8.DecodeRuneInString(piece[i:])
		char := piece[i : i+n]
		i += n
		if id := m.symbolOf(r); id != noToken {
			w.ids = append(w.ids, id)
			inUnknown = false
			continue
		}
		if ids, ok := m.appendBytes(w.ids, char); ok {
			w.ids = ids
			inUnknown = false
			continue
		}
		w.ids, inUnknown = m.appendUnknown(w.ids, inUnknown)
	}
}

func (m *bpe) symbolOf(r rune) int32 {
	if r < utf8.RuneSelf {
		return m.symbols[r]
	}
	if id, ok := m.runes[r]; ok {
		return id
	}
	return noToken
}

// appendBytes appends the byte tokens of a rune, if each of its bytes has one.
func (m *bpe) appendBytes(ids []int32, char string) ([]int32, bool) {
	for i := range len(char) {
		if m.fallback[char[i]] == noToken {
			return ids, false
		}
	}
	for i := range len(char) {
		ids = append(ids, m.fallback[char[i]])
	}
	return ids, true
}

func (m *bpe) appendUnknown(ids []int32, inUnknown bool) ([]int32, bool) {
	if m.unknown == noToken {
		return ids, false
	}
	if inUnknown && m.fuseUnknown {
		return ids, true
	}
	return append(ids, m.unknown), true
}

// mergeShort merges w.ids in place.
func (m *bpe) mergeShort(w *scratch) {
	ids := w.ids
	w.pairs = w.pairs[:0]
	for i := 1; i < len(ids); i++ {
		w.pairs = append(w.pairs, m.merges.get(ids[i-1], ids[i]))
	}
	pairs := w.pairs
	for {
		w.work += len(pairs)
		best, rank := -1, noRank
		for i := range pairs {
			if pairs[i].rank < rank {
				best, rank = i, pairs[i].rank
			}
		}
		if best < 0 {
			break
		}
		ids[best] = pairs[best].id
		ids = append(ids[:best+1], ids[best+2:]...)
		pairs = append(pairs[:best], pairs[best+1:]...)
		if best > 0 {
			pairs[best-1] = m.merges.get(ids[best-1], ids[best])
		}
		if best < len(pairs) {
			pairs[best] = m.merges.get(ids[best], ids[best+1])
		}
	}
	w.ids, w.pairs = ids, pairs
}
