package devicetest

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/inferno-serve/inferno/internal/device"
)

// sampleRow is one row of a sampling case.
type sampleRow struct {
	logits []float32
	params device.SampleParams
	banned []int32 // more than params.NumBanned: the rest does not hold
	adjust *adjustment
}

// judgeSample compares choices with the reference's. Where two tokens are within rounding of each other, or of a cut, either may be
// chosen; such rows are rare, and a device that needs the excuse in more than one row of fifty does not compute the definition.
func judgeSample(r *rig) {
	for _, vocab := range []int{1, 2, 3, 5, 31, 257, 1000, 32_003, 128_256} {
		rows := 200
		if vocab > 10_000 {
			rows = 12
		}
		if testing.Short() && vocab > 50_000 {
			continue
		}
		r.run(fmt.Sprintf("vocabulary of %d", vocab), func(r *rig) {
			r.judgeRows(r.sampleRows(rows, vocab), contiguous)
		})
	}
	r.run("strided", func(r *rig) { r.judgeRows(r.sampleRows(50, 100), strided) })
	r.run("edges", func(r *rig) { r.judgeRows(edgeRows(), contiguous) })
	r.run("adjusted", judgeAdjustments)
	r.run("frequencies", judgeFrequencies)
	r.run("row alone", judgeSampleAlone)
}

// sampleRows draws rows of all kinds: greedy or not, with each cut or none, ties in every fourth row, bans in every third.
func (r *rig) sampleRows(n, vocab int) []sampleRow {
	rows := make([]sampleRow, n)
	for i := range rows {
		logits := make([]float32, vocab)
		for j := range logits {
			logits[j] = float32(r.rng.NormFloat64() * 4)
			if i%4 == 1 {
				logits[j] = float32(math.Round(r.rng.NormFloat64()*3)) / 2 // ties
			}
			if i%4 == 2 && r.rng.IntN(3) == 0 {
				logits[j] = float32(math.Inf(-1))
			}
		}
		logits[r.rng.IntN(vocab)] = float32(3 + r.rng.Float64()) // one is finite
		rows[i] = sampleRow{logits: logits, params: r.sampleRowParams(), banned: make([]int32, min(vocab, 8))}
		for j := range rows[i].banned {
			rows[i].banned[j] = int32(r.rng.IntN(vocab))
		}
		rows[i].banned[0] = largestID(logits)
		if i%3 == 0 {
			rows[i].params.NumBanned = int32(r.rng.IntN(len(rows[i].banned)))
		}
		if slices.Max(rows[i].allowed()) < -math.MaxFloat32 {
			rows[i].params.NumBanned = 0 // all that is left is −Inf: nothing says what to choose
		}
	}
	return rows
}

func (r *rig) sampleRowParams() device.SampleParams {
	p := device.SampleParams{Seed: r.rng.Uint64(), Position: r.rng.Uint32(), TopP: 1}
	if r.rng.IntN(4) > 0 {
		p.Temperature = []float32{0.1, 0.7, 1, 1.3, 5}[r.rng.IntN(5)]
	}
	if r.rng.IntN(2) == 0 {
		p.TopK = int32([]int{1, 2, 5, 40, 1000}[r.rng.IntN(5)])
	}
	if r.rng.IntN(3) == 0 {
		p.TypicalP = []float32{1e-6, 0.2, 0.5, 0.9, 1}[r.rng.IntN(5)]
	}
	if r.rng.IntN(2) == 0 {
		p.TopP = []float32{1e-6, 0.1, 0.5, 0.9, 0.99}[r.rng.IntN(5)]
	}
	if r.rng.IntN(2) == 0 {
		p.MinP = []float32{0.01, 0.05, 0.3, 1}[r.rng.IntN(4)]
	}
	return p
}

func largestID(logits []float32) int32 {
	best := 0
	for i, l := range logits {
		if l > logits[best] {
			best = i
		}
	}
	return int32(best)
}

// allowed is the logits with −Inf at the ids that are out.
func (s sampleRow) allowed() []float32 {
	out := slices.Clone(s.logits)
	for _, id := range s.out() {
		out[id] = float32(math.Inf(-1))
	}
	return out
}

