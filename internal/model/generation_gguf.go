package model

import (
	"math"

	"github.com/inferno-serve/inferno/internal/model/gguf"
)

// GenerationFromGGUF reads how a file's makers want tokens chosen: the keys general.sampling.*, which llama.cpp's converter fills from
// generation_config.json. Keys of samplers that are not known are ignored, as they are in that file.
func GenerationFromGGUF(md *gguf.Metadata) (GenerationDefaults, error) {
	f := &faults{}
	k := &ggufKeys{md: md, used: map[string]bool{}, faults: f}
	d := GenerationDefaults{
		Temperature:       k.optional("general.sampling.temp", 0, 100),
		TopP:              k.optional("general.sampling.top_p", 0, 1),
		MinP:              k.optional("general.sampling.min_p", 0, 1),
		RepetitionPenalty: k.optional("general.sampling.penalty_repeat", 0, 100),
		TopK:              k.count("general.sampling.top_k"),
		PenaltyWindow:     k.count("general.sampling.penalty_last_n"),
	}
	if d.PenaltyWindow != nil && *d.PenaltyWindow == 0 && !k.negative("general.sampling.penalty_last_n") {
		d.PenaltyWindow, d.RepetitionPenalty = nil, nil // of no tokens, where here 0 stands for all, as −1 does there
	}
	return d, f.err()
}

// optional reads a number of low to high, where there is one.
func (k *ggufKeys) optional(key string, low, high float64) *float64 {
	if !k.md.Has(key) {
		return nil
	}
	n := k.number(key, low, high, low)
	return &n
}

// count reads a number of tokens, where there is one; below 0 stands for all of them, as 0 does here.
func (k *ggufKeys) count(key string) *int {
	if !k.md.Has(key) {
		return nil
	}
	count := 0
	if n, ok := k.md.Uint(key); ok && n <= math.MaxInt32 {
		count = int(n)
	} else if !k.negative(key) {
		k.faults.addf("%s: %s, want a whole number up to %d", key, k.md.Describe(key), math.MaxInt32)
	}
	return &count
}

func (k *ggufKeys) negative(key string) bool {
	n, ok := k.md.Int(key)
	return ok && n < 0
}
