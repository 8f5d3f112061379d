package engine

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// failing is a Masker that panics in its n-th call.
type failing struct{ calls, at int }

func (f *failing) called() {
	if f.calls++; f.calls == f.at {
		panic("at a test's wish")
	}
}

func (f *failing) Mask() []uint32 { f.called(); return nil }

func (f *failing) Accept(int32) { f.called() }

func TestPanicOfARequestsOwnCodeStaysWithIt(t *testing.T) {
	inEveryMode(t, panicOfARequestsOwnCodeStaysWithIt)
}

// One of 64 panics, at any call that the engine makes; the other 63 end with their tokens, and the engine goes on.
func panicOfARequestsOwnCodeStaysWithIt(t *testing.T, newRig rigMaker) {
	for at := 1; at <= 12; at++ {
		r := newRig(t, Options{}).run(t)
		var requests []*Request
		var streams []*Stream
		for i := range 64 {
			q := &Request{ID: fmt.Sprint(i), Prompt: prompt(3, i+1), Stop: Stopping{MaxTokens: 9}}
			if i == 40 {
				q.Mask = func() Masker { return &failing{at: at} }
			}
			requests, streams = append(requests, q), append(streams, r.submit(t.Context(), t, q))
		}
		for i, s := range streams {
			if i != 40 {
				wantReference(t, r, requests[i], s)
				continue
			}
			ids, _, err := readAll(s)
			if !errors.Is(err, errMask) || len(ids) > at || strings.Contains(fmt.Sprint(err), "wish") {
				t.Errorf("call %d: ended with %v after %d tokens, want errMask without the panic's text", at, err, len(ids))
			}
		}
		if s := r.Stats(); s.BlocksUsed != 0 || s.Running != 0 {
			t.Errorf("call %d: %+v", at, s)
		}
		if err := r.Probe(t.Context()); err != nil {
			t.Errorf("call %d: no token afterwards: %v", at, err)
		}
		r.Close()
	}
}
