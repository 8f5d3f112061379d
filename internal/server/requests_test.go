package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// A requestCase is one request and what must become of it by the comments of the proto files, whether or not this server has the feature
// yet: while a field that the request sets is in the list `refused`, the case asks that just this is said of it. So a feature that lands
// takes its fields off that list, and nothing has to be changed here.
type requestCase struct {
	name    string
	request string // in text form
	wire    []byte // follows the request's bytes: what no client library sends

	code codes.Code // OK: it is taken
	at   string     // INVALID_ARGUMENT: what the violations name, with spaces between, or a part of it; what they may name too has ? behind, … is all
	says string     // in the message
}

// requestGroup is the cases of one method.
type requestGroup struct {
	method string // "Generate"
	cases  []requestCase
}

// requestGroups are all of them, by file.
func requestGroups() []requestGroup {
	return slices.Concat(inputGroups(), samplingGroups(), stoppingGroups(), outputGroups(), constraintGroups(), smallGroups(), wireGroups())
}

// TestRequestsAreAnsweredAsDocumented sends every case for real, and after each group a good request.
func TestRequestsAreAnsweredAsDocumented(t *testing.T) {
	s := play(part{ids: []int32{'x'}, finish: finished(engine.MaxTokens, 'x')})
	f := start(t, s)
	seen := map[string]bool{}
	for _, group := range requestGroups() {
		t.Run(group.method, func(t *testing.T) {
			method := methodNamed(t, group.method)
			for _, c := range group.cases {
				if key := group.method + "/" + c.name; seen[key] {
					t.Errorf("two cases have the name %q", key)
				} else {
					seen[key] = true
				}
				t.Run(c.name, func(t *testing.T) { c.run(t, f, s, method) })
			}
		})
		f.answersRight(t, s)
	}
	if len(seen) < 400 {
		t.Errorf("%d cases, want at least 400", len(seen))
	}
}

func (c *requestCase) run(t *testing.T, f *fixture, s *script, method protoreflect.MethodDescriptor) {
	message := dynamicpb.NewMessage(method.Input())
	if err := prototext.Unmarshal([]byte(c.request), message); err != nil {
		t.Fatal(err)
	}
	payload, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	err = f.send(method, append(payload, c.wire...))
	var submitted []*scripted
	for len(s.requests) > 0 {
		submitted = append(submitted, <-s.requests)
	}
	if status.Code(err) != codes.OK && len(submitted) > 0 {
		t.Errorf("the engine got a request that was refused: %v", err)
	}
	if pending := refusedIn("", message); len(pending) > 0 {
		c.checkRefused(t, err, pending)
		return
	}
	c.check(t, err)
}

// check compares the answer with what is documented.
func (c *requestCase) check(t *testing.T, err error) {
	t.Helper()
	if got := status.Code(err); got != c.code {
		t.Fatalf("got %v (%v), want %v", got, err, c.code)
	}
	if err == nil {
		return
	}
	if !strings.Contains(err.Error(), c.says) {
		t.Errorf("message %q, want one that says %q", err, c.says)
	}
	if len(err.Error()) > 4<<10 {
		t.Errorf("a message of %d bytes", len(err.Error()))
	}
	if told := private.FindString(err.Error()); told != "" && !strings.Contains(c.request, told) {
		t.Errorf("message %q tells %q", err, told)
	}
	if c.code != codes.InvalidArgument {
		return
	}
	if got := reasonOf(status.Convert(err)); got != "INVALID_FIELD" {
		t.Errorf("reason %q, want INVALID_FIELD", got)
	}
	found := faultsOf(status.Convert(err))
	want := strings.Fields(c.at)
	for field, text := range found {
		if !slices.ContainsFunc(want, func(at string) bool { return at == "…" || isAt(field, strings.TrimSuffix(at, "?")) }) {
			t.Errorf("violation at %q: %q; want them at %q", field, text, want)
		}
	}
	for _, at := range want {
		if at != "…" && !strings.HasSuffix(at, "?") && !slices.ContainsFunc(fieldsOf(found), func(field string) bool { return isAt(field, at) }) {
			t.Errorf("no violation at %q, only %q", at, found)
		}
	}
}

