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
	Seed        uint64  // the same seed gives the same tokens in any batch
}

// validate is written so that a NaN fails every comparison.
func (s *Sampling) validate() error {
	if !(s.Temperature >= 0 && s.Temperature <= math.MaxFloat32) {
		return &LimitError{"temperature", s.Temperature, "0 or more, and finite", ErrInvalid}
	}
	if s.TopK < 0 || s.TopK > math.MaxInt32 {
		return &LimitError{"top_k", s.TopK, fmt.Sprintf("0 to %d", math.MaxInt32), ErrInvalid}
	}
	if !(s.TopP >= 0 && s.TopP <= 1) {
		return &LimitError{"top_p", s.TopP, "0 to 1", ErrInvalid}
	}
	if !(s.MinP >= 0 && s.MinP <= 1) {
		return &LimitError{"min_p", s.MinP, "0 to 1", ErrInvalid}
	}
	return nil
}

// params are those of each token, but for what depends on its position.
func (s *Sampling) params() device.SampleParams {
	p := device.SampleParams{Seed: s.Seed, TopK: int32(s.TopK), Temperature: s.Temperature, TopP: s.TopP, MinP: s.MinP}
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
