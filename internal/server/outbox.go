package server

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// outbox is what one call has given to its connection and the connection has not written yet. gRPC's own bound is 64 KiB of messages a call,
// which are thousands of small ones, each with some hundred bytes of bookkeeping. Here a call holds back while maxUnsent wait, and what its
// request makes meanwhile becomes one message. What gRPC does with a message's buffer says when it was written: it gives it back.
//
// The call's goroutine sends and waits; connections give buffers back.
type outbox struct {
	unsent atomic.Int32  // buffers: one a message, more of a large one
	bytes  atomic.Int64  // in them
	room   chan struct{} // one slot: one was written
}

// Bounds of what a call may have in front of its connection before another message. The second is less than what gRPC takes without making the call wait.
const (
	maxUnsent      = 2
	maxUnsentBytes = 32 << 10
)

func newOutbox() *outbox { return &outbox{room: make(chan struct{}, 1)} }

// wait returns once there is room for a message, with ctx's error, or with errSlowReader when nothing was written for as long as `patience`.
func (o *outbox) wait(ctx context.Context, patience time.Duration) error {
	if o.hasRoom() {
		return nil
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for !o.hasRoom() {
		select {
		case <-o.room:
			timer.Reset(patience)
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return errSlowReader
		}
	}
	return nil
}

func (o *outbox) hasRoom() bool {
	return o.unsent.Load() < maxUnsent && o.bytes.Load() < maxUnsentBytes
}

// outgoing is a message that counts in an outbox until it was written.
type outgoing struct {
	proto.Message
	outbox *outbox
}

// Get is for mem.BufferPool, which an outbox is for the buffers of its own messages.
func (*outbox) Get(length int) *[]byte { return newMessageBuffer(length) }

// Put takes a buffer back that nobody reads any more.
func (o *outbox) Put(b *[]byte) {
	o.count(-1, -len(*b))
	select {
	case o.room <- struct{}{}:
	default:
	}
	if cap(*b) == messageBytes {
		messageBuffers.Put(b)
	}
}

func (o *outbox) count(buffers, bytes int) {
	o.unsent.Add(int32(buffers))
	o.bytes.Add(int64(bytes))
}

// messageBytes is the size of buffers that are kept for reuse. gRPC gives back only what is larger than its threshold, 1 KiB.
const messageBytes = 2 << 10

var messageBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, messageBytes)
	return &b
}}

func newMessageBuffer(length int) *[]byte {
	if length <= messageBytes {
		b := messageBuffers.Get().(*[]byte)
		*b = (*b)[:length]
		return b
	}
	b := make([]byte, length)
	return &b
}

// codec is gRPC's own for protocol buffers, but for outgoing messages.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(protocodec.Name)} }

// Marshal makes the buffer of a message.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(outgoing)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	size := proto.Size(m.Message)
	buffer := newMessageBuffer(size)
	data, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend((*buffer)[:0], m.Message)
	if err != nil {
		return nil, err
	}
	if len(data) != size {
		panic(fmt.Sprintf("server: a message of %d bytes took %d", size, len(data)))
	}
	if size < 2*pieceBytes {
		m.outbox.count(1, size)
		return mem.BufferSlice{mem.NewBuffer(buffer, m.outbox)}, nil
	}
	var pieces mem.BufferSlice
	for len(data) > 0 {
		n := pieceBytes
		if len(data) < 2*pieceBytes {
			n = len(data)
		}
		piece := data[:n:n]
		data = data[n:]
		m.outbox.count(1, n)
		pieces = append(pieces, mem.NewBuffer(&piece, m.outbox))
	}
	return pieces, nil
}

// pieceBytes is the least that a large message is cut to, so that what of it was written is told before all of it was: a reader that is slow,
// but reads, is none that stopped.
const pieceBytes = 16 << 10
