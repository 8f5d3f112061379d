package server

import (
	"slices"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// promptOptions checks how a prompt is cut.
func (f *faults) promptOptions(o *infernov1.PromptOptions) {
	if o != nil && o.TruncateTo != nil && o.GetTruncateTo() == 0 {
		f.add("prompt_options.truncate_to", "is 0, want at least 1")
	}
	if side := o.GetTruncationSide(); infernov1.TruncationSide_name[int32(side)] == "" {
		f.add("prompt_options.truncation_side", "is %d, want TRUNCATION_SIDE_LEFT or TRUNCATION_SIDE_RIGHT", side)
	}
}

// cuts says whether a prompt may have any length, as it will be cut.
func cuts(o *infernov1.PromptOptions) bool { return o != nil && o.TruncateTo != nil }

// truncate cuts a prompt as the options say. The tokens that the tokenizer added, so many in front and behind, stay where there is room for
// more than them: without its BOS a model is not what it was trained to be.
func truncate(ids []int32, o *infernov1.PromptOptions, before, behind int) []int32 {
	if !cuts(o) || uint64(len(ids)) <= uint64(o.GetTruncateTo()) {
		return ids
	}
	most := int(o.GetTruncateTo())
	if most <= before+behind {
		before, behind = 0, 0
	}
	from, to := before, len(ids)-behind // of what may be cut
	if o.GetTruncationSide() == infernov1.TruncationSide_TRUNCATION_SIDE_RIGHT {
		to = most - behind
	} else {
		from = len(ids) - most + before
	}
	return slices.Concat(ids[:before], ids[from:to], ids[len(ids)-behind:])
}

// truncateText cuts the prompt that a text, or a conversation, was made into; added says whether with the tokenizer's own tokens.
func truncateText(ids []int32, o *infernov1.PromptOptions, added bool, model *Model) []int32 {
	if !added || model.Tokenizer == nil {
		return truncate(ids, o, 0, 0)
	}
	before, behind := model.Tokenizer.NumAdded()
	return truncate(ids, o, before, behind)
}
