package tokenizer

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// naiveMerge is byte-pair encoding by its definition, in quadratic time.
func naiveMerge(m *bpe, ids []int32) []int32 {
	ids = slices.Clone(ids)
	for {
		best, at := merge{rank: noRank}, -1
		for i := 1; i < len(ids); i++ {
			if found := m.merges.get(ids[i-1], ids[i]); found.rank < best.rank {
				best, at = found, i
			}
		}
		if at < 0 {
			return ids
		}
		ids = slices.Replace(ids, at-1, at+1, best.id)
	}
}

func TestShortAndLongPiecesMergeAsDefined(t *testing.T) {
	for _, name := range testdata {
		m := load(t, name).model
		rapid.Check(t, func(t *rapid.T) {
			text := rapid.StringOfN(rapid.RuneFrom([]rune("aaahelotheworld▁▁é日 ")), 1, 120, -1).Draw(t, "text")
			w := &scratch{}
			split := m.splitRunes
			if m.byteSymbols {
				split = m.splitBytes
			}
			split(text, w)
			symbols := slices.Clone(w.ids)
			if len(symbols) == 0 {
				return
			}
			want := naiveMerge(m, symbols)
			if got := m.mergeLong(nil, w); !slices.Equal(got, want) {
				t.Fatalf("long: %q\n got %v\nwant %v", text, got, want)
			}
			size, overlap := windows(t)
			w.ids = symbols
			if got := m.mergeInWindows(nil, w, size, overlap); !slices.Equal(got, want) {
				t.Fatalf("windows of %d, overlap %d: %q\n got %v\nwant %v", size, overlap, text, got, want)
			}
			w.ids = slices.Clone(symbols)
			if m.mergeShort(w); !slices.Equal(w.ids, want) {
				t.Fatalf("short: %q\n got %v\nwant %v", text, w.ids, want)
			}
		})
	}
}

// windows draws the size of windows and of what they repeat: so little that windows with no token in common occur too.
func windows(t *rapid.T) (size, overlap int) {
	size = rapid.IntRange(2, 40).Draw(t, "size")
	return size, rapid.IntRange(1, size-1).Draw(t, "overlap")
}

// Where it ends a window has other tokens than the text, and the next one begins in them: of "abcabc…" in windows that cut an "abc" apart.
func TestWindowsAreJoinedAtATokenTheyHaveInCommon(t *testing.T) {
	m := newBPE(map[string]int32{"a": 0, "b": 1, "c": 2, "bc": 3, "abc": 4}, 6, true)
	merges := newMergeTable(1)
	merges.put(1, 2, merge{rank: 0, id: 3})
	merges.put(0, 3, merge{rank: 1, id: 4})
	m.useMerges(merges, 6)
	w := &scratch{}
	for _, c := range []struct {
		size, overlap, mostWork int // of 3,000 symbols: 2 pairs for each, and a half more again and again, or all of it again
	}{{100, 10, 3000 * 3}, {10, 2, 3000 * 6}} {
		m.splitBytes(strings.Repeat("abc", 1000), w)
		w.limit(0, 0)
		got := m.mergeInWindows(nil, w, c.size, c.overlap)
		if want := slices.Repeat([]int32{4}, 1000); !slices.Equal(got, want) {
			t.Errorf("windows of %d: %d tokens, want %d times %d", c.size, len(got), len(want), want[0])
		}
		if w.work > c.mostWork {
			t.Errorf("windows of %d: %d pairs looked at, want at most %d", c.size, w.work, c.mostWork)
		}
	}
}

