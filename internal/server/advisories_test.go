package server

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// What went wrong in other servers and must not here. The table of requests has most of the values; these tests ask for what they were to do.

// generateFields calls do with the path of each field of a GenerateRequest, and within messages that are supported.
func generateFields(t *testing.T, do func(path []protoreflect.FieldDescriptor)) {
	t.Helper()
	visit(t, (&infernov1.GenerateRequest{}).ProtoReflect().Type(), nil, do)
}

// goodWith is a good request in which the last field of a path was set by set.
func goodWith(path []protoreflect.FieldDescriptor, set func(parent protoreflect.Message, field protoreflect.FieldDescriptor)) *infernov1.GenerateRequest {
	req := textRequest("hi")
	parent := req.ProtoReflect()
	for _, field := range path[:len(path)-1] {
		parent = parent.Mutable(field).Message()
	}
	set(parent, path[len(path)-1])
	return req
}

// Ids at and above the width of the logits wrote beside the request's own row, into its neighbours'. Every list of ids and every map by id is
// tried, those to come too. CVE-2026-93840, CVE-2026-93989.
func TestTokenIDsBeyondTheLogitsNeverReachTheEngine(t *testing.T) {
	s := play(part{ids: []int32{'x'}, finish: finished(engine.MaxTokens, 'x')})
	f := start(t, s)
	fields := 0
	generateFields(t, func(path []protoreflect.FieldDescriptor) {
		last := path[len(path)-1]
		if last.IsList() && last.Kind() != protoreflect.Uint32Kind || !last.IsList() && !(last.IsMap() && last.MapKey().Kind() == protoreflect.Uint32Kind) {
			return
		}
		fields++
		for _, id := range []uint32{vocabularySize, vocabularySize + 1, math.MaxInt32, 1 << 31, math.MaxUint32} {
			req := goodWith(path, func(parent protoreflect.Message, field protoreflect.FieldDescriptor) {
				if field.IsMap() {
					parent.Mutable(field).Map().Set(protoreflect.ValueOfUint32(id).MapKey(), parent.Mutable(field).Map().NewValue())
					return
				}
				parent.Mutable(field).List().Append(protoreflect.ValueOfUint32(id))
			})
			_, err := f.api.Generate(t.Context(), req)
			if grpcCode(err) != codes.InvalidArgument || len(s.requests) > 0 {
				t.Errorf("%s with id %d: %v, and the engine got %d requests", pathName(path), id, err, len(s.requests))
			}
		}
	})
	if fields < 5 {
		t.Errorf("%d lists and maps of token ids found, want at least 5", fields)
	}
}

// A count of 2³² made other servers allocate before they looked at it. Every number of a request is tried. CVE-2026-34756, CVE-2026-116173.
func TestHugeCountsTakeNoMemory(t *testing.T) {
	s := play(part{ids: []int32{'x'}, finish: finished(engine.MaxTokens, 'x')})
	f := start(t, s)
	if _, err := f.api.Generate(t.Context(), textRequest("hi")); err != nil { // what is made once is made
		t.Fatal(err)
	}
	generateFields(t, func(path []protoreflect.FieldDescriptor) {
		last := path[len(path)-1]
		if last.Kind() != protoreflect.Uint32Kind || last.IsList() || last.IsMap() {
			return
		}
		for _, n := range []uint32{129, 1 << 20, math.MaxInt32, math.MaxUint32} {
			req := goodWith(path, func(parent protoreflect.Message, field protoreflect.FieldDescriptor) {
				parent.Set(field, protoreflect.ValueOfUint32(n))
			})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := f.api.Generate(t.Context(), req)
			runtime.ReadMemStats(&after)
			if took := after.TotalAlloc - before.TotalAlloc; took > 4<<20 {
				t.Errorf("%s of %d: %d bytes of memory, %v", pathName(path), n, took, err)
			}
			for len(s.requests) > 0 {
				<-s.requests
			}
		}
	})
}

// A request that was refused, or that failed, ended others of the same batch, or the engine. CVE-2026-114051, CVE-2026-105756,
// CVE-2026-105757, CVE-2026-54235, CVE-2026-44223.
func TestBadRequestsLeaveARunningOneAlone(t *testing.T) {
	s := newScript()
	f := start(t, s)
	stream, err := f.api.GenerateStream(t.Context(), textRequest("hi"))
	if err != nil {
		t.Fatal(err)
	}
	running := <-s.requests
	method := methodNamed(t, "Generate")
	refusals := 0
	for i, c := range slices.Concat(samplingCases(withText), samplingContradictions(), stoppingCases(), stoppingContradictions()) {
		req := &infernov1.GenerateRequest{}
		if err := prototext.Unmarshal([]byte(c.request), req); err != nil {
			t.Fatal(err)
		}
		if c.code == codes.OK && len(refusedIn("", req.ProtoReflect())) == 0 {
			continue
		}
		payload, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.send(method, append(payload, c.wire...)); grpcCode(err) != codes.InvalidArgument {
			t.Fatalf("%s: %v", c.name, err)
		}
		refusals++
		if i%20 == 0 { // it goes on between them
			running.parts <- part{ids: []int32{'x'}}
			if m, err := stream.Recv(); err != nil || m.GetDeltas()[0].GetText() != "x" {
				t.Fatalf("after %s: %v, %v", c.name, m, err)
			}
		}
	}
	running.parts <- part{ids: []int32{'y'}, finish: finished(engine.MaxTokens, 'y')}
	if all, err := readAll(stream); err != nil || len(all) == 0 {
		t.Errorf("the running request ended with %v, %v", all, err)
	}
	if refusals < 100 {
		t.Errorf("%d refusals, want at least 100", refusals)
	}
}

