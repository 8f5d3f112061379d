package server

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

func messageOf(text string) *infernov1.GenerateStreamResponse {
	return &infernov1.GenerateStreamResponse{Deltas: []*infernov1.Delta{{Text: text}}}
}

// marshal is what gRPC does with a message that it will write later.
func marshal(t *testing.T, o *outbox, m proto.Message) mem.BufferSlice {
	t.Helper()
	data, err := newCodec().Marshal(outgoing{m, o})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestOutgoingMessagesAreEncodedAsAnyOther(t *testing.T) {
	o := newOutbox()
	var kept []mem.BufferSlice
	messages := []*infernov1.GenerateStreamResponse{
		{}, messageOf("x"), messageOf(strings.Repeat("y", messageBytes-6)), messageOf(strings.Repeat("z", messageBytes)), messageOf(strings.Repeat("w", 100_000)),
	}
	for _, m := range messages { // before any is written, so that none may share a buffer with another
		kept = append(kept, marshal(t, o, m))
	}
	for i, m := range messages {
		want, err := newCodec().CodecV2.Marshal(m)
		if err != nil || !bytes.Equal(kept[i].Materialize(), want.Materialize()) {
			t.Errorf("message %d of %d bytes: %v", i, proto.Size(m), err)
		}
		kept[i].Free()
	}
	if o.unsent.Load() != 0 || o.bytes.Load() != 0 {
		t.Errorf("%d messages of %d bytes are unsent after all were written", o.unsent.Load(), o.bytes.Load())
	}
}

func TestOutboxHoldsBack(t *testing.T) {
	const patience = 10 * time.Second
	for _, c := range []struct {
		name string
		sent []string // before the one that waits
	}{
		{"at two messages", []string{"a", "b"}},
		{"at many bytes", []string{strings.Repeat("a", pieceBytes), strings.Repeat("b", 2*pieceBytes-100)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOutbox()
				var waiting []mem.BufferSlice
				for _, text := range c.sent {
					if err := o.wait(t.Context(), patience); err != nil {
						t.Fatal(err)
					}
					waiting = append(waiting, marshal(t, o, messageOf(text)))
				}
				began := time.Now()
				time.AfterFunc(patience-time.Second, waiting[0].Free)
				if err := o.wait(t.Context(), patience); err != nil || time.Since(began) != patience-time.Second {
					t.Errorf("%v after %v, want room when the first was written", err, time.Since(began))
				}

				for o.hasRoom() {
					marshal(t, o, messageOf(c.sent[0]))
				}
				began = time.Now()
				if err := o.wait(t.Context(), patience); !errors.Is(err, errSlowReader) || time.Since(began) != patience {
					t.Errorf("%v after %v, want a slow reader after %v", err, time.Since(began), patience)
				}
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if err := o.wait(ctx, patience); !errors.Is(err, context.Canceled) {
					t.Errorf("%v where the call has ended", err)
				}
			})
		})
	}
}

// A large message that is read slowly, but read, makes no slow reader.
func TestPiecesOfALargeMessageAreProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const patience = 10 * time.Second
		o := newOutbox()
		large := marshal(t, o, messageOf(strings.Repeat("a", 10*pieceBytes)))
		if len(large) != 10 {
			t.Fatalf("%d pieces", len(large))
		}
		go func() {
			for _, piece := range large {
				time.Sleep(patience - time.Second)
				piece.Free()
			}
		}()
		began := time.Now()
		if err := o.wait(t.Context(), patience); err != nil || time.Since(began) != 9*(patience-time.Second) {
			t.Errorf("%v after %v, want room when all but one were written", err, time.Since(began))
		}
		time.Sleep(patience) // the last piece goes
	})
}
