package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// shape is a Former: which quarter of the vocabulary may come next depends on the tokens so far. After `most` of them nothing may.
type shape struct {
	most     int
	whole    bool          // its end is complete
	work     func(n int)   // what making the mask behind n tokens takes; nil: nothing
	broken   int           // tokens behind which it panics; 0: never
	together *atomic.Int32 // calls at the same time, of one shape; nil: nobody looks

	tokens []int32
	mask   []uint32
	made   bool
}

func (s *shape) Mask() []uint32 {
	if s.together != nil {
		if s.together.Add(1) > 1 {
			panic("two calls at once")
		}
		defer s.together.Add(-1)
	}
	if s.made {
		return s.mask
	}
	if s.work != nil {
		s.work(len(s.tokens))
	}
	if s.broken > 0 && len(s.tokens) == s.broken {
		panic("at a test's wish")
	}
	s.mask = make([]uint32, maskWords(fakeVocabulary))
	if len(s.tokens) < s.most {
		for id := int(digest(s.tokens) % 4); id < fakeVocabulary; id += 4 {
			s.mask[id/32] |= 1 << (id % 32)
		}
	}
	s.made = true
	return s.mask
}

func (s *shape) Accept(id int32) { s.tokens, s.made = append(s.tokens, id), false }

func (s *shape) Complete() bool { return s.whole || len(s.tokens) < s.most }

func (s *shape) Err() error { return nil }

// shaped is a request whose outputs have the shape, which it makes by that work.
func shaped(i, most int, work func(n int)) *Request {
	q := &Request{ID: fmt.Sprint("shaped", i), Prompt: prompt(3+i%9, i+1), Stop: Stopping{MaxTokens: 30}}
	q.Sampling = Sampling{Temperature: 1, TopP: 1, Seed: uint64(i)}
	q.Mask = func() Masker { return &shape{most: most, whole: true, work: work, together: &atomic.Int32{}} }
	return q
}

// quick is the same request whose masks take no time, for the reference.
func quick(q *Request) *Request {
	same := *q
	same.Mask = func() Masker { return &shape{most: q.Mask().(*shape).most, whole: true} }
	return &same
}

// While one waits for its mask the others get their tokens; it gets its own once the mask is there, or leaves before.
func TestLateMasksHoldNobodyUp(t *testing.T) {
	inEveryMode(t, func(t *testing.T, newRig rigMaker) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, Options{}).slow(stepTime)
			gates := []chan struct{}{make(chan struct{}), make(chan struct{})}
			var late []*Stream
			for i, gate := range gates {
				late = append(late, r.submit(t.Context(), t, shaped(i, 9, func(n int) {
					if n == 4 {
						<-gate
					}
				})))
			}
			var others []*Stream
			var requests []*Request
			for i := range 6 {
				q := &Request{ID: fmt.Sprint(i), Prompt: prompt(5, i+20), Stop: Stopping{MaxTokens: 40}}
				if i%2 == 0 {
					q = shaped(i+20, 40, nil)
				}
				requests, others = append(requests, q), append(others, r.submit(t.Context(), t, q))
			}
			r.run(t)
			for i, s := range others {
				wantReference(t, r, quickOrSame(requests[i]), s)
			}
			synctest.Wait()
			for i, s := range late {
				if ids, fin, err := s.Poll(); len(ids) != 4 || fin != nil || err != nil {
					t.Errorf("late %d: %v, %v, %v, want 4 tokens and no end", i, ids, fin, err)
				}
			}
			late[1].Cancel()
			if _, _, err := late[1].Next(t.Context()); !errors.Is(err, context.Canceled) {
				t.Errorf("the one that left ended with %v", err)
			}
			again := &Request{ID: "again", Prompt: prompt(4, 3), Stop: Stopping{MaxTokens: 5}} // while all that runs is late
			wantReference(t, r, again, r.submit(t.Context(), t, again))
			close(gates[0])
			want, reason := reference(quick(shaped(0, 9, nil)), 256)
			rest, fin, err := readAll(late[0])
			if err != nil || fin.Reason != reason || len(rest)+4 != len(want) || rest[len(rest)-1] != want[len(want)-1] {
				t.Errorf("the late one: %v (%v, %v), want the rest of %v (%v)", rest, fin, err, want, reason)
			}
			close(gates[1]) // whose mask nobody wants any more
			synctest.Wait()
		})
	})
}

func quickOrSame(q *Request) *Request {
	if q.Mask == nil {
		return q
	}
	return quick(q)
}

// Whatever time masks take, and whoever is preempted meanwhile, the tokens are the same, and no masker is asked by two at once.
func TestLateMasksChangeNoToken(t *testing.T) {
	inEveryMode(t, func(t *testing.T, newRig rigMaker) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, Options{NumBlocks: 24, MaxBatch: 12}).slow(stepTime)
			var requests []*Request
			var streams [][]*Stream
			for i := range 40 {
				q := shaped(i, 5+i%30, func(n int) {
					if k := (i*7 + n*n*3) % 11; k > 6 {
						time.Sleep(time.Duration(k-6) * stepTime / 2)
					}
				})
				if q.N = 1 + i%3; i%4 == 0 {
					q = &Request{ID: fmt.Sprint(i), Prompt: prompt(9, i), Stop: Stopping{MaxTokens: 20 + i}, N: 1}
				}
				requests, streams = append(requests, q), append(streams, r.submitAll(t.Context(), t, q))
			}
			r.run(t)
			for i, all := range streams {
				for j, s := range all {
					wantReferenceOf(t, r, quickOrSame(requests[i]), s, continuationSeed(requests[i].Sampling.Seed, j))
				}
			}
			if r.Stats().Preemptions == 0 {
				t.Error("nothing was preempted")
			}
		})
	})
}

// An output that may not end where its masks leave nothing ends with an error, and one whose masks panic too, late or not.
func TestOutputsWithoutTheirFormAreErrors(t *testing.T) {
	inEveryMode(t, func(t *testing.T, newRig rigMaker) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, Options{}).slow(stepTime).run(t)
			for name, work := range map[string]func(int){"in time": nil, "late": func(int) { time.Sleep(stepTime) }} {
				for _, c := range []struct {
					what string
					mask shape
					want error
				}{
					{"unfinished", shape{most: 6, work: work}, ErrForm},
					{"broken", shape{most: 60, broken: 6, work: work}, errMask},
				} {
					q := shaped(1, 6, nil)
					q.Mask = func() Masker { m := c.mask; return &m }
					ids, fin, err := readAll(r.submit(t.Context(), t, q))
					if !errors.Is(err, c.want) || fin != nil || len(ids) > 6 || len(ids) < 5 || strings.Contains(fmt.Sprint(err), "wish") {
						t.Errorf("%s, %s: %d tokens, ended with %v", c.what, name, len(ids), err)
					}
				}
			}
			if err := r.Probe(t.Context()); err != nil {
				t.Errorf("no token afterwards: %v", err)
			}
		})
	})
}
