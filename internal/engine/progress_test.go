package engine

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
)

// progressOf reads a stream to its end and returns what it told of the prompt at each wake before the first token.
func progressOf(t *testing.T, s *Stream) (told []int, fin *Finish) {
	t.Helper()
	begun := false
	for {
		tokens, fin, err := s.Poll()
		if err != nil {
			t.Fatal(err)
		}
		if begun = begun || len(tokens) > 0; !begun {
			told = append(told, s.Computed())
		}
		if fin != nil {
			return told, fin
		}
		if err := s.Wait(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

// A prompt of several steps is told after each of them; what the cache has counts from the first one on, and who did not ask hears nothing.
func TestProgressOfPromptsIsTold(t *testing.T) {
	inEveryMode(t, func(t *testing.T, newRig rigMaker) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, Options{MaxBatchTokens: 64, PrefixCache: true}).slow(stepTime).run(t)
			long := prompt(200, 3)
			q := &Request{ID: "first", Prompt: long, Progress: true, Stop: Stopping{MaxTokens: 2}}
			told, _ := progressOf(t, r.submit(t.Context(), t, q))
			if told = slices.Compact(told); !slices.Equal(told, []int{0, 64, 128, 192}) {
				t.Errorf("told %v of a prompt of 200 tokens in steps of 64", told)
			}
			again := &Request{ID: "again", Prompt: slices.Concat(long[:100], prompt(100, 4)), Progress: true, Stop: Stopping{MaxTokens: 2}}
			told, fin := progressOf(t, r.submit(t.Context(), t, again))
			told = slices.Compact(told)
			if fin.Usage.CachedTokens != 100 || told[len(told)-1] != 164 || !slices.IsSorted(told) {
				t.Errorf("told %v of a prompt of 200 tokens of which %d are cached", told, fin.Usage.CachedTokens)
			}
			s := r.submit(t.Context(), t, &Request{ID: "silent", Prompt: prompt(200, 5), Stop: Stopping{MaxTokens: 2}})
			if told, _ := progressOf(t, s); !slices.Equal(told, []int{0}) {
				t.Errorf("told %v unasked", told)
			}
		})
	})
}

// A request that is preempted within its prompt starts it again, and tells nothing until it is further than it was.
func TestProgressNeverGoesBack(t *testing.T) {
	inEveryMode(t, func(t *testing.T, newRig rigMaker) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, Options{NumBlocks: 36, MaxBatchTokens: 8}).slow(stepTime)
			for i := range 2 { // they grow into the blocks that the prompt has
				r.submit(t.Context(), t, &Request{ID: fmt.Sprint(i), Prompt: prompt(8, i), Stop: Stopping{MaxTokens: 64}})
			}
			q := &Request{ID: "long", Prompt: prompt(110, 3), Progress: true, Stop: Stopping{MaxTokens: 4}}
			s := r.submit(t.Context(), t, q)
			r.run(t)
			told, fin := progressOf(t, s)
			far := slices.Index(told, slices.Max(told))
			if fin.Timings.Preemptions == 0 || !slices.IsSorted(told) || told[far] <= 100 || told[far] >= 110 {
				t.Errorf("told %v of a prompt of 110 tokens that was preempted %d times", told, fin.Timings.Preemptions)
			}
		})
	})
}
