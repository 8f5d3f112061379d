package devicetest

import (
	"math"
	"slices"

	"github.com/inferno-serve/inferno/internal/device"
)

// judgeFrequencies checks the choices themselves, not the formula of the noise: for each sampler, alone and with others, each token comes up
// over many positions as often as its probability says.
func judgeFrequencies(r *rig) {
	logits := []float32{0, 1, 2, -1, 0.5, 1.5, -0.5, 0.25}
	none := device.Adjustment{Repetition: 1}
	tokens := []int32{2, 2, 5, 1, 2, 3} // where an adjustment looks at them; the first two are the prompt
	for _, c := range []struct {
		name   string
		params device.SampleParams
		adjust *adjustment
		kept   int // tokens that may be chosen
	}{
		{"temperature 1", device.SampleParams{Temperature: 1, TopP: 1}, nil, 8},
		{"temperature 0.5", device.SampleParams{Temperature: 0.5, TopP: 1}, nil, 8},
		{"temperature 3", device.SampleParams{Temperature: 3, TopP: 1}, nil, 8},
		{"top_k", device.SampleParams{Temperature: 1, TopP: 1, TopK: 3}, nil, 3},
		{"top_p", device.SampleParams{Temperature: 1, TopP: 0.8}, nil, 4},
		{"min_p", device.SampleParams{Temperature: 1, TopP: 1, MinP: 0.2}, nil, 4},
		{"typical_p", device.SampleParams{Temperature: 1, TopP: 1, TypicalP: 0.5}, nil, 3},
		{"typical_p without the likeliest", device.SampleParams{Temperature: 1, TopP: 1, TypicalP: 0.2}, nil, 1},
		{"all cuts", device.SampleParams{Temperature: 1.5, TopK: 7, TypicalP: 0.9, TopP: 0.9, MinP: 0.3}, nil, 5},
		{"repetition", device.SampleParams{Temperature: 1, TopP: 1},
			&adjustment{Adjustment: device.Adjustment{Repetition: 1.8, Prompt: 2}, tokens: tokens}, 8},
		{"repetition of the last two", device.SampleParams{Temperature: 1, TopP: 1},
			&adjustment{Adjustment: device.Adjustment{Repetition: 1.8, Window: 2, Prompt: 2}, tokens: tokens}, 8},
		{"presence", device.SampleParams{Temperature: 1, TopP: 1},
			&adjustment{Adjustment: device.Adjustment{Repetition: 1, Presence: 1.2, Prompt: 2}, tokens: tokens}, 8},
		{"frequency", device.SampleParams{Temperature: 1, TopP: 1},
			&adjustment{Adjustment: device.Adjustment{Repetition: 1, Frequency: 0.7, Prompt: 0}, tokens: tokens}, 8},
		{"bias", device.SampleParams{Temperature: 1, TopP: 1},
			&adjustment{Adjustment: none, biased: []int32{3, 2}, values: []float32{2, -3}}, 8},
		{"mask", device.SampleParams{Temperature: 1, TopP: 1}, &adjustment{Adjustment: none, masked: []int32{0, 3, 7}}, 3},
		{"mask before top_k", device.SampleParams{Temperature: 1, TopP: 1, TopK: 2}, &adjustment{Adjustment: none, masked: []int32{0, 3, 7}}, 2},
		{"penalties before temperature and cuts", device.SampleParams{Temperature: 0.8, TopP: 0.8, TopK: 5},
			&adjustment{
				Adjustment: device.Adjustment{Repetition: 1.3, Presence: 0.4, Frequency: 0.3, Prompt: 2},
				tokens:     tokens, biased: []int32{3}, values: []float32{2.5},
			}, 4},
	} {
		r.run(c.name, func(r *rig) {
			r.judgeFrequency(sampleRow{logits: logits, params: c.params, banned: []int32{0}, adjust: c.adjust}, c.kept)
		})
	}
}

// judgeFrequency draws from one row many times. χ² stays below the limit but once in a million.
func (r *rig) judgeFrequency(row sampleRow, kept int) {
	r.Helper()
	const rows = 4000
	all := make([]sampleRow, rows)
	for i := range all {
		all[i] = row
		all[i].params.Seed, all[i].params.Position = 42, uint32(i)
		if row.adjust != nil { // the position counts the tokens: a seed each instead
			all[i].params.Seed, all[i].params.Position = uint64(1000+i), uint32(len(row.adjust.tokens))
		}
	}
	probability := row.probabilities()
	counts, chi, possible := make([]float64, len(row.logits)), 0.0, 0
	for i, id := range r.choose(all, contiguous) {
		if id < 0 || int(id) >= len(counts) || probability[id] == 0 {
			r.Fatalf("draw %d: token %d, whose probabilities are %.3f", i, id, probability)
		}
		counts[id]++
	}
	for id, p := range probability {
		if p > 0 {
			possible++
			chi += (counts[id] - p*rows) * (counts[id] - p*rows) / (p * rows)
		}
	}
	if possible != kept {
		r.Errorf("%d tokens may be chosen, want %d: probabilities %.3f", possible, kept, probability)
	}
	freedom := float64(possible - 1)
	if limit := freedom + 4.75*math.Sqrt(2*freedom) + 15; chi > limit {
		r.Errorf("χ² is %.1f, want at most %.1f: counts %v for probabilities %.3f", chi, limit, counts, probability)
	}
}

// probabilities of a row's tokens after all of its steps.
func (s sampleRow) probabilities() []float64 {
	out := make([]float64, len(s.logits))
	var open []candidate
	banned := s.out()
	for id, l := range s.adjusted() {
		if !slices.Contains(banned, int32(id)) {
			open = append(open, candidate{id: id, logit: float64(l)})
		}
	}
	byLogit(open)
	left := keep(open, s.params, 0)
	weigh(left, s.params.Temperature)
	for _, c := range left {
		out[c.id] = c.p
	}
	return out
}
