package backend

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/inferno-serve/inferno/internal/config"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// streamEnd is how a stream ended.
type streamEnd struct {
	tokens int
	err    error
	at     time.Time
}

// follow reads a stream of so many tokens to its end.
func follow(ctx context.Context, client infernov1.InferenceServiceClient, tokens uint32) streamEnd {
	return followTelling(ctx, client, tokens, func(int) {})
}

// followTelling calls got with the number of tokens of each message.
func followTelling(ctx context.Context, client infernov1.InferenceServiceClient, tokens uint32, got func(tokens int)) streamEnd {
	end := streamEnd{}
	var stream infernov1.InferenceService_GenerateStreamClient
	stream, end.err = client.GenerateStream(ctx, request(tokens))
	for end.err == nil {
		var m *infernov1.GenerateStreamResponse
		if m, end.err = stream.Recv(); end.err == nil {
			before := end.tokens
			for _, d := range m.GetDeltas() {
				end.tokens += len(d.GetTokenIds())
			}
			got(end.tokens - before)
		}
	}
	end.at = time.Now()
	return end
}

// TestDrainFailsNobody stops servers at random moments under 64 streams that come and go. What was taken is finished, every token of it;
// what was not taken may be tried elsewhere. 10 servers; SOAK=full makes it 100. A moment is so many tokens after all 64 have begun, so that
// each drain has at least 64 streams to finish, however fast the machine is.
func TestDrainFailsNobody(t *testing.T) {
	rounds := 10
	if os.Getenv("SOAK") == "full" {
		rounds = 100
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var finished, refused int
	var told, exited []time.Duration
	for range rounds {
		f := drainOnce(t, random)
		finished, refused = finished+f.finished, refused+f.refused
		told, exited = append(told, f.told), append(exited, f.exited)
		if t.Failed() {
			return
		}
	}
	if finished < 64*rounds {
		t.Errorf("%d streams finished in %d drains, want at least 64 each", finished, rounds)
	}
	t.Logf("%d drains: %d streams finished, 0 failed, %d refused; NOT_SERVING told within %v, ended within %v of the last stream",
		rounds, finished, refused, slices.Max(told), slices.Max(exited))
}

type drainFigures struct {
	finished, refused int
	told              time.Duration // from the signal to the first watch that says NOT_SERVING
	exited            time.Duration // from the last stream's end
}

func drainOnce(t *testing.T, random *rand.Rand) drainFigures {
	t.Helper()
	const streams = 64
	r := start(t, false, nil)
	r.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	client := infernov1.NewInferenceServiceClient(r.dial())
	notServing := r.watchNotServing()

	// Each worker opens one stream after the other, until one is refused.
	stopAt := newMoment(streams, 1+random.IntN(4000)) // of 30 tokens a stream, in the mean
	ends := make(chan []streamEnd, streams)
	for range streams {
		lengths := rand.New(rand.NewPCG(random.Uint64(), 0))
		go func() {
			defer stopAt.now() // a worker that fails begins nothing any more
			var all []streamEnd
			begin := sync.OnceFunc(stopAt.begin)
			for {
				tokens := uint32(1 + lengths.IntN(60))
				end := followTelling(context.Background(), client, tokens, func(n int) {
					begin()
					stopAt.count(n)
				})
				if errors.Is(end.err, io.EOF) && end.tokens != int(tokens) {
					end.err = errors.New("the stream ended normally without all of its tokens")
				}
				all = append(all, end)
				if !errors.Is(end.err, io.EOF) {
					ends <- all
					return
				}
			}
		}()
	}
	<-stopAt.come
	stopped := time.Now()
	r.stop()
	f := drainFigures{}
	last := stopped
	for range streams {
		for _, end := range <-ends {
			switch {
			case errors.Is(end.err, io.EOF):
				f.finished++
				if end.at.After(last) {
					last = end.at
				}
			case status.Code(end.err) == codes.Unavailable && end.tokens == 0:
				f.refused++
			default:
				t.Errorf("a stream ended with %v after %d tokens", end.err, end.tokens)
			}
		}
	}
	if err := r.end(); err != nil {
		t.Errorf("the server ended with %v", err)
	}
	f.told, f.exited = (<-notServing).Sub(stopped), time.Since(last)
	return f
}

// moment comes when all have begun and so many tokens have come since, wherever in their streams they are then.
type moment struct {
	come chan struct{}
	now  func()

	mu      sync.Mutex
	waiting int // have not begun
	tokens  int // are to come still
}

func newMoment(workers, tokens int) *moment {
	m := &moment{come: make(chan struct{}), waiting: workers, tokens: tokens}
	m.now = sync.OnceFunc(func() { close(m.come) })
	return m
}

func (m *moment) begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.waiting--
}

