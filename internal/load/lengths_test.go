package load

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

func TestLengthsFollowTheirDistribution(t *testing.T) {
	var l Lengths
	if err := l.UnmarshalText([]byte("lognormal:mean=200,stddev=150,max=100000")); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(3, 4))
	const n = 200_000
	var sum, squares float64
	var all []int
	for range n {
		v := l.draw(random)
		all = append(all, v)
		sum += float64(v)
		squares += float64(v) * float64(v)
	}
	mean := sum / n
	if deviation := math.Sqrt(squares/n - mean*mean); math.Abs(mean-200) > 3 || math.Abs(deviation-150) > 6 {
		t.Errorf("mean %.1f, deviation %.1f, want 200 and 150", mean, deviation)
	}
	slices.Sort(all)
	if median := all[n/2]; median < 158 || median > 162 { // 200 / √(1 + (150/200)²) = 160
		t.Errorf("median %d, want 160", median)
	}
	if err := l.UnmarshalText([]byte("lognormal:mean=200,stddev=500,min=100,max=300")); err != nil {
		t.Fatal(err)
	}
	seen := map[int]int{}
	for range 1000 {
		seen[l.draw(random)]++
	}
	if seen[100] < 300 || seen[300] < 30 {
		t.Errorf("%d at the lower end, %d at the upper, want what lies beyond them", seen[100], seen[300])
	}
	for v := range seen {
		if v < 100 || v > 300 {
			t.Errorf("drew %d, want 100 to 300", v)
		}
	}
	if err := l.UnmarshalText([]byte("128")); err != nil || l != Fixed(128) || l.draw(random) != 128 {
		t.Errorf("128: %+v %v", l, err)
	}
}

