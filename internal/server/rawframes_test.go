package server

import (
	"bytes"
	"io"
	"net"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// rawConn is a client that no gRPC library would be.
type rawConn struct {
	t      testing.TB
	conn   net.Conn
	framer *http2.Framer
	block  bytes.Buffer
	coder  *hpack.Encoder
	stream uint32 // the next
}

// rawConn has said what a client says first.
func (f *fixture) rawConn() *rawConn {
	f.t.Helper()
	conn, err := f.listener.Dial()
	if err != nil {
		f.t.Fatal(err)
	}
	return newRawConn(f.t, conn)
}

func newRawConn(t testing.TB, conn net.Conn) *rawConn {
	t.Helper()
	r := &rawConn{t: t, conn: conn, framer: http2.NewFramer(conn, conn), stream: 1}
	r.coder = hpack.NewEncoder(&r.block)
	r.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := r.framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return r
}

// headers are those of a call of a path.
func (r *rawConn) headers(path string, more ...hpack.HeaderField) []byte {
	r.block.Reset()
	for _, field := range append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "x"}, {Name: ":path", Value: path},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	}, more...) {
		_ = r.coder.WriteField(field) // into a buffer
	}
	return r.block.Bytes()
}

// open sends the headers of a call and returns its stream.
func (r *rawConn) open(path string, end bool, more ...hpack.HeaderField) (uint32, error) {
	stream := r.stream
	r.stream += 2
	return stream, r.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: r.headers(path, more...), EndStream: end, EndHeaders: true,
	})
}

// call makes a call with an empty message and returns its grpc-status, or what ended it otherwise.
func (r *rawConn) call(path, token string) string {
	if token == "" {
		return r.callWith(path)
	}
	return r.callWith(path, hpack.HeaderField{Name: "authorization", Value: "Bearer " + token})
}

func (r *rawConn) callWith(path string, more ...hpack.HeaderField) string {
	stream, err := r.open(path, false, more...)
	if err == nil {
		err = r.framer.WriteData(stream, true, make([]byte, 5))
	}
	if err != nil {
		return err.Error()
	}
	return readStatus(r.t.(*testing.T), r.framer, stream)
}

// drain reads what the server sends, so that it is not held up, until the connection ends; the channel has why.
func (r *rawConn) drain() <-chan error {
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, r.conn)
		ended <- err
	}()
	return ended
}
