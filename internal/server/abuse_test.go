package server

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// These tests play clients that mean harm. What may grow is bounded in bytes and goroutines; how long others wait is measured in the full form
// alone (INFERNO_ABUSE=full), where nothing else runs on the machine.

var fullAbuse = os.Getenv("INFERNO_ABUSE") == "full"

// listening is a fixture on a real socket.
func (f *fixture) listening() string {
	f.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- f.Serve(l) }()
	f.t.Cleanup(func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		f.Stop(ended)
		if err := <-served; err != nil {
			f.t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

func dialRaw(t *testing.T, address string) *rawConn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return newRawConn(t, conn)
}

// memory watches what the process holds while something goes on.
type memory struct {
	stop chan struct{}
	done chan struct{}
	heap uint64 // in use, after a collection
	most atomic.Uint64
	gors atomic.Int64
}

func watchMemory() *memory {
	var s runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&s)
	m := &memory{stop: make(chan struct{}), done: make(chan struct{}), heap: s.HeapAlloc}
	go func() {
		defer close(m.done)
		for {
			m.gors.Store(max(m.gors.Load(), int64(runtime.NumGoroutine())))
			runtime.GC() // what is garbage is no harm
			runtime.ReadMemStats(&s)
			m.most.Store(max(m.most.Load(), s.HeapAlloc))
			select {
			case <-m.stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return m
}

// end says how many bytes more were held, and how many goroutines there were, at most.
func (m *memory) end() (bytes, goroutines int64) {
	close(m.stop)
	<-m.done
	return int64(m.most.Load()) - int64(m.heap), m.gors.Load()
}

// others call until done is closed, and return how long each call took.
func others(t *testing.T, address string, done <-chan struct{}) []time.Duration {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	api := infernov1.NewInferenceServiceClient(conn)
	var took []time.Duration
	for {
		select {
		case <-done:
			return took
		default:
		}
		begin := time.Now()
		if _, err := api.Tokenize(t.Context(), &infernov1.TokenizeRequest{Model: "m", Input: &infernov1.TokenizeRequest_Text{Text: "x"}}); err != nil {
			t.Errorf("another client: %v", err)
			return took
		}
		took = append(took, time.Since(begin))
	}
}

func p99(all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)*99/100]
}

// underAbuse runs one while another client calls, and checks what it cost. In the full form the client's p99 may double.
func underAbuse(t *testing.T, address string, mostBytes, mostGoroutines int64, abuse func()) {
	t.Helper()
	long := 50 * time.Millisecond
	if fullAbuse {
		long = 5 * time.Second
	}
	quiet := make(chan struct{}) // which also makes what is made once
	time.AfterFunc(long, func() { close(quiet) })
	before := p99(others(t, address, quiet))
	m := watchMemory()
	done := make(chan struct{})
	go func() {
		defer close(done)
		abuse()
	}()
	took := others(t, address, done)
	bytes, goroutines := m.end()
	during := p99(took)
	t.Logf("%d KiB and %d goroutines at most; p99 of %d other calls %v, of quiet ones %v", bytes>>10, goroutines, len(took), during, before)
	if bytes > mostBytes {
		t.Errorf("%d bytes more were held, want at most %d", bytes, mostBytes)
	}
	if goroutines > mostGoroutines {
		t.Errorf("%d goroutines, want at most %d", goroutines, mostGoroutines)
	}
	if fullAbuse && during > 2*before {
		t.Errorf("p99 of others is %v, want at most twice %v", during, before)
	}
}

// CVE-2023-44487, GO-2026-6061: streams that are opened and reset at once left their handlers running, more than a connection may have.
func TestRapidResetRunsNoMoreHandlersThanStreams(t *testing.T) {
	s := newScript()
	var most, begun atomic.Int64
	var f *fixture
	s.begin = func(*scripted) {
		begun.Add(1)
		f.live.mu.Lock()
		most.Store(max(most.Load(), int64(len(f.live.entries)))) // of handlers that run
		f.live.mu.Unlock()
	}
	f = start(t, s)
	go func() { // what the script keeps is no memory of the server
		for {
			select {
			case <-s.requests:
			case <-t.Context().Done():
				return
			}
		}
	}()
	address := f.listening()
	message := frameOf(textRequest("hi"))
	streams := 5_000
	if fullAbuse {
		streams = 200_000
	}
	underAbuse(t, address, 64<<20, 2*maxConcurrentStreams+200, func() {
		raw := dialRaw(t, address)
		ended := raw.drain()
		for range streams {
			stream, err := raw.open("/inferno.v1.InferenceService/GenerateStream", false)
			if err == nil {
				err = raw.framer.WriteData(stream, true, message)
			}
			if err == nil {
				err = raw.framer.WriteRSTStream(stream, http2.ErrCodeCancel)
			}
			if err != nil {
				break // the server sent it away, which is as good
			}
		}
		raw.conn.Close()
		<-ended
	})
	if n := begun.Load(); n == 0 {
		t.Error("no request began before its reset: nothing was tried")
	}
	if n := most.Load(); n > maxConcurrentStreams {
		t.Errorf("%d requests ran at once, want at most %d", n, maxConcurrentStreams)
	}
}

func frameOf(m *infernov1.GenerateRequest) []byte {
	text := mustMarshal(m)
	return append([]byte{0, byte(len(text) >> 24), byte(len(text) >> 16), byte(len(text) >> 8), byte(len(text))}, text...)
}

// CVE-2019-9518, CVE-2026-84304: messages in frames of one byte each took a buffer a frame.
func TestOneByteFramesTakeNoBufferEach(t *testing.T) {
	f := start(t, newScript())
	address := f.listening()
	conns, frames := 4, 30_000
	if fullAbuse {
		conns, frames = 100, 60_000 // a stream's window is 64 KiB
	}
	underAbuse(t, address, 64<<20, int64(10*conns)+200, func() {
		var all sync.WaitGroup
		for range conns {
			all.Go(func() {
				raw := dialRaw(t, address)
				ended := raw.drain()
				stream, err := raw.open("/inferno.v1.InferenceService/Generate", false)
				if err == nil {
					err = raw.framer.WriteData(stream, false, []byte{0, 0, 0x3f, 0xff, 0xff}) // 4 MiB are to come
				}
				for i := 0; i < frames && err == nil; i++ {
					err = raw.framer.WriteData(stream, false, []byte{'x'})
				}
				raw.conn.Close()
				<-ended
			})
		}
		all.Wait()
	})
}

// Connections that say nothing, or half of what has to be said, are closed within 10 s; new clients do not wait for them.
func TestSilentHandshakesAreClosed(t *testing.T) {
	f := start(t, newScript())
	address := f.listening()
	n := 300
	if fullAbuse {
		n = 2000
	}
	var all sync.WaitGroup
	underAbuse(t, address, 128<<20, int64(8*n)+200, func() {
		for i := range n {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Errorf("connection %d: %v", i, err)
				return
			}
			if i%3 == 1 {
				_, err = io.WriteString(conn, http2.ClientPreface[:10])
			}
			if i%3 == 2 {
				_, err = io.WriteString(conn, http2.ClientPreface) // and no settings
			}
			if err != nil {
				t.Error(err)
			}
			all.Go(func() {
				_, _ = io.Copy(io.Discard, conn) // until the server closes it
				conn.Close()
			})
		}
		all.Wait() // for ever, if it does not: the test's own deadline ends it then
	})
}

