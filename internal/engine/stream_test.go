package engine

import (
	"errors"
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

// An error comes alone, after the tokens: whoever waits for an announcement before each Poll is told of it too, not of the tokens alone.
func TestErrorIsAnnouncedAfterTheTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{NumBlocks: 64, Limits: model.Limits{MaxTokens: 64, MaxSeqs: 1, MaxRows: 1, Context: 256}})
		s := newStream(r.Engine, newSequence(&Request{ID: "cut", Prompt: prompt(4, 1)}, 256), make(chan struct{}, 1))
		announced := 0
		s.Announce(func() { announced++ })
		s.put(7)
		s.put(8)
		s.close(nil, ErrAborted) // as of a request that is cut off between a step and its publishing
		tokens, _, err := s.Poll()
		if len(tokens) != 2 || err != nil || announced != 2 {
			t.Errorf("tokens %v, error %v and %d announcements, want both tokens, and a second announcement for the error", tokens, err, announced)
		}
		if err := s.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if tokens, _, err = s.Poll(); len(tokens) != 0 || !errors.Is(err, ErrAborted) || announced != 2 {
			t.Errorf("then tokens %v, error %v and %d announcements, want the error", tokens, err, announced)
		}
	})
}
