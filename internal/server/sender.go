package server

import (
	"sync"
	"sync/atomic"
	"time"
)

// sender sends what the streams of one connection have made: on one goroutine, one after the other, and with the connection's writes held back
// meanwhile. A step makes a token of each stream; were each sent by its own call, every one of them would cost a wake of a goroutine, one of the
// connection's writer, and a write. Calls lend themselves to the sender while nothing but tokens is to be sent.
//
// The goroutine lives while there are calls that may do so.
type sender struct {
	hold  *sync.Mutex             // of the connection's writes
	ready atomic.Pointer[outflow] // a stack of those that may have news
	wake  chan struct{}           // one slot: the stack is not empty

	mu    sync.Mutex
	calls int
	stop  chan struct{}
}

func newSender(hold *sync.Mutex) *sender { return &sender{hold: hold, wake: make(chan struct{}, 1)} }

// join and leave are of calls, once each.
func (s *sender) join() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls++; s.calls == 1 {
		s.stop = make(chan struct{})
		go s.run(s.stop)
	}
}

func (s *sender) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls--; s.calls == 0 {
		close(s.stop)
	}
}

// push says that a call may have news. It never waits.
func (s *sender) push(o *outflow) {
	if o.pushed.Swap(true) {
		return
	}
	for {
		top := s.ready.Load()
		o.below = top
		if !s.ready.CompareAndSwap(top, o) {
			continue
		}
		if top == nil {
			select {
			case s.wake <- struct{}{}:
			default:
			}
		}
		return
	}
}

func (s *sender) run(stop chan struct{}) {
	for {
		select {
		case <-s.wake:
			for top := s.ready.Swap(nil); top != nil; top = s.ready.Swap(nil) {
				s.serve(top)
			}
		case <-stop:
			return
		}
	}
}

// serve looks after the calls of a stack, those that came first first.
func (s *sender) serve(top *outflow) {
	var first *outflow
	for top != nil {
		first, top, top.below = top, top.below, first
	}
	if first.below != nil { // several
		s.hold.Lock()
		defer s.hold.Unlock()
	}
	now := time.Now()
	for first != nil {
		o := first
		first, o.below = o.below, nil
		o.pushed.Store(false)
		o.serve(now)
	}
}
