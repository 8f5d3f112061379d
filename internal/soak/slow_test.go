package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/inferno-serve/inferno/internal/device/devicescript"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// smallWindow is a client that takes 64 KiB of each stream beyond what it reads, and no more with time.
var smallWindow = grpc.WithInitialWindowSize(64 << 10)

// reader is a stream that is read when somebody says so.
type reader struct {
	prompt []int32
	stream grpc.ServerStreamingClient[infernov1.GenerateStreamResponse]
}

// loudPrompt is one that is answered by tokens of 512 bytes.
func loudPrompt(seed int) []int32 {
	return append([]int32{devicescript.LoudToken}, prompt(seed, 15)...)
}

func open(ctx context.Context, client infernov1.InferenceServiceClient, prompt []int32, tokens int) (*reader, error) {
	stream, err := client.GenerateStream(ctx, request(prompt, tokens))
	return &reader{prompt, stream}, err
}

// rest reads what there is, as far as an error.
func (r *reader) rest() (tokens []int32, messages int, err error) {
	for {
		m, err := r.stream.Recv()
		if errors.Is(err, io.EOF) {
			return tokens, messages, nil
		}
		if err != nil {
			return tokens, messages, err
		}
		messages++
		for _, d := range m.GetDeltas() {
			for _, id := range d.GetTokenIds() {
				tokens = append(tokens, int32(id))
			}
		}
	}
}

// Readers that stop for a while hold nothing up: their requests are computed to the end, and what they read afterwards is whole, in few messages.
func TestReadersThatPauseGetMergedMessages(t *testing.T) {
	const readers, tokens = 20, 500
	r := serve(t, settings{
		Device: devicescript.Options{Bytes: 128 << 20, Step: 100 * time.Microsecond}, Context: 2048,
		Flags: []string{"--kv-memory=16MiB", "--send-timeout=1h"}, // however long a busy machine takes for the steps
	})
	clients := r.dial(2, smallWindow)
	var all []*reader
	for i := range readers {
		slow, err := open(t.Context(), clients[i%2], loudPrompt(i), tokens)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, slow)
	}
	r.waitMetric("inferno_requests_finished_total", is(readers)) // and nobody has read a byte
	for _, slow := range all {
		got, messages, err := slow.rest()
		if err == nil {
			err = checkTokens(got, slow.prompt, tokens)
		}
		if err != nil {
			t.Error(err)
		}
		// 128 of them fill the window, two may wait behind it, and the rest comes by the 256.
		if messages > 160 {
			t.Errorf("%d messages of %d tokens", messages, tokens)
		}
	}
}

// Clients that read nothing at all cost the others nothing and the server little, and end after --send-timeout.
func TestSlowReadersBesideFastOnes(t *testing.T) {
	slow, fast, tokens, patience := count(50, 1000), count(10, 100), count(50, 2000), 30*time.Second
	step := 2 * time.Millisecond
	if full {
		step = 25 * time.Millisecond
	} else {
		patience = 200 * time.Millisecond
	}
	r := serveApart(t, settings{
		Device: devicescript.Options{Bytes: 256 << 20, Paid: true, Step: step}, Context: 1 << 14,
		Flags: []string{
			"--max-batch=1280", "--max-queue=2048", "--max-batch-tokens=2048", "--kv-memory=160MiB", "--send-timeout=" + patience.String(),
		},
	})
	fastOnes := func(clients []infernov1.InferenceServiceClient) time.Duration {
		var failed failures
		var all sync.WaitGroup
		began := time.Now()
		for i := range fast {
			all.Go(func() {
				p := prompt(i, 16)
				got, err := generate(t.Context(), clients[i%len(clients)], request(p, tokens))
				if err == nil {
					err = checkTokens(got, p, tokens)
				}
				failed.add(err)
			})
		}
		all.Wait()
		failed.report(t, fast)
		return time.Since(began)
	}
	clients := r.dial(10)
	alone := fastOnes(clients)

	before := r.metric("process_resident_memory_bytes")
	most := before
	stop, watching := make(chan struct{}), sync.WaitGroup{}
	watching.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Millisecond):
				most = max(most, r.metric("process_resident_memory_bytes"))
			}
		}
	})
	slowClients := r.dial(10, smallWindow)
	var readers []*reader
	for i := range slow {
		one, err := open(t.Context(), slowClients[i%len(slowClients)], loudPrompt(i), 16000)
		if err != nil {
			t.Fatal(err)
		}
		readers = append(readers, one)
	}
	r.waitMetric("inferno_requests_running", least(float64(slow)))
	beside := fastOnes(clients)
	r.waitMetric("inferno_requests_running", is(0))
	close(stop)
	watching.Wait()

	var failed failures
	for _, one := range readers {
		got, _, err := one.rest()
		if codeOf(err) != codes.Canceled {
			err = fmt.Errorf("a reader that read nothing ended with %w", err)
		} else {
			err = checkTokens(got, one.prompt, len(got))
		}
		failed.add(err)
	}
	failed.report(t, slow)
	r.waitMetric("inferno_kv_blocks_used", is(0))
	loss := 1 - alone.Seconds()/beside.Seconds()
	figure(t, loss <= 0.02, "%d fast readers alone %.2f s, beside %d that read nothing %.2f s: %.1f %% lost", fast, alone.Seconds(), slow, beside.Seconds(), 100*loss)
	figure(t, most-before <= 128<<20, "server memory %.0f MiB before, %.0f MiB at most", before/(1<<20), most/(1<<20))
}