// isAt reports whether a violation's field is a path, or an element or a field of it.
func isAt(field, at string) bool {
	rest, ok := strings.CutPrefix(field, at)
	return ok && (rest == "" || rest[0] == '[' || rest[0] == '.')
}

func fieldsOf(found map[string]string) (fields []string) {
	for field := range found {
		fields = append(fields, field)
	}
	return fields
}

// checkRefused wants each pending field refused by name.
func (c *requestCase) checkRefused(t *testing.T, err error, pending []string) {
	t.Helper()
	found := faultsOf(wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD"))
	for _, field := range pending {
		if !strings.Contains(found[field], "not supported") {
			t.Errorf("%q is set and not supported yet, but the violations are %q", field, found)
		}
	}
}

// refusedIn are the fields of a message that are set and that this server refuses so far.
func refusedIn(parent string, m protoreflect.Message) (fields []string) {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		name := parent + string(field.Name())
		switch {
		case slices.Contains(refused, field.FullName()):
			fields = append(fields, name)
		case field.Message() != nil && !field.IsMap() && !field.IsList():
			fields = append(fields, refusedIn(name+".", value.Message())...)
		}
		return true
	})
	return fields
}

// answersRight sends a good request and checks the answer: the server goes on.
func (f *fixture) answersRight(t *testing.T, s *script) {
	t.Helper()
	answer, err := f.api.Generate(t.Context(), textRequest("hi"))
	if err != nil || len(answer.GetCompletions()) != 1 || answer.GetCompletions()[0].GetText() != "x" {
		t.Fatalf("a good request after all that: %v, %v", answer, err)
	}
	if r := <-s.requests; !slices.Equal(r.Prompt, append([]int32{bosID}, byteIDs("hi")...)) {
		t.Fatalf("a good request after all that has the prompt %v", r.Prompt)
	}
	health, err := infernov1.NewHealthServiceClient(f.conn).Check(t.Context(), &infernov1.CheckRequest{})
	if err != nil || health.GetReport().GetState() != infernov1.HealthState_HEALTH_STATE_SERVING {
		t.Fatalf("health after all that: %v, %v", health, err)
	}
}

// methodNamed finds a method of the three services by its name, "HealthService/Watch" where more than one has it.
func methodNamed(t *testing.T, name string) protoreflect.MethodDescriptor {
	t.Helper()
	services := []string{"InferenceService", "HealthService", "RegistryService"}
	if service, method, ok := strings.Cut(name, "/"); ok {
		services, name = []string{service}, method
	}
	for _, service := range services {
		full := protoreflect.FullName("inferno.v1." + service + "." + name)
		if d, err := protoregistry.GlobalFiles.FindDescriptorByName(full); err == nil {
			return d.(protoreflect.MethodDescriptor)
		}
	}
	t.Fatalf("no method %s", name)
	return nil
}

// send sends bytes as a request and reads what comes first; of a method that does not go on until it is told to stop, all.
func (f *fixture) send(method protoreflect.MethodDescriptor, payload []byte) error {
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	path := fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
	stream, err := f.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, path, grpc.ForceCodec(rawCodec{}),
		grpc.MaxCallRecvMsgSize(maxSendBytes))
	if err != nil {
		return err
	}
	if err := errors.Join(stream.SendMsg(payload), stream.CloseSend()); err != nil {
		return err
	}
	for {
		var answer []byte
		err := stream.RecvMsg(&answer)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case strings.HasPrefix(string(method.Name()), "Watch"):
			return nil
		}
	}
}

// rawCodec sends and receives bytes as they are, under the name of the codec that servers have.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }

func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = slices.Clone(data)
	return nil
}
