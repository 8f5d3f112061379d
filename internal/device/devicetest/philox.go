package devicetest

import (
	"cmp"
	"math"
	"slices"

	"github.com/inferno-serve/inferno/internal/device"
)

// philox is Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
func philox(key [2]uint32, counter [4]uint32) [4]uint32 {
	for range 10 {
		a, b := uint64(counter[0])*0xd2511f53, uint64(counter[2])*0xcd9e8d57
		counter = [4]uint32{
			uint32(b>>32) ^ counter[1] ^ key[0], uint32(b),
			uint32(a>>32) ^ counter[3] ^ key[1], uint32(a),
		}
		key[0] += 0x9e3779b9
		key[1] += 0xbb67ae85
	}
	return counter
}

// gumbel is the noise of a token.
func gumbel(seed uint64, position uint32, id int) float64 {
	words := philox([2]uint32{uint32(seed), uint32(seed >> 32)}, [4]uint32{uint32(id / 4), position, 0, 0})
	u := (float64(words[id%4]) + 0.5) * 0x1p-32
	return -math.Log(-math.Log(u))
}

// candidate is a token that may still be chosen.
type candidate struct {
	id    int
	logit float64
	p     float64 // probability among what was kept before
}

// sampled is the reference's choice for one row.
type sampled struct {
	id int32
	// near are the kept tokens whose score is within rounding of the chosen one's.
	near []int32
}

// sample chooses from logits by the definition at inferno_sample_args, in float64. edge moves the cuts of typical_p, top_p and min_p by that
// fraction, to find choices that depend on the rounding of a sum.
func sample(logits []float32, p device.SampleParams, banned []int32, edge float64) sampled {
	for _, l := range logits {
		if l != l || l > math.MaxFloat32 {
			return sampled{id: -1}
		}
	}
	var open []candidate
	for id, l := range logits {
		if !slices.Contains(banned, int32(id)) {
			open = append(open, candidate{id: id, logit: float64(l)})
		}
	}
	if len(open) == 0 {
		return sampled{id: -1}
	}
	byLogit(open)
	if p.Temperature == 0 {
		return sampled{id: int32(open[0].id)}
	}
	return pick(keep(open, p, edge), p)
}

func byLogit(c []candidate) {
	slices.SortFunc(c, func(a, b candidate) int { return cmp.Or(cmp.Compare(b.logit, a.logit), cmp.Compare(a.id, b.id)) })
}

// weigh fills in the probabilities among these candidates.
func weigh(c []candidate, temperature float32) {
	sum, most := 0.0, math.Inf(-1)
	for i := range c {
		most = max(most, c[i].logit)
	}
	for i := range c {
		c[i].p = math.Exp((c[i].logit - most) / float64(temperature))
		sum += c[i].p
	}
	for i := range c {
		c[i].p /= sum
	}
}

// reach is the shortest start of the candidates that reaches a probability.
func reach(c []candidate, p float32, edge float64) []candidate {
	reached, n := 0.0, 0
	for n < len(c) && (n == 0 || reached < float64(p)*(1+edge)) {
		reached += c[n].p
		n++
	}
	return c[:n]
}

// keep is what top_k, typical_p, top_p and min_p leave of the candidates, which are sorted.
func keep(open []candidate, p device.SampleParams, edge float64) []candidate {
	if p.TopK > 0 && int(p.TopK) < len(open) {
		open = open[:p.TopK]
	}
	weigh(open, p.Temperature)
	if p.TypicalP > 0 && p.TypicalP < 1 {
		entropy := 0.0
		for _, c := range open {
			if c.p > 0 {
				entropy -= c.p * math.Log(c.p)
			}
		}
		// −ln p of a token so unlikely that p underflows: from its logit.
		surprise := func(c candidate) float64 {
			return -math.Log(open[0].p) + (open[0].logit-c.logit)/float64(p.Temperature)
		}
		distance := make(map[int]float64, len(open))
		for _, c := range open {
			distance[c.id] = math.Abs(surprise(c) - entropy)
		}
		nearest := slices.Clone(open)
		slices.SortStableFunc(nearest, func(a, b candidate) int { return cmp.Compare(distance[a.id], distance[b.id]) })
		open = reach(nearest, p.TypicalP, edge)
		byLogit(open)
		weigh(open, p.Temperature)
	}
	if p.TopP < 1 {
		open = reach(open, p.TopP, edge)
	}
	if p.MinP > 0 {
		least := float64(p.MinP) * open[0].p * (1 + edge)
		open = slices.DeleteFunc(open, func(c candidate) bool { return c.p < least && c.logit < open[0].logit })
	}
	return open
}

// pick is the kept candidate with the largest logit/temperature + noise.
func pick(kept []candidate, p device.SampleParams) sampled {
	scores := make([]float64, len(kept))
	best := 0
	for i, c := range kept {
		scores[i] = c.logit/float64(p.Temperature) + gumbel(p.Seed, p.Position, c.id)
		if scores[i] > scores[best] || scores[i] == scores[best] && c.id < kept[best].id {
			best = i
		}
	}
	s := sampled{id: int32(kept[best].id)}
	for i, c := range kept {
		// logit/temperature may be a float32: its rounding grows with its size
		if scores[best]-scores[i] < 1e-5+0x1p-22*math.Abs(kept[best].logit/float64(p.Temperature)) {
			s.near = append(s.near, int32(c.id))
		}
	}
	return s
}