// CVE-2019-9512, CVE-2019-9515, CVE-2023-45288, CVE-2026-73500, CVE-2019-9514, CVE-2025-8671, CVE-2019-9517.
func TestFloodsOfFramesTakeBoundedMemory(t *testing.T) {
	f := start(t, newScript())
	address := f.listening()
	n := 4_000
	if fullAbuse {
		n = 200_000
	}
	for name, flood := range map[string]func(r *rawConn, i int) error{
		"PING": func(r *rawConn, _ int) error { return r.framer.WritePing(false, [8]byte{}) },
		"SETTINGS": func(r *rawConn, i int) error {
			return r.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(i)})
		},
		"PRIORITY":          func(r *rawConn, _ int) error { return r.framer.WritePriority(1, http2.PriorityParam{StreamDep: 3}) },
		"empty DATA":        emptyData(),
		"CONTINUATION":      continuations(),
		"RST_STREAM unseen": func(r *rawConn, i int) error { return r.framer.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel) },
		"WINDOW_UPDATE of streams that are reset by it": func(r *rawConn, _ int) error {
			stream, err := r.open("/inferno.v1.HealthService/Watch", false)
			if err != nil {
				return err
			}
			return r.framer.WriteWindowUpdate(stream, 0x7fffffff)
		},
		"unknown frames": func(r *rawConn, _ int) error { return r.framer.WriteRawFrame(0xfe, 0, 0, make([]byte, 64)) },
	} {
		for _, reads := range []bool{true, false} { // one who does not read leaves the server's answers with it
			t.Run(fmt.Sprintf("%s, reading %v", name, reads), func(t *testing.T) {
				underAbuse(t, address, 64<<20, 2*maxConcurrentStreams+200, func() {
					raw := dialRaw(t, address)
					ended := make(<-chan error)
					if reads {
						ended = raw.drain()
					} else if err := raw.conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil { // the server stops reading then, as it should
						t.Error(err)
					}
					for i := range n {
						if flood(raw, i) != nil {
							break
						}
					}
					raw.conn.Close()
					if reads {
						<-ended
					}
				})
			})
		}
	}
}

// emptyData is a stream of frames that carry nothing.
func emptyData() func(*rawConn, int) error {
	return func(r *rawConn, _ int) error {
		if r.stream == 1 {
			if _, err := r.open("/inferno.v1.InferenceService/Generate", false); err != nil {
				return err
			}
		}
		return r.framer.WriteData(1, false, nil)
	}
}

// continuations is a header that never ends.
func continuations() func(*rawConn, int) error {
	return func(r *rawConn, _ int) error {
		if r.stream == 1 {
			r.stream += 2
			return r.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: bytes.Clone(r.headers("/x/y"))})
		}
		return r.framer.WriteContinuation(1, false, bytes.Clone(r.headers("/x/y", hpack.HeaderField{Name: "x", Value: strings.Repeat("y", 1000)})))
	}
}