// Names that a client chose became paths. CVE-2025-23316, CVE-2026-24209, CVE-2024-37032, CVE-2026-103663.
func TestModelNamesAreNoPaths(t *testing.T) {
	f := start(t, newScript())
	t.Chdir(t.TempDir())
	for _, name := range []string{"model", "dir/model"} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("GGUF"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	full, err := filepath.Abs("model")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"model", "./model", "dir/model", "dir/../model", full, "file://" + full, "//model"} {
		_, err := f.api.Generate(t.Context(), &infernov1.GenerateRequest{Model: name, Input: textRequest("hi").Input})
		want := codes.NotFound
		if len(name) > maxModelNameLen {
			want = codes.InvalidArgument
		}
		if grpcCode(err) != want {
			t.Errorf("%q: %v, want %v", name, err, want)
		}
	}
}

// Two requests of one id got each other's output. PYSEC-2026-4198.
func TestARequestIDIsNeverShared(t *testing.T) {
	s := newScript()
	f := start(t, s)
	first := textRequest("hi")
	first.RequestId = "same"
	stream, err := f.api.GenerateStream(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	running := <-s.requests
	second := textRequest("ho")
	second.RequestId = "same"
	_, err = f.api.Generate(t.Context(), second)
	wantStatus(t, err, codes.AlreadyExists, "DUPLICATE_REQUEST_ID")
	if len(s.requests) > 0 {
		t.Error("the engine got the second request")
	}
	running.parts <- part{ids: []int32{'x'}, finish: finished(engine.MaxTokens, 'x')}
	all, err := readAll(stream)
	if err != nil || len(all) == 0 || all[0].GetDeltas()[0].GetText() != "x" {
		t.Errorf("the first request: %v, %v", all, err)
	}
	s.begin = func(r *scripted) { r.parts <- part{ids: []int32{'y'}, finish: finished(engine.MaxTokens, 'y')} }
	if answer, err := f.api.Generate(t.Context(), second); err != nil || answer.GetCompletions()[0].GetText() != "y" {
		t.Errorf("the id once it is free: %v, %v", answer, err)
	}
}

// Names with line ends wrote lines of their own into logs. CVE-2024-0095.
func TestClientTextCannotForgeALogLine(t *testing.T) {
	f := start(t, newScript())
	const forged = "\ntime=2026-01-01T00:00:00Z level=ERROR msg=\"weights stolen\""
	for _, text := range []string{forged, "a\r" + forged, "\x1b[2K\x1b[1A" + forged, "\u2028" + forged, "\u0085" + forged} {
		for _, req := range []*infernov1.GenerateRequest{
			{Model: "m" + text, Input: textRequest("hi").Input}, {Model: "m", RequestId: text, Input: textRequest("hi").Input},
			{Model: text, RequestId: text},
		} {
			if _, err := f.api.Generate(t.Context(), req); grpcCode(err) != codes.InvalidArgument {
				t.Errorf("%q: %v", text, err)
			} else if strings.ContainsAny(err.Error(), "\n\r\x1b") {
				t.Errorf("the error has the client's control characters: %q", err)
			}
		}
	}
	for line := range strings.Lines(strings.Join(f.log.with(), "")) {
		if !strings.HasPrefix(line, "time=") || strings.HasPrefix(line, "time=2026-01-01T00:00:00Z") || strings.ContainsAny(line,
			"\x1b\u2028\u0085") {
			t.Errorf("a line of the log: %q", line)
		}
	}
}

// private is what errors tell of a server that should not: addresses of memory, lines of code, stacks, paths.
var private = regexp.MustCompile(`0x[0-9a-f]{6,}|\.go:\d+|goroutine \d|/root/|/home/|/tmp/|internal/`)

// Errors told addresses, paths and stacks. CVE-2026-22778, CVE-2026-47622.
func TestErrorsTellNothingOfTheServer(t *testing.T) {
	for _, c := range []struct {
		name   string
		engine Generator
	}{
		{"panic", &script{panics: "index out of range [5] with length 3 at /root/x.go:12 0xc000123456"}},
		{"error", &script{refuse: fmt.Errorf("open /home/me/weights: %w", io.ErrUnexpectedEOF)}},
		{"stream", play(part{err: errors.New("cuda: 0x7f0012345678 in /tmp/kernel.cu")})},
		{"panic of the stream", play(part{panics: "goroutine 7 [running]"})},
	} {
		f := start(t, c.engine)
		_, err := f.api.Generate(t.Context(), textRequest("hi"))
		if s := status.Convert(err); s.Code() != codes.Internal || private.MatchString(fmt.Sprint(s.Message(), s.Details())) {
			t.Errorf("%s: %v %v", c.name, err, s.Details())
		}
	}
}