// Merges of any order: a token may be made after one that it is a part of, several pairs may have one rank, and a pair may make anything.
func TestMergesOfAnyOrderAreDoneAsDefined(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 12
		m := newBPE(map[string]int32{}, size, true)
		merges := newMergeTable(1)
		for range rapid.IntRange(1, 40).Draw(t, "merges") {
			pair := rapid.Custom(func(t *rapid.T) [2]int32 {
				return [2]int32{rapid.Int32Range(0, size-1).Draw(t, "left"), rapid.Int32Range(0, size-1).Draw(t, "right")}
			}).Draw(t, "pair")
			merges.put(pair[0], pair[1], merge{rank: rapid.Uint32Range(0, 30).Draw(t, "rank"), id: rapid.Int32Range(0, size-1).Draw(t, "id")})
		}
		m.useMerges(merges, size)
		symbols := rapid.SliceOfN(rapid.Int32Range(0, 4), 1, 200).Draw(t, "symbols")
		want := naiveMerge(m, symbols)
		w := &scratch{}
		for range 2 { // the second time with the memory of the first
			w.ids = slices.Clone(symbols)
			if got := m.mergeLong(nil, w); !slices.Equal(got, want) {
				t.Fatalf("long: %v\n got %v\nwant %v", symbols, got, want)
			}
		}
		window, overlap := windows(t)
		w.ids = symbols
		if got := m.mergeInWindows([]int32{-7}, w, window, overlap); got[0] != -7 || !slices.Equal(got[1:], want) {
			t.Fatalf("windows of %d, overlap %d: %v\n got %v\nwant %v", window, overlap, symbols, got, want)
		}
		w.ids = slices.Clone(symbols)
		if m.mergeShort(w); !slices.Equal(w.ids, want) {
			t.Fatalf("short: %v\n got %v\nwant %v", symbols, w.ids, want)
		}
	})
}

// A whole text that is cut at its words must give the tokens of the same text in one piece.
func TestCuttingWordsChangesNothing(t *testing.T) {
	tok := load(t, "sentencepiece.json")
	if len(tok.split) != 1 {
		t.Fatalf("%d splitters, want that of words", len(tok.split))
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOfN(rapid.RuneFrom([]rune("ahelotheworld▁▁▁é日")), 1, 100, -1).Draw(t, "text")
		cut := tok.appendPieces(nil, text, tok.split, &scratch{})
		if whole := tok.model.appendMerged(nil, text, &scratch{}); !slices.Equal(cut, whole) {
			t.Fatalf("%q\n  cut %v\nwhole %v", text, cut, whole)
		}
	})
}

func TestOneLongPiece(t *testing.T) {
	tok := load(t, "sentencepiece.json")
	const n = 1 << 20
	ids, err := tok.Encode(strings.Repeat("a", n), EncodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if id, _ := tok.ID("aaaaaaaa"); len(ids) != 1+n/8 || ids[1] != id {
		t.Errorf("%d tokens, the second is %d; want %d, and %d", len(ids), ids[1], 1+n/8, id)
	}
}

func TestUnknownSymbols(t *testing.T) {
	words := map[string]int32{"?": 0, "a": 1, "b": 2, "ab": 3}
	for _, c := range []struct {
		name    string
		unknown int32
		fuse    bool
		text    string
		want    []int32
	}{
		{"dropped, and the neighbours join", noToken, false, "a日b", []int32{3}},
		{"one each", 0, false, "a日月b", []int32{1, 0, 0, 2}},
		{"fused", 0, true, "日月a日b", []int32{0, 1, 0, 2}},
	} {
		m := newBPE(words, 4, false)
		m.unknown, m.fuseUnknown = c.unknown, c.fuse
		merges := newMergeTable(1)
		merges.put(1, 2, merge{rank: 0, id: 3})
		m.useMerges(merges, 4)
		if got := m.appendEncode(nil, c.text, &scratch{}); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q gives %v, want %v", c.name, c.text, got, c.want)
		}
	}
}

func TestWholeWordsIgnoreMerges(t *testing.T) {
	words := map[string]int32{"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5}
	for _, whole := range []bool{false, true} {
		m := newBPE(words, 6, true)
		m.wholeWords = whole
		merges := newMergeTable(1)
		merges.put(1, 2, merge{rank: 0, id: 4})
		m.useMerges(merges, 6)
		want := []int32{0, 4}
		if whole {
			want = []int32{5}
		}
		for range 2 { // the second time by the verdict of the first
			if got := m.appendEncode(nil, "abc", &scratch{}); !slices.Equal(got, want) {
				t.Errorf("whole words %t: %v, want %v", whole, got, want)
			}
		}
	}
}

func TestMergeTableGrows(t *testing.T) {
	table := newMergeTable(1)
	const n = 1000
	for i := range int32(n) {
		table.put(i, n-i, merge{rank: uint32(i), id: i})
	}
	for i := range int32(n) {
		if got := table.get(i, n-i); got.id != i {
			t.Fatalf("get(%d, %d) = %v", i, n-i, got)
		}
		if got := table.get(n-i, i+n); got.rank != noRank {
			t.Fatalf("get(%d, %d) = %v, want none", n-i, i+n, got)
		}
	}
}
