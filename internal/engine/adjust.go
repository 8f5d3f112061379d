package engine

import (
	"math"
	"unsafe"

	"github.com/inferno-serve/inferno/internal/device"
)

// Adjustments of logits. What never changes of a row, a header, its biases and its mask, is written down for each step that samples it;
// what penalties need, the tokens so far, the device keeps itself: in a history that has an id for each slot of the KV cache, so that
// block tables find it too. Each block of such a sequence was computed by itself or by another one with penalties: the prefix cache keeps
// those apart, so that none of its tokens is missing there. Only steps with such rows upload or launch anything for them.

// adjustmentWords is the most that one row's adjustment takes, in words of 4 bytes.
func adjustmentWords(vocabulary int) int {
	return device.AdjustmentBytes/4 + 2*maxBias + maskWords(vocabulary)
}

// penalizes says whether logits depend on the tokens so far.
func (s *Sampling) penalizes() bool {
	return s.RepetitionPenalty != 0 && s.RepetitionPenalty != 1 || s.PresencePenalty != 0 || s.FrequencyPenalty != 0
}

// adjustments is the pool of a step that is being written.
type adjustments struct {
	words []uint32 // the host's side of the step's slot
	used  int      // of them
}

// add writes down the adjustment of a row of s, whose block table is that row of the step's, and returns what its params say of it.
func (a *adjustments) add(s *sequence, table, vocabulary int) int32 {
	if !s.adjusted {
		return 0
	}
	at := a.used
	header := (*device.Adjustment)(unsafe.Pointer(&a.words[at]))
	p := &s.request.Sampling
	*header = device.Adjustment{
		Repetition: p.RepetitionPenalty, Presence: p.PresencePenalty, Frequency: p.FrequencyPenalty,
		Window: int32(p.PenaltyWindow), Prompt: int32(s.prompt), Sequence: int32(table), NumBias: int32(len(p.LogitBias)),
	}
	if header.Repetition == 0 {
		header.Repetition = 1
	}
	a.used += device.AdjustmentBytes / 4
	for _, b := range p.LogitBias {
		a.words[a.used], a.words[a.used+1] = uint32(b.ID), math.Float32bits(b.Value)
		a.used += 2
	}
	if s.masked() {
		header.Masked = 1
		n := maskWords(vocabulary)
		s.writeMask(a.words[a.used : a.used+n])
		a.used += n
	}
	return int32(at) + 1
}

// adjusting starts the pool of the step being launched.
func (r *runner) adjusting() adjustments {
	return adjustments{words: part[uint32](r.slot(), r.adjust, (r.inputBytes-r.adjust)/4)}
}

// pullAdjustments hands the pool over.
func (r *runner) pullAdjustments(a *adjustments) {
	if a.used > 0 {
		r.pull(r.adjust, aligned(4*a.used))
	}
}

// adjustmentArgs is where the op finds them, in a step with these block tables.
func (r *runner) adjustmentArgs(args *device.SampleArgs, tables device.Tensor) {
	args.Adjustments = device.Vector(r.at(r.adjust), device.I32, (r.inputBytes-r.adjust)/4)
	args.History, args.BlockTable = r.history, tables
}

// remember enqueues the write of a step's tokens to the history.
func (r *runner) remember(tokens, slots device.Tensor) {
	r.device.Scatter(device.Vector(r.history.Data, device.I32, r.history.Len()), slots, tokens)
}
