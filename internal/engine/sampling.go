package engine

import (
	"fmt"
	"math"

	"github.com/inferno-serve/inferno/internal/device"
)

// Sampling says how tokens are chosen; kernels/inferno.h defines the arithmetic.
type Sampling struct {
	Temperature float32 // 0: greedy
	TopK        int     // 0: off
	TopP        float32 // 0 or 1: off
	MinP        float32 // 0: off
	TypicalP    float32 // 0 or 1: off
	Seed        uint64  // the same seed gives the same tokens in any batch

	RepetitionPenalty float32 // divides positive logits of tokens seen, and multiplies negative ones; 0 or 1: off
	PresencePenalty   float32 // subtracted from the logits of tokens generated
	FrequencyPenalty  float32 // subtracted once for each time that a token was generated
	PenaltyWindow     int     // how many of the last tokens RepetitionPenalty looks at; 0: all, the prompt's included

	LogitBias []Bias  // of distinct tokens
	Allowed   []int32 // if not empty, only these may be chosen
	Banned    []int32 // these may not
}

// Bias is added to the logit of a token.
type Bias struct {
	ID    int32
	Value float32
}

// maxBias bounds LogitBias.
const maxBias = 1024

// validate is written so that a NaN fails every comparison.
func (s *Sampling) validate(vocabulary int) error {
	if !(s.Temperature >= 0 && s.Temperature <= math.MaxFloat32) {
		return &LimitError{"temperature", s.Temperature, "0 or more, and finite", ErrInvalid}
	}
	if s.TopK < 0 || s.TopK > math.MaxInt32 {
		return &LimitError{"top_k", s.TopK, fmt.Sprintf("0 to %d", math.MaxInt32), ErrInvalid}
	}
	for _, share := range []struct {
		field string
		value float32
	}{{"top_p", s.TopP}, {"min_p", s.MinP}, {"typical_p", s.TypicalP}} {
		if !(share.value >= 0 && share.value <= 1) {
			return &LimitError{share.field, share.value, "0 to 1", ErrInvalid}
		}
	}
	return s.validateAdjustments(vocabulary)
}

func (s *Sampling) validateAdjustments(vocabulary int) error {
	if !(s.RepetitionPenalty >= 0 && s.RepetitionPenalty <= math.MaxFloat32) {
		return &LimitError{"repetition_penalty", s.RepetitionPenalty, "0 or more, and finite", ErrInvalid}
	}
	if !isFinite(s.PresencePenalty) {
		return &LimitError{"presence_penalty", s.PresencePenalty, "a finite number", ErrInvalid}
	}
	if !isFinite(s.FrequencyPenalty) {
		return &LimitError{"frequency_penalty", s.FrequencyPenalty, "a finite number", ErrInvalid}
	}
	if s.PenaltyWindow < 0 || s.PenaltyWindow > math.MaxInt32 {
		return &LimitError{"penalty_window", s.PenaltyWindow, fmt.Sprintf("0 to %d", math.MaxInt32), ErrInvalid}
	}
	if len(s.LogitBias) > maxBias {
		return &LimitError{"logit_bias", fmt.Sprintf("%d entries", len(s.LogitBias)), fmt.Sprintf("at most %d", maxBias), ErrInvalid}
	}
	seen := make(map[int32]bool, len(s.LogitBias))
	for i, b := range s.LogitBias {
		if err := validateIDs("logit_bias", []int32{b.ID}, vocabulary); err != nil {
			return err
		}
		if !isFinite(b.Value) || seen[b.ID] {
			return &LimitError{fmt.Sprintf("logit_bias[%d]", i), b, "finite values of distinct tokens", ErrInvalid}
		}
		seen[b.ID] = true
	}
	if err := validateIDs("allowed_token_ids", s.Allowed, vocabulary); err != nil {
		return err
	}
	return validateIDs("banned_token_ids", s.Banned, vocabulary)
}

func isFinite(v float32) bool { return v >= -math.MaxFloat32 && v <= math.MaxFloat32 }

// params are those of each token, but for what depends on its position.
func (s *Sampling) params() device.SampleParams {
	p := device.SampleParams{
		Seed: s.Seed, TopK: int32(s.TopK), Temperature: s.Temperature, TopP: s.TopP, MinP: s.MinP, TypicalP: s.TypicalP,
	}
	if p.TopP == 0 {
		p.TopP = 1
	}
	return p
}

// sampleParams is what the token at that position of s is chosen with. The position counts from the start of the prompt, so that the noise
// is the same whichever batch computes it, and after a preemption too.
func (s *sequence) sampleParams(position int) device.SampleParams {
	p := s.params
	p.Position, p.NumBanned = uint32(position), int32(s.numBanned(position))
	return p
}

// numBanned is how many ids the token at that position must not be: all that would end the output, until MinTokens are there.
func (s *sequence) numBanned(position int) int {
	if position-s.prompt >= s.minNew {
		return 0
	}
	return len(s.stops) + len(s.ends)
}

// writeBanned puts those ids at the start of dst.
func (s *sequence) writeBanned(dst []int32) { copy(dst[copy(dst, s.stops):], s.ends) }