func TestBadLengthsAreNamed(t *testing.T) {
	for text, says := range map[string]string{
		"":                                       `"" is neither a number of tokens nor lognormal:`,
		"0":                                      "0 tokens, want 1 to 16777216",
		"-1":                                     "-1 tokens",
		"1e3":                                    `"1e3" is neither`,
		"normal:1":                               `distribution "normal", want lognormal`,
		"lognormal:mean=0.5,stddev=1,max=4":      "mean 0.5 and stddev 1, want at least 1",
		"lognormal:mean=5,max=4":                 "mean 5 and stddev 0",
		"lognormal:mean=5,stddev=NaN,max=4":      `stddev: "NaN"`,
		"lognormal:mean=5,stddev=Inf,max=4":      `stddev: "Inf"`,
		"lognormal:mean=5,stddev=1":              "max is missing",
		"lognormal:mean=5,stddev=1,max=4,min=5":  "min 5 is more than max 4",
		"lognormal:mean=5,stddev=1,max=0":        "max: 0 tokens",
		"lognormal:mean=5,stddev=1,max=9,mean=6": "mean is given twice",
		"lognormal:mean=5,stddev=1,max=9,median=6": `"median=6", want mean=`,
		"lognormal:": `"", want mean=`,
	} {
		var l Lengths
		if err := l.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
	for text, says := range map[string]string{
		"":                            "EOF",
		"[]":                          "cannot unmarshal array",
		"{}":                          "no requests",
		`{"requests":[[1]]}`:          "requests[0] is [1], want [prompt, output]",
		`{"requests":[[1,2],[0,3]]}`:  "requests[1] is [0 3]",
		`{"requests":[[1,99999999]]}`: "requests[0]",
		`{"requests":[[1,2,3]]}`:      "requests[0]",
		`{"requests":[[1,2.5]]}`:      "cannot unmarshal number 2.5",
	} {
		if _, err := readSizes(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
	if _, err := ReadSizes("testdata/absent.json"); err == nil {
		t.Error("a file that is not there was read")
	}
}

func TestSizesOfAFileComeInOrder(t *testing.T) {
	sizes, err := ReadSizes("testdata/sizes.json")
	if err != nil {
		t.Fatal(err)
	}
	m := newMaker(Workload{Sizes: sizes, Seed: 1}, &infernov1.Model{Name: "m", VocabularySize: 50, MaxContext: 4096})
	for n := range int64(2 * len(sizes)) {
		r := m.make(100+n, n)
		want := sizes[n%int64(len(sizes))]
		if r.size != want || len(r.message.GetTokenIds().GetIds()) != want.Prompt || int(r.message.GetStopping().GetMaxTokens()) != want.Output {
			t.Errorf("request %d: %+v, want %+v", n, r.size, want)
		}
	}
	for _, id := range m.make(0, 0).message.GetTokenIds().GetIds() {
		if id >= 50 {
			t.Errorf("id %d is beyond the vocabulary", id)
		}
	}
	err = (&Workload{Sizes: sizes, PrefixTokens: 4000, Prefixes: 1}).fits(m.model)
	if err == nil || !strings.Contains(err.Error(), "requests[0] has up to") || !strings.Contains(err.Error(), "model m takes 4096") {
		t.Errorf("sizes beyond the context: %v", err)
	}
}

func TestRequestsShareTheirPrefixAlone(t *testing.T) {
	w := Workload{Prompt: Fixed(20), Output: Fixed(5), PrefixTokens: 30, Prefixes: 3, Seed: 9, Cancel: Cancel{.25, CancelTime{Random: true}}}
	m := newMaker(w, &infernov1.Model{VocabularySize: 1 << 30, MaxContext: 4096})
	heads, tails, cancels := map[uint32]int{}, map[uint32]int{}, map[int]int{}
	const n = 3000
	for i := range int64(n) {
		r := m.make(i, i)
		ids := r.message.GetTokenIds().GetIds()
		if r.size != (Size{50, 5}) || len(ids) != 50 {
			t.Fatalf("size %+v, %d ids", r.size, len(ids))
		}
		heads[ids[29]]++
		tails[ids[30]]++
		if r.cancel != nil {
			cancels[r.cancel.Tokens]++
		}
	}
	if len(heads) != 3 || len(tails) < n-1 {
		t.Errorf("%d prefixes and %d tails, want 3 and one for each request", len(heads), len(tails))
	}
	total := 0
	for tokens, times := range cancels {
		if total += times; tokens < 0 || tokens > 4 || times < n/4/5/2 {
			t.Errorf("%d of %d are cancelled after %d tokens", times, n, tokens)
		}
	}
	if total < n/5 || total > n*3/10 {
		t.Errorf("%d of %d are cancelled, want a quarter", total, n)
	}
	again := newMaker(w, m.model)
	if a, b := m.make(77, 0).message.String(), again.make(77, 5).message.String(); a != b {
		t.Error("the same request differs between runs")
	}
}

func TestCancelTimes(t *testing.T) {
	for text, want := range map[string]CancelTime{"random": {Random: true}, "0": {}, "12": {Tokens: 12}, "50ms": {Time: 50 * time.Millisecond}} {
		var c CancelTime
		if err := c.UnmarshalText([]byte(text)); err != nil || c != want {
			t.Errorf("%s: %+v %v, want %+v", text, c, err, want)
		}
	}
	for _, text := range []string{"", "-1", "-1ms", "0s", "soon"} {
		if err := new(CancelTime).UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), "want random") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestFaultsOfAWorkloadAreAllNamed(t *testing.T) {
	err := (&Workload{PrefixTokens: 3, Cancel: Cancel{Share: 1.5}, Deadline: -1}).Validate()
	for _, says := range []string{
		"prefixes: 0 of 3 tokens", "share of cancelled requests: 1.5, want 0 to 1", "deadline: -1ns", "prompt and output tokens: 0 and 0",
	} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v lacks %q", err, says)
		}
	}
	for _, c := range []struct {
		p    Point
		says string
	}{
		{Point{Requests: 1}, "neither a concurrency nor a rate"},
		{Point{Concurrency: 1, Rate: 1, Requests: 1}, "both a concurrency and a rate"},
		{Point{Concurrency: -1, Requests: 1}, "concurrency: -1, want 1 to 65536"},
		{Point{Rate: math.NaN(), Requests: 1}, "rate: NaN"},
		{Point{Rate: 2e6, Requests: 1}, "rate: 2e+06"},
		{Point{Rate: 1}, "want one of duration and requests"},
		{Point{Rate: 1, Requests: 1, Duration: 1}, "want one of duration and requests"},
	} {
		if err := c.p.Validate(); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v, want %q", c.p, err, c.says)
		}
	}
}
