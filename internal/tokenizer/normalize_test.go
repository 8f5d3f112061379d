package tokenizer

import (
	"cmp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

// composable runes: bases, marks of several classes, composed forms, jamo, composition exclusions.
var composable = []rune(
	"aeoAE\u0301\u0300\u0323\u0327\u0308\u0345\u0344éǘạ가각\u1100\u1161\u11a8\u0958\u093c\u0915가\u212bx 1",
)

func TestComposeLongIsFormC(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// short enough for norm to insert nothing
		text := string(rapid.SliceOfN(rapid.SampledFrom(composable), 0, 12).Draw(t, "text"))
		want := norm.NFC.String(text)
		if got := composeLong(text); got != want {
			t.Fatalf("%+q\n got %+q\nwant %+q", text, got, want)
		}
		if got := toNFC(text); got != want {
			t.Fatalf("toNFC(%+q) = %+q, want %+q", text, got, want)
		}
	})
}

func TestLongRunsOfMarksStayTogether(t *testing.T) {
	acute, below := strings.Repeat("\u0301", 100), strings.Repeat("\u0323", 50)
	got := toNFC("xe" + acute + below)
	if want := "xẹ" + below[len("\u0323"):] + acute; got != want {
		t.Errorf("got %+q\nwant %+q", got, want)
	}
}

// Beyond 30 marks norm itself breaks a run, so that the order is compared with that of a stable sort.
func TestMarksOfALongRunAreOrderedByClass(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		run := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) mark {
			return mark{rapid.RuneFrom(composable).Draw(t, "rune"), rapid.Uint8().Draw(t, "class")}
		}), 0, 300).Draw(t, "run")
		want := slices.Clone(run)
		slices.SortStableFunc(want, func(a, b mark) int { return cmp.Compare(a.class, b.class) })
		if sortByClass(run, nil); !slices.Equal(run, want) {
			t.Fatalf("got %v\nwant %v", run, want)
		}
	})
}

// What form C may change of a text are runes that are not in form C by themselves, and the later runes of what those that are decompose into.
func TestInertRunesAreInFormCBesideAnyOther(t *testing.T) {
	later := map[rune]bool{}
	for r := range rune(0x110000) {
		if norm.NFC.String(string(r)) != string(r) {
			continue // never composed
		}
		for i, part := range []rune(norm.NFD.String(string(r))) {
			later[part] = later[part] || i > 0
		}
	}
	inert := 0
	for r := range rune(0x110000) {
		text := string(r)
		if r >= 0xd800 && r <= 0xdfff || !isInert(text) {
			continue
		}
		inert++
		if norm.NFC.String(text) != text || later[r] {
			t.Errorf("%+q is inert, and form C may change it", text)
		}
		for _, base := range "aé가\u1100\u0915" {
			if pair := norm.NFC.String(string(base)) + text; norm.NFC.String(pair) != pair {
				t.Errorf("%+q is inert, and form C changes it behind %+q", text, base)
			}
		}
	}
	if inert < 40_000 {
		t.Errorf("%d runes are inert, want those of Chinese, Hangul and most alphabets", inert)
	}
}

func TestGrowthIsBounded(t *testing.T) {
	double := rewrite{kind: replaceAll, from: "a", to: "aa"}
	if err := checkGrowth([]rewrite{double, double}); err != nil {
		t.Error(err)
	}
	var many []rewrite
	for range 40 {
		many = append(many, double)
	}
	if checkGrowth(many) == nil {
		t.Error("a normalizer that makes 2⁴⁰ bytes of one is accepted")
	}
}