func (m *moment) count(tokens int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.waiting > 0 {
		return
	}
	if m.tokens -= tokens; m.tokens <= 0 {
		m.now()
	}
}

// watchNotServing tells when grpc.health.v1 says NOT_SERVING.
func (r *running) watchNotServing() <-chan time.Time {
	r.t.Helper()
	watch, err := healthgrpc.NewHealthClient(r.dial()).Watch(context.Background(), &healthgrpc.HealthCheckRequest{})
	if err != nil {
		r.t.Fatal(err)
	}
	if m, err := watch.Recv(); err != nil || m.GetStatus() != healthgrpc.HealthCheckResponse_SERVING {
		r.t.Fatalf("%v, %v, want SERVING", m, err)
	}
	told := make(chan time.Time, 1)
	go func() {
		if m, err := watch.Recv(); err != nil || m.GetStatus() != healthgrpc.HealthCheckResponse_NOT_SERVING {
			r.t.Errorf("%v, %v, want NOT_SERVING", m, err)
		}
		told <- time.Now()
		for err == nil { // to its end, so that none is left behind
			_, err = watch.Recv()
		}
	}()
	return told
}

// TestOpenWatchesKeepNoServerFromStopping: a thousand, of all three kinds, and one stream that is finished beside them.
func TestOpenWatchesKeepNoServerFromStopping(t *testing.T) {
	const perConnection, connections = 200, 5
	r := start(t, false, func(c *config.Config) { c.DrainTimeout = time.Hour })
	r.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	var opened, ended sync.WaitGroup
	for range connections {
		conn := r.dial()
		for i := range perConnection {
			opened.Add(1)
			ended.Go(func() {
				first := sync.OnceFunc(opened.Done)
				defer first()
				if err := watchToTheEnd(conn, i%3, first); status.Code(err) != codes.Unavailable {
					t.Errorf("watch of kind %d ended with %v, want UNAVAILABLE", i%3, err)
				}
			})
		}
	}
	opened.Wait()
	finished := make(chan streamEnd, 1)
	client := infernov1.NewInferenceServiceClient(r.dial())
	ctx := t.Context()
	r.held.Store(true)
	go func() { finished <- follow(ctx, client, 50) }()
	r.release <- struct{}{} // it has been taken, and its second step waits
	began := time.Now()
	r.stop()
	close(r.release)
	if end := <-finished; !errors.Is(end.err, io.EOF) || end.tokens != 50 {
		t.Errorf("the stream ended with %v after %d of 50 tokens", end.err, end.tokens)
	}
	if err := r.end(); err != nil {
		t.Errorf("the server ended with %v", err)
	}
	t.Logf("ended %v after the signal", time.Since(began).Round(time.Millisecond))
	ended.Wait()
}

func watchToTheEnd(conn *grpc.ClientConn, kind int, first func()) error {
	ctx := context.Background()
	var stream grpc.ClientStream
	var err error
	var m any
	switch kind {
	case 0:
		stream, err = healthgrpc.NewHealthClient(conn).Watch(ctx, &healthgrpc.HealthCheckRequest{})
		m = &healthgrpc.HealthCheckResponse{}
	case 1:
		stream, err = infernov1.NewHealthServiceClient(conn).Watch(ctx, &infernov1.WatchRequest{})
		m = &infernov1.WatchResponse{}
	case 2:
		stream, err = infernov1.NewRegistryServiceClient(conn).WatchInstances(ctx, &infernov1.WatchInstancesRequest{})
		m = &infernov1.WatchInstancesResponse{}
	}
	for err == nil {
		err = stream.RecvMsg(m)
		first()
	}
	return err
}
