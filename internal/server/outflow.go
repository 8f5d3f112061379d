package server

import (
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// outflow is an output on its way into the messages of a stream. It belongs to its call's goroutine, but for the times when that lends it to the
// connection's sender, which gives it back as soon as there is something that a sender does not do: wait for a slow client, end.
type outflow struct {
	*output
	stream infernov1.InferenceService_GenerateStreamServer
	outbox *outbox
	m      infernov1.GenerateStreamResponse // encoded before SendMsg returns, so that one is enough

	sender *sender       // nil: it is never lent
	back   chan struct{} // one slot: it was given back
	mu     sync.Mutex    // held by the sender while it is at work
	lent   atomic.Bool   // changed under mu
	pushed atomic.Bool   // on the sender's stack
	below  *outflow      // in that
	found  *news         // by the sender, that it did not send
	err    error         // of sending
	panics any           // in the sender; nil: none
}

// news is what an output has that is to be sent.
type news struct {
	deltas []*infernov1.Delta
	done   bool
	err    error
}

// announcing is a stream that calls someone when Poll may have more, on any goroutine, who must not wait.
type announcing interface{ Announce(func()) }

func newOutflow(out *output, stream infernov1.InferenceService_GenerateStreamServer) (*outflow, error) {
	// gRPC answers as it was asked, and gives the buffer of a message that it compressed back at once: an outbox would never be full, and sending would wait.
	if err := grpc.SetSendCompressor(stream.Context(), encoding.Identity); err != nil {
		return nil, err
	}
	o := &outflow{output: out, stream: stream, outbox: newOutbox()}
	s := senderOf(stream.Context())
	if s == nil || out.flushInterval > 0 { // the time when that is over is the call's to wait for
		return o, nil
	}
	for _, c := range out.continuations {
		a, ok := c.stream.(announcing)
		if !ok {
			return o, nil
		}
		a.Announce(o.tell)
	}
	o.sender, o.back = s, make(chan struct{}, 1)
	s.join()
	return o, nil
}

func (o *outflow) close() {
	if o.sender != nil {
		o.sender.leave()
	}
}

// tell is what streams call.
func (o *outflow) tell() {
	if o.lent.Load() {
		o.sender.push(o)
	}
}

// next waits for what is to be sent next.
func (o *outflow) next() (deltas []*infernov1.Delta, done bool, err error) {
	if n := o.found; n != nil {
		o.found = nil
		return n.deltas, n.done, n.err
	}
	return o.output.next()
}

// send sends a message of deltas, and of the start and the finish where these are not nil.
func (o *outflow) send(deltas []*infernov1.Delta, start *infernov1.GenerationStart, finish *infernov1.GenerationFinish) error {
	o.m.Deltas, o.m.Start, o.m.Finish = deltas, start, finish
	if err := o.stream.SendMsg(outgoing{&o.m, o.outbox}); err != nil {
		return o.why(err)
	}
	return nil
}

// lend lets the sender send what comes, and returns when that gave the output back, or the call's context has ended.
func (o *outflow) lend() error {
	if o.sender == nil {
		return nil
	}
	o.mu.Lock()
	o.lent.Store(true)
	o.mu.Unlock()
	o.sender.push(o) // for what came before
	select {
	case <-o.back:
	case <-o.ctx.Done():
		o.mu.Lock()
		if !o.lent.Swap(false) {
			<-o.back
		}
		o.mu.Unlock()
	}
	if o.panics != nil {
		panic(o.panics)
	}
	return o.err
}

// serve sends what there is. The sender calls it.
func (o *outflow) serve(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.lent.Load() {
		return
	}
	defer func() {
		if p := recover(); p != nil { // the call's, not the process's
			o.panics = fmt.Sprintf("%v\nin the connection's sender:\n%s", p, debug.Stack())
			o.giveBack()
		}
	}()
	if !o.outbox.hasRoom() {
		o.giveBack()
		return
	}
	deltas, ready, done, err := o.look(now)
	switch {
	case err != nil || done:
		o.found = &news{deltas, done, err}
		o.giveBack()
	case ready:
		if o.err = o.send(deltas, nil, nil); o.err != nil {
			o.giveBack()
		}
	}
}

func (o *outflow) giveBack() {
	o.lent.Store(false)
	o.back <- struct{}{}
}
