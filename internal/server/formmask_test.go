package server

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// preparedMask is the mask of a request to the model of the tests, as the engine gets it.
func preparedMask(t *testing.T, f *fixture, request string) engine.Masker {
	t.Helper()
	req := parse(t, withIDs+request, &infernov1.GenerateRequest{})
	req.RequestId = "r"
	g, err := f.prepare(t.Context(), req, startOfTests)
	if err != nil {
		t.Fatal(err)
	}
	return g.request.Mask()
}

func idsOf(mask []uint32) (ids []int32) {
	for id := range int32(32 * len(mask)) {
		if mask[id/32]>>(id%32)&1 == 1 {
			ids = append(ids, id)
		}
	}
	return ids
}

// What may end an output is allowed just where it is complete, and where nothing else may follow there is no token at all.
func TestOutputsOfAFormEndWhereTheyMay(t *testing.T) {
	f := start(t, newScript())
	for _, c := range []struct {
		name, request string
		text          string   // the output so far
		next          []string // what may follow; "" stands for the end token
	}{
		{"begun", `constraint{regex:"ab|b*c"}`, "", []string{"a", "b", "c"}},
		{"on one way", `constraint{regex:"ab|b*c"}`, "b", []string{"b", "c"}},
		{"done", `constraint{regex:"ab|b*c"}`, "ab", nil},
		{"complete, and may go on", `constraint{regex:"ab*"}`, "ab", []string{"", "b"}},
		{"the same, without end tokens", `constraint{regex:"ab*"} stopping{ignore_eos:true}`, "ab", []string{"b"}},
		{"stop tokens beside it", `constraint{regex:"ab*"} stopping{stop_token_ids:[33]}`, "ab", []string{"", "!", "b"}},
		{"stop tokens of its own", `constraint{regex:"ab*c"} stopping{stop_token_ids:[98]}`, "a", []string{"c"}},
		{"a banned string", `constraint{regex:"a[bc]*"} sampling{banned_strings:["bb"]}`, "ab", []string{"", "c"}},
		{"a banned string leaves the end", `constraint{regex:"ab*"} sampling{banned_strings:["bb"]}`, "ab", []string{""}},
		{"a banned string leaves nothing", `constraint{regex:"abb"} sampling{banned_strings:["bb"]}`, "ab", nil},
		{"half a character", `constraint{choice{texts:["é","ê"]}}`, "\xc3", []string{"\xa9", "\xaa"}},
		{"a special token's text", `constraint{choice{texts:["</s>","</t>"]}}`, "</", []string{"s", "t"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := preparedMask(t, f, c.request)
			for _, id := range byteIDs(c.text) {
				m.Mask()
				m.Accept(id)
			}
			var want []int32
			for _, text := range c.next {
				if text == "" {
					want = append(want, eosID)
				} else {
					want = append(want, byteIDs(text)...)
				}
			}
			slices.Sort(want)
			if got := idsOf(m.Mask()); !slices.Equal(got, want) {
				t.Errorf("after %q: %v, want %v", c.text, got, want)
			}
		})
	}
}

// Whatever the masks leave leads to a text that the form, judged by package regexp, and the banned strings allow.
func TestOutputsOfAFormWithBannedStringsHaveBoth(t *testing.T) {
	f := start(t, newScript())
	const pattern = `(ab|ba|[ab]c){1,6}(x|yz)?`
	judge := regexp.MustCompile(`^(?:` + pattern + `)$`)
	whole := 0
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		m := preparedMask(t, f, `constraint{regex:"`+pattern+`"} sampling{banned_strings:["abab","ca","y"]}`).(engine.Former)
		text := ""
		for {
			open := idsOf(m.Mask())
			if len(open) == 0 {
				break
			}
			id := open[rng.IntN(len(open))]
			if m.Accept(id); id == eosID {
				break
			}
			text += string(id)
		}
		if m.Complete() != judge.MatchString(text) || m.Err() != nil {
			t.Errorf("%q: complete is %t (%v)", text, m.Complete(), m.Err())
		}
		for _, banned := range []string{"abab", "ca", "y"} {
			if strings.Contains(text, banned) {
				t.Errorf("%q contains %q", text, banned)
			}
		}
		if m.Complete() {
			whole++
		}
	}
	if whole < 100 {
		t.Errorf("%d of 200 texts are whole", whole)
	}
}

