package engine

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/inferno-serve/inferno/internal/model"
)

// A reader that is far behind gets what there is in pieces, each at once, and the finish with the last.
func TestPollIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const tokens = 2*maxPoll + 10
		r := newRig(t, Options{NumBlocks: 256, Limits: model.Limits{MaxTokens: 64, MaxSeqs: 1, MaxRows: 1, Context: 1024}}).run(t)
		q := &Request{ID: "far", Prompt: prompt(4, 1), Stop: Stopping{MaxTokens: tokens}}
		s := r.submit(t.Context(), t, q)
		synctest.Wait() // all of them are there
		var all []int32
		for _, want := range []int{maxPoll, maxPoll, 10} {
			if err := s.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, fin, err := s.Poll()
			all = append(all, got...)
			if err != nil || len(got) != want || (fin != nil) != (want == 10) {
				t.Errorf("%d tokens, finish %v, %v, want %d", len(got), fin, err, want)
			}
		}
		if want, _ := reference(q, r.Context()); !slices.Equal(all, want) {
			t.Error("the tokens are not those of the request")
		}
	})
}
