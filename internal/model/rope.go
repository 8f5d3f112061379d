package model

import "math"

// Frequencies is the angle that each pair of a head of dimension k turns a position, float32 [k/2], and the factor that cosines and sines
// are multiplied by. All kinds are computed in float64 and rounded once.
//
// Unscaled: f[i] = θ^(−2i/k), from RoFormer, arXiv:2104.09864 §3.2.2.
func (r *Rope) Frequencies(k int) (freq []float32, scale float32) {
	freq = make([]float32, k/2)
	stretch, scale := r.stretch(k)
	for i := range freq {
		freq[i] = float32(stretch(i, math.Pow(r.Theta, -2*float64(i)/float64(k))))
	}
	return freq, scale
}

// stretch is the function from the unscaled frequency of pair i to the one in use.
func (r *Rope) stretch(k int) (f func(i int, freq float64) float64, scale float32) {
	switch r.Kind {
	case RopeLinear:
		return func(_ int, freq float64) float64 { return freq / r.Factor }, 1
	case RopeLlama3:
		return r.llama3, 1
	case RopeYarn:
		return r.yarn(k), float32(r.AttentionFactor)
	case RopeDivided:
		return func(i int, freq float64) float64 { return freq / float64(r.Divisors[i]) }, 1
	default:
		return func(_ int, freq float64) float64 { return freq }, 1
	}
}

// llama3 keeps wavelengths up to C/high, divides those from C/low on by the factor, and between them mixes both by
// s = (C/wavelength − low) / (high − low), for original context C: the rule published with Llama 3.1 (llama-models,
// models/llama3/reference_impl/model.py, apply_scaling).
func (r *Rope) llama3(_ int, freq float64) float64 {
	rotations := float64(r.OriginalContext) * freq / (2 * math.Pi) // C/wavelength
	s := (rotations - r.LowFreqFactor) / (r.HighFreqFactor - r.LowFreqFactor)
	s = min(max(s, 0), 1)
	return (1-s)*freq/r.Factor + s*freq
}

// yarn is "NTK-by-parts" of YaRN, arXiv:2309.00071 §3.2: pairs that turn more than BetaFast times within the original context stay, those
// that turn less than BetaSlow times are divided by the factor, and between the two pair indices a linear ramp mixes. The pair that turns
// β times has index k·ln(C/(2πβ)) / (2·ln θ), which the published code rounds outwards where Truncate is set and clamps to [0, k−1].
func (r *Rope) yarn(k int) func(i int, freq float64) float64 {
	index := func(rotations float64) float64 {
		return float64(k) * math.Log(float64(r.OriginalContext)/(2*math.Pi*rotations)) / (2 * math.Log(r.Theta))
	}
	low, high := index(r.BetaFast), index(r.BetaSlow)
	if r.Truncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, float64(k-1))
	if low == high {
		high += 0.001 // a step instead of a division by 0, as in the published code
	}
	return func(i int, freq float64) float64 {
		ramp := min(max((float64(i)-low)/(high-low), 0), 1)
		return ramp*freq/r.Factor + (1-ramp)*freq
	}
}

// yarnScale is YaRN's attention factor 0.1·m·ln(s) + 1 for stretching by s, arXiv:2309.00071 §3.3; m is 1 in the paper.
func yarnScale(s, m float64) float64 {
	if s <= 1 {
		return 1
	}
	return 0.1*m*math.Log(s) + 1
}
