package server

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

func TestACutLeavesWhatTheTokenizerAdds(t *testing.T) {
	const left, right = infernov1.TruncationSide_TRUNCATION_SIDE_LEFT, infernov1.TruncationSide_TRUNCATION_SIDE_RIGHT
	ids := []int32{1, 5, 6, 7, 8, 2} // 1 in front and 2 behind are added
	for _, c := range []struct {
		to             uint32
		side           infernov1.TruncationSide
		before, behind int
		want           []int32
	}{
		{6, left, 1, 1, ids},
		{1<<32 - 1, right, 1, 1, ids},
		{5, left, 1, 1, []int32{1, 6, 7, 8, 2}},
		{5, right, 1, 1, []int32{1, 5, 6, 7, 2}},
		{3, left, 1, 1, []int32{1, 8, 2}},
		{3, right, 1, 1, []int32{1, 5, 2}},
		{2, left, 1, 1, []int32{8, 2}},
		{1, right, 1, 1, []int32{1}},
		{2, 0, 0, 0, []int32{8, 2}},
		{4, right, 0, 1, []int32{1, 5, 6, 2}},
	} {
		got := truncate(ids, &infernov1.PromptOptions{TruncateTo: &c.to, TruncationSide: c.side}, c.before, c.behind)
		if !slices.Equal(got, c.want) {
			t.Errorf("to %d at %v, %d and %d added: %v, want %v", c.to, c.side, c.before, c.behind, got, c.want)
		}
	}
	if got := truncate(ids, nil, 1, 1); !slices.Equal(got, ids) {
		t.Errorf("not cut: %v", got)
	}
}

// The engine gets what is left of a prompt that would be refused for its length.
func TestLongPromptsAreCutWhereAsked(t *testing.T) {
	s := play(part{ids: []int32{'x'}, finish: finished(engine.MaxTokens, 'x')})
	f := start(t, s)
	long := strings.Repeat("a", 5000) + "xyz"
	chat := `chat{messages{role:"user" content:"` + long + `"}}`
	for _, c := range []struct {
		input string
		want  []int32
	}{
		{`text:"` + long + `" prompt_options{truncate_to:4}`, []int32{256, 'x', 'y', 'z'}},
		{`text:"` + long + `" prompt_options{truncate_to:4 truncation_side:TRUNCATION_SIDE_RIGHT}`, []int32{256, 'a', 'a', 'a'}},
		{`text:"` + long + `" prompt_options{truncate_to:2 add_special_tokens:false}`, []int32{'y', 'z'}},
		{`token_ids{ids:[` + strings.Repeat("7,", 100) + `8,9]} prompt_options{truncate_to:2}`, []int32{8, 9}},
		{chat + ` prompt_options{truncate_to:1}`, nil},
	} {
		req := parse(t, `model:"m" `+c.input, &infernov1.GenerateRequest{})
		if _, err := f.api.Generate(t.Context(), req); err != nil {
			t.Errorf("%.20s…: %v", c.input, err)
			continue
		}
		got := (<-s.requests).Prompt
		if c.want != nil && !slices.Equal(got, c.want) || c.want == nil && len(got) != 1 {
			t.Errorf("%.20s…: the engine got %v, want %v", c.input, got, c.want)
		}
	}
	req := parse(t, fmt.Sprintf(`model:"m" text:%q prompt_options{truncate_to:32}`, long), &infernov1.GenerateRequest{})
	_, err := f.api.Generate(t.Context(), req)
	if err == nil || !strings.Contains(err.Error(), "has 32 tokens, want at most 31") {
		t.Errorf("a prompt that is too long when it is cut: %v", err)
	}
}
