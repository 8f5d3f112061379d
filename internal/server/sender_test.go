package server

import (
	"context"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// announcer is a Generator whose streams say when there is news.
type announcer struct {
	endless // answers what is not asked here
	calls   chan *announced
}

func (a *announcer) Submit(ctx context.Context, _ *engine.Request) ([]Stream, error) {
	s := &announced{ctx: ctx, wake: make(chan struct{}, 1)}
	a.calls <- s
	return []Stream{s}, nil
}

// announced is a stream that the test writes.
type announced struct {
	endless
	ctx  context.Context
	wake chan struct{}

	mu     sync.Mutex
	tokens []int32
	finish *engine.Finish
	panics bool
	news   func()
}

func (s *announced) Announce(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.news = f
}

func (s *announced) put(change func()) {
	s.mu.Lock()
	change()
	news := s.news
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	if news != nil {
		news()
	}
}

func (s *announced) Poll() ([]int32, *engine.Finish, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.panics {
		panic("a stream's fault")
	}
	tokens, finish := s.tokens, s.finish
	s.tokens = nil
	return tokens, finish, nil
}

func (s *announced) Wait(ctx context.Context) error {
	select {
	case <-s.wake:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// opened are so many calls of one connection that have got their first token.
func opened(t *testing.T, f *fixture, g *announcer, n int, opts ...grpc.CallOption) (streams []*announced, clients []grpc.ServerStreamingClient[infernov1.GenerateStreamResponse]) {
	t.Helper()
	for range n {
		client, err := f.api.GenerateStream(t.Context(), textRequest("x"), opts...)
		if err != nil {
			t.Fatal(err)
		}
		s := <-g.calls
		s.put(func() { s.tokens = []int32{'a'} })
		expectText(t, client, "a")
		streams, clients = append(streams, s), append(clients, client)
	}
	return streams, clients
}

func expectText(t *testing.T, client grpc.ServerStreamingClient[infernov1.GenerateStreamResponse], want string) {
	t.Helper()
	got := ""
	for len(got) < len(want) {
		m, err := client.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range m.GetDeltas() {
			got += d.GetText()
		}
	}
	if got != want {
		t.Fatalf("read %q, want %q", got, want)
	}
}

// recorder is a stream that notes whether its connection's writes were held back when something was sent.
type recorder struct {
	infernov1.InferenceService_GenerateStreamServer
	hold *sync.Mutex
	held []bool
}

func (r *recorder) SendMsg(any) error {
	free := r.hold.TryLock()
	if free {
		r.hold.Unlock()
	}
	r.held = append(r.held, !free)
	return nil
}

// While the sender has several calls to look after, nothing of what it sends is written; afterwards all of it may be.
func TestWritesAreHeldBackWhileSeveralCallsSend(t *testing.T) {
	for _, calls := range []int{1, 2, 50} {
		var hold sync.Mutex
		s, r := newSender(&hold), &recorder{hold: &hold}
		for range calls {
			g := &generation{request: &engine.Request{}, ids: true, flushTokens: 1}
			stream := &announced{tokens: []int32{'a'}}
			out := &output{generation: g, ctx: t.Context(), continuations: []*continuation{newContinuation(g, 0, stream, stream)}}
			o := &outflow{output: out, stream: r, outbox: newOutbox(), sender: s, back: make(chan struct{}, 1)}
			o.lent.Store(true)
			o.tell()
		}
		s.serve(s.ready.Swap(nil))
		if len(r.held) != calls {
			t.Fatalf("%d of %d calls sent", len(r.held), calls)
		}
		for i, held := range r.held {
			if held != (calls > 1) {
				t.Errorf("message %d of %d: held back is %v", i, calls, held)
			}
		}
		if !hold.TryLock() {
			t.Errorf("%d calls: writes are held back afterwards", calls)
		}
	}
}

// noted notes what becomes of a connection.
type noted struct {
	net.Conn
	write func()
}

func (n noted) Write(p []byte) (int, error) {
	n.write()
	return len(p), nil
}

// A write waits while writes are held back.
func TestHeldBackWriteGoesOutAfterwards(t *testing.T) {
	var released atomic.Bool
	early := false
	c := &connection{Conn: noted{write: func() { early = !released.Load() }}}
	c.hold.Lock()
	begun, done := make(chan struct{}), make(chan error)
	go func() {
		close(begun)
		_, err := c.Write([]byte("x"))
		done <- err
	}()
	<-begun
	for range 1000 {
		runtime.Gosched()
	}
	released.Store(true)
	c.hold.Unlock()
	if err := <-done; err != nil || early {
		t.Errorf("written early: %v, error %v", early, err)
	}
}

// A call that panics while the sender looks after it ends, as one does that panics by itself; the others of the connection go on.
func TestPanicInTheSenderEndsItsCallAlone(t *testing.T) {
	g := &announcer{calls: make(chan *announced, 1)}
	f := start(t, g)
	streams, clients := opened(t, f, g, 2)
	streams[0].put(func() { streams[0].panics = true })
	if _, err := clients[0].Recv(); status.Code(err) != codes.Internal {
		t.Errorf("the call that panicked ended with %v, want INTERNAL", err)
	}
	streams[1].put(func() { streams[1].tokens, streams[1].finish = []int32{'b'}, finished(engine.MaxTokens, 'b') })
	expectText(t, clients[1], "b")
	if lines := f.log.with("panic in a call", "a stream's fault", "announced"); len(lines) != 1 {
		t.Errorf("%d lines tell of the panic and where it was, want 1", len(lines))
	}
}

// A client that leaves while the sender has its call ends that, whatever the engine does.
func TestClientLeavesALentCall(t *testing.T) {
	g := &announcer{calls: make(chan *announced, 1)}
	f := start(t, g)
	ctx, leave := context.WithCancel(t.Context())
	client, err := f.api.GenerateStream(ctx, textRequest("x"))
	if err != nil {
		t.Fatal(err)
	}
	s := <-g.calls
	s.put(func() { s.tokens = []int32{'a'} })
	expectText(t, client, "a")
	leave()
	<-s.ctx.Done()
	s.put(func() { s.tokens = []int32{'b'} }) // into the void
	f.Drain()
	<-f.live.idle // for ever, if the call does not end: the test's own deadline ends it then
}

// A client that stops reading gets its call back from the sender, which goes on with the others; it gets all of it once it reads.
func TestSlowReaderDoesNotStopTheSender(t *testing.T) {
	g := &announcer{calls: make(chan *announced, 1)}
	f := start(t, g)
	streams, clients := opened(t, f, g, 2)
	long := strings.Repeat("y", 256) // tokens, which is the most of a Poll
	want := ""
	for range 1000 {
		want += long
		streams[0].put(func() { streams[0].tokens = append(streams[0].tokens, byteIDs(long)...) })
		streams[1].put(func() { streams[1].tokens = append(streams[1].tokens, 'z') })
		expectText(t, clients[1], "z")
	}
	expectText(t, clients[0], want)
	for i, s := range streams {
		s.put(func() { s.finish = finished(engine.MaxTokens, 'x') })
		for clients[i].RecvMsg(&infernov1.GenerateStreamResponse{}) == nil {
		}
	}
}

// A client that compresses its request is answered as others are: what gRPC compresses leaves the outbox at once, which then holds nobody back.
func TestSlowReaderThatCompressesDoesNotStopTheSender(t *testing.T) {
	g := &announcer{calls: make(chan *announced, 1)}
	f := start(t, g)
	streams, clients := opened(t, f, g, 2, grpc.UseCompressor(gzip.Name))
	random := rand.New(rand.NewPCG(1, 2))
	want := ""
	for range 1000 {
		text := make([]byte, 256)
		for i := range text {
			text[i] = byte(' ' + random.IntN(95))
		}
		want += string(text)
		streams[0].put(func() { streams[0].tokens = append(streams[0].tokens, byteIDs(string(text))...) })
		streams[1].put(func() { streams[1].tokens = append(streams[1].tokens, 'z') })
		expectText(t, clients[1], "z")
	}
	expectText(t, clients[0], want)
	for i, s := range streams {
		s.put(func() { s.finish = finished(engine.MaxTokens, 'x') })
		for clients[i].RecvMsg(&infernov1.GenerateStreamResponse{}) == nil {
		}
	}
}

// Every push is seen by a run that begins after it, in order, whoever pushes.
func TestSenderSeesEveryPush(t *testing.T) {
	s := newSender(&sync.Mutex{})
	var flows [100]outflow
	var all sync.WaitGroup
	for i := range flows {
		all.Go(func() {
			s.push(&flows[i])
			s.push(&flows[i]) // is there already
		})
	}
	all.Wait()
	seen := 0
	for o := s.ready.Load(); o != nil; o = o.below {
		seen++
	}
	if seen != len(flows) {
		t.Errorf("%d of %d are on the stack", seen, len(flows))
	}
	s.serve(s.ready.Swap(nil))
	for i := range flows {
		if flows[i].pushed.Load() || flows[i].below != nil {
			t.Errorf("%d is on the stack still", i)
		}
	}
	if len(s.wake) != 1 {
		t.Error("nobody was woken")
	}
}