// Who asks for a form again, or at the same time, shares what was compiled; what nobody asked for the longest is let go, and what runs keeps it.
func TestCompiledFormsAreKept(t *testing.T) {
	f := start(t, newScript())
	cache := f.models.(models)[2].Constraints
	ask := func(request string) { preparedMask(t, f, request).Mask() }
	ask(`constraint{regex:"a+"}`)
	first := cache.find(form{"constraint.regex", "a+"})
	ask(`constraint{regex:"a+"} sampling{n:3}`)
	ask(`constraint{grammar:"root ::= \"a\"+"}`)
	if again := cache.find(form{"constraint.regex", "a+"}); first == nil || again != first {
		t.Errorf("asked for again: %p, then %p", first, again)
	}
	if cache.recent.Len() != 2 || len(cache.byForm) != 2 {
		t.Errorf("%d forms of two", cache.recent.Len())
	}
	for i := range maxForms {
		if i < 200 {
			ask(fmt.Sprintf(`constraint{regex:"b{%d}"}`, i+1))
		}
		ask(fmt.Sprintf(`constraint{choice{texts:["%d"]}}`, i))
		if i%100 == 0 {
			ask(`constraint{regex:"a+"}`)
		}
	}
	if cache.recent.Len() > maxForms || len(cache.byForm) != cache.recent.Len() {
		t.Errorf("%d forms, %d by name, want at most %d", cache.recent.Len(), len(cache.byForm), maxForms)
	}
	if cache.find(form{"constraint.regex", "a+"}) != first || cache.find(form{"constraint.regex", "b{20}"}) != nil {
		t.Error("what was asked for often is gone, or what was not is there")
	}
}

// Forms take more with use: who asks for one that is there makes room too.
func TestFormsThatGrowLeaveRoomForNoMore(t *testing.T) {
	f := start(t, newScript())
	cache := f.models.(models)[2].Constraints
	cache.maxBytes = 1 << 20
	const pattern = "[ab]*a[ab]{14}c"
	mask := preparedMask(t, f, `constraint{regex:"`+pattern+`"}`)
	for i := range 10 {
		preparedMask(t, f, fmt.Sprintf(`constraint{regex:"b{%d}"}`, i+1))
	}
	if cache.recent.Len() != 11 {
		t.Fatalf("%d forms of 11", cache.recent.Len())
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 5000 { // each at a place where no text was before
		mask.Accept(int32('a' + rng.IntN(2)))
		mask.Mask()
	}
	b := cache.find(form{"constraint.regex", pattern})
	if b == nil || b.Bytes() < cache.maxBytes || cache.recent.Len() != 1 {
		t.Errorf("%d forms are left beside one of %d bytes, of which all may take %d", cache.recent.Len()-1, b.Bytes(), cache.maxBytes)
	}
}

// A form that the engine could not follow to its end is the request's fault.
func TestFormsThatLeadNowhereAreTold(t *testing.T) {
	err := fmt.Errorf("%w: no token is left", engine.ErrForm)
	f := start(t, play(part{ids: byteIDs("a")}, part{err: err}))
	_, got := f.api.Generate(t.Context(), parse(t, withIDs+`constraint{regex:"ab"}`, &infernov1.GenerateRequest{}))
	if found := faultsOf(wantStatus(t, got, codes.InvalidArgument, "INVALID_FIELD")); !strings.Contains(found["constraint"], "no token is left") {
		t.Errorf("told %q", found)
	}
}

func TestConstraintIsToldAmongTheParameters(t *testing.T) {
	f := start(t, play(part{ids: byteIDs("a"), finish: finished(engine.MaskDone, 'a')}))
	got, err := f.api.Generate(t.Context(), parse(t, withIDs+`constraint{choice{texts:["a","b"]}}`, &infernov1.GenerateRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	if texts := got.GetStart().GetEffective().GetConstraint().GetChoice().GetTexts(); !slices.Equal(texts, []string{"a", "b"}) {
		t.Errorf("told %q", texts)
	}
	if reason := got.GetCompletions()[0].GetFinish().GetReason(); reason != infernov1.FinishReason_FINISH_REASON_CONSTRAINT_DONE {
		t.Errorf("ended with %v", reason)
	}
}