// Headers that the transport has to refuse itself. CVE-2019-9516 and what grpc-go's own tests ask.
func TestBadHeadersEndTheirCallAlone(t *testing.T) {
	f := start(t, newScript())
	const path = "/inferno.v1.InferenceService/Tokenize"
	field := func(name, value string) []hpack.HeaderField { return []hpack.HeaderField{{Name: name, Value: value}} }
	for name, more := range map[string][]hpack.HeaderField{
		"a timeout that is none":   field("grpc-timeout", "x"),
		"a timeout without unit":   field("grpc-timeout", "10"),
		"a timeout of 9 digits":    field("grpc-timeout", "123456789S"),
		"a negative timeout":       field("grpc-timeout", "-1S"),
		"binary that is no base64": field("x-bin", "!!!"),
		"17 KiB":                   field("x", strings.Repeat("y", 17<<10)),
		"a thousand fields":        slices.Repeat(field("x", "0123456789"), 1000),
		"an encoding nobody knows": field("grpc-encoding", "bomb"),
		"a second host":            field("host", "other"),
		"a connection's header":    field("connection", "keep-alive"),
		"a name in capitals":       field("X-Y", "z"),
		"a value with a line end":  field("x", "y\r\nz: 1"),
		"a name that is empty":     field("", "x"),
		"a pseudo header behind":   field(":path", "/inferno.v1.RegistryService/UnloadModel"),
		"a second authority":       field(":authority", "other"),
		"an unknown pseudo header": field(":x", "y"),
	} {
		raw := f.rawConn()
		stream, err := raw.open(path, false, more...)
		if err == nil {
			err = raw.framer.WriteData(stream, true, make([]byte, 5))
		}
		if err != nil {
			continue // the connection ended
		}
		if got := readStatus(t, raw.framer, stream); got == "0" {
			t.Errorf("%s: the call went well", name)
		}
		small := &infernov1.TokenizeRequest{Model: "m", Input: &infernov1.TokenizeRequest_Text{Text: "x"}}
		if _, err := f.api.Tokenize(t.Context(), small); err != nil {
			t.Errorf("another client after %s: %v", name, err)
		}
	}
}

// Readers that read nothing hold what was sent to them until their requests end; the engine and others never wait for them.
func TestSlowReadersHoldBoundedMemory(t *testing.T) {
	n := 50
	if fullAbuse {
		n = 1000
	}
	s := newScript()
	s.requests = make(chan *scripted, 1<<16)
	f := start(t, s, func(o *Options) { o.SendTimeout = time.Second })
	address := f.listening()
	message := frameOf(textRequest("hi"))
	var readers []*rawConn
	const clientBytes = 32 << 10 // of the other end, which is in this process too
	underAbuse(t, address, 128<<20+int64(n)*clientBytes, int64(8*n)+200, func() {
		for range n {
			raw := dialRaw(t, address)
			readers = append(readers, raw)
			stream, err := raw.open("/inferno.v1.InferenceService/GenerateStream", false)
			if err == nil {
				err = raw.framer.WriteData(stream, true, message)
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
		var feed sync.WaitGroup
		for range n {
			r := <-s.requests
			feed.Go(func() { // as fast as it is taken, until the server gives the reader up
				long := part{ids: bytes32(4096)}
				for {
					select {
					case r.parts <- long:
					case <-r.ctx.Done():
						return
					}
				}
			})
		}
		feed.Wait()
	})
	for _, raw := range readers {
		raw.conn.Close()
	}
	f.Stop(t.Context()) // so that all have been told of
	if told := len(f.log.with("GenerateStream", errSlowReader.Error())); told != n {
		t.Errorf("%d lines tell of a client that stopped reading, want %d", told, n)
	}
}

func bytes32(n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = 'x'
	}
	return ids
}

// Who may not call holds no memory for a message: nothing of it is kept.
func TestStrangersMessagesAreNotKept(t *testing.T) {
	f := start(t, play(part{ids: byteIDs("x"), finish: finished(engine.MaxTokens, 'x')}), withAccess(t, identity("alice", "infer", "")))
	address := f.listening()
	m := watchMemory()
	chunk := make([]byte, 16<<10)
	for range 8 {
		raw := dialRaw(t, address)
		ended := raw.drain()
		for range maxConcurrentStreams {
			stream, err := raw.open("/inferno.v1.InferenceService/Generate", false)
			if err == nil {
				err = raw.framer.WriteData(stream, false, chunk[:100])
			}
			if err != nil {
				break
			}
		}
		raw.conn.Close()
		<-ended
	}
	if bytes, _ := m.end(); bytes > 16<<20 {
		t.Errorf("%d bytes were held for calls of strangers", bytes)
	}
	if _, err := f.api.Generate(t.Context(), textRequest("hi")); grpcCode(err) != codes.Unauthenticated {
		t.Errorf("a stranger: %v", err)
	}
}

func mustMarshal(m proto.Message) []byte {
	text, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return text
}