// edgeRows are the cases that the definition settles by itself.
func edgeRows() []sampleRow {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	greedy := device.SampleParams{TopP: 1}
	random := device.SampleParams{TopP: 1, Temperature: 1, Seed: 7, Position: 3}
	narrow := func(p *device.SampleParams) { p.TopK, p.TopP, p.MinP = 2, 0.5, 0.5 }
	largest := func(p *device.SampleParams) { p.Seed, p.Position = math.MaxUint64, math.MaxUint32 }
	with := func(p device.SampleParams, change func(*device.SampleParams)) device.SampleParams {
		change(&p)
		return p
	}
	ban := func(n int32) func(*device.SampleParams) { return func(p *device.SampleParams) { p.NumBanned = n } }
	none := []int32{1, 1, 1, 1, 1}
	return []sampleRow{
		{[]float32{1, nan, 3, 4, 5}, greedy, none, nil},
		{[]float32{1, nan, 3, 4, 5}, random, none, nil},
		{[]float32{1, inf, 3, 4, 5}, greedy, none, nil},
		{[]float32{1, inf, 3, 4, 5}, random, none, nil},
		{[]float32{1, nan, 3, 4, 5}, with(random, ban(1)), none, nil}, // the row holds it all the same
		{[]float32{1, inf, 3, 4, 5}, with(greedy, ban(5)), none, nil},
		{[]float32{1, 2, 3, 4, nan}, random, none, nil},
		{[]float32{1, 2, 3, 4, 5}, with(greedy, ban(5)), []int32{4, 3, 2, 1, 0}, nil},
		{[]float32{1, 2, 3, 4, 5}, with(random, ban(5)), []int32{4, 3, 2, 1, 0}, nil},
		{[]float32{1, 2, 3, 4, 5}, with(greedy, ban(4)), []int32{4, 3, 4, 3, 2}, nil},
		{[]float32{1, 2, 3, 4, 5}, with(random, ban(4)), []int32{4, 3, 1, 0, 2}, nil},
		{[]float32{5, 5, 5, 5, 5}, greedy, none, nil},
		{[]float32{5, 5, 5, 5, 5}, with(greedy, ban(2)), []int32{0, 1, 2, 3, 4}, nil},
		{[]float32{5, 5, 5, 5, 5}, with(random, func(p *device.SampleParams) { p.TopK = 1 }), none, nil},
		{[]float32{4, 5, 5, 5, 4}, with(random, func(p *device.SampleParams) { p.TopP = 0.5 }), none, nil},
		{[]float32{4, 5, 5, 5, 4}, with(random, func(p *device.SampleParams) { p.TopK, p.TopP = 4, 1e-6 }), none, nil},
		{[]float32{4, 5, 5, 5, 4}, with(random, func(p *device.SampleParams) { p.MinP = 1 }), none, nil},
		{[]float32{-3e38, 3e38, 0, 1, 2}, random, none, nil},
		{[]float32{3e38, 3e38, 3e38, 3e38, 3e38}, greedy, none, nil},
		{[]float32{-1, -2, -3, -4, -5}, with(greedy, narrow), none, nil},
		{[]float32{4, 5, 5, 5, 4}, with(random, func(p *device.SampleParams) { p.TypicalP = 1e-6 }), none, nil},
		{[]float32{9, 0, 0, 0, 0}, with(random, func(p *device.SampleParams) { p.TypicalP, p.TopK = 0.5, 3 }), none, nil},
		{[]float32{1, 2, 3, 4, 5}, with(random, func(p *device.SampleParams) { p.TypicalP, p.NumBanned = 0.5, 4 }), []int32{4, 3, 1, 0, 2}, nil},
		{[]float32{0, -0.5, -1, -1.5, 5}, with(random, largest), none, nil},
	}
}

// choose runs the rows and returns the ids.
func (r *rig) choose(rows []sampleRow, l layout) []int32 {
	r.Helper()
	var params []device.SampleParams
	logits := newMatrix(len(rows), len(rows[0].logits))
	banned := newMatrix(len(rows), len(rows[0].banned))
	for i, row := range rows {
		params = append(params, row.params)
		for j, v := range row.logits {
			logits.row(i)[j] = float64(v)
		}
		for j, v := range row.banned {
			banned.row(i)[j] = float64(v)
		}
	}
	ids := r.output(device.I32, 1, len(rows), contiguous)
	args := device.SampleArgs{Banned: r.input(device.I32, banned, l).Tensor, IDs: ids.Tensor}
	var changed *buffer
	if slices.ContainsFunc(rows, func(row sampleRow) bool { return row.adjust != nil }) {
		r.adjustments(&args, rows, params)
		changed = r.inout(device.F32, logits, l)
		args.Logits = changed.Tensor
	} else {
		args.Logits = r.input(device.F32, logits, l).Tensor
	}
	args.Params = r.sampleParams(params).Tensor
	r.dev.Sample(args)
	r.results()
	if changed != nil {
		r.judgeAdjusted(rows, changed.matrix())
	}
	out := make([]int32, len(rows))
	for i, id := range ids.matrix().v {
		out[i] = int32(id)
	}
	return out
}

func (r *rig) judgeRows(rows []sampleRow, l layout) {
	r.Helper()
	excused := 0
	for i, got := range r.choose(rows, l) {
		row := rows[i]
		want := sample(row.adjusted(), row.params, row.out(), 0)
		if got == want.id {
			continue
		}
		if !row.mayChoose(got) {
			r.Errorf("row %d: chose %d, want %d (%+v, %d banned)", i, got, want.id, row.params, row.params.NumBanned)
		}
		excused++
	}
	if excused > 1+len(rows)/50 {
		r.Errorf("%d of %d choices are within rounding of the right one, and not it", excused, len(rows))
	}
}

// mayChoose says whether rounding can explain the choice.
func (s sampleRow) mayChoose(id int32) bool {
	for _, edge := range []float64{-1e-5, 0, 1e-5} {
		if slices.Contains(sample(s.adjusted(), s.params, s.out(), edge).near, id) {
			return true
		}
	}
	return false
}

// judgeSampleAlone checks that a row's choice does not depend on the others, and that no list of bans is the empty one.
func judgeSampleAlone(r *rig) {
	rows := r.sampleRows(20, 300)
	for i := range rows {
		rows[i].params.NumBanned = 0
	}
	together := r.choose(rows, contiguous)
	for i, row := range rows {
		logits := newMatrix(1, len(row.logits))
		for j, v := range row.logits {
			logits.v[j] = float64(v)
		}
		id := r.output(device.I32, 1, 1, contiguous)
		r.dev.Sample(device.SampleArgs{
			Logits: r.input(device.F32, logits, contiguous).Tensor,
			Params: r.sampleParams([]device.SampleParams{row.params}).Tensor, IDs: id.Tensor,
		})
		r.results()
		if got := int32(id.matrix().v[0]); got != together[i] {
			r.Errorf("row %d: chose %d alone and without bans, %d among others", i, got, together[i])
		}
	}
}
